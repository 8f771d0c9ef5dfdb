"""A lab: a whole cluster on one machine. Each node has namespaces, an address, a hostname, /run and cgroups of its own.

    with Lab.up("lab", managers=3, workers=2) as lab:
        lab.nodes["m1"].flota("service", "ls")
        lab.kill("m1")

Everything a lab makes can be found again from its name, so `Lab.find(name).down()` cleans up after any crash. Until
`up` has returned, the death of its process is the death of the lab's processes.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from flota.node.lab import busybox, cgroups, machine, places, wire
from flota.node.lab.errors import LabError, NoSuchLab
from flota.node.lab.init import Boot
from flota.worker.runtime import moves

# Of a node's log, in the note of an error.
_LAST_LINES = 20


def _silent(line: str) -> None:
    pass


class LabNode:
    """One node, up or down."""

    def __init__(self, lab: str, name: str, address: str) -> None:
        self._lab = lab
        self.name = name
        self.address = address
        self.ipv6_address = places.ipv6_of(address)

    @property
    def pid(self) -> int:
        """Its process 1. Raises LabError when it is down."""
        pid = machine.find(self._lab).get(self.name)
        if pid is None:
            raise LabError(f"node {self.name} of lab {self._lab} is down (flota lab start {self.name} boots it)")
        return pid

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self.name in machine.find(self._lab)

    @property
    def run_directory(self) -> Path:
        """Its /run, as seen from outside."""
        return places.run_directory(self._lab) / self.name / "run"

    @property
    def disk(self) -> Path:
        """What of it survives its death: the daemon's state directory `flota`, the daemon's `log`."""
        return places.disk(self._lab, self.name)

    def last_words(self) -> str:
        """The end of its daemon's log."""
        try:
            return "\n".join((self.disk / "log").read_text(errors="replace").splitlines()[-_LAST_LINES:])
        except FileNotFoundError:
            return ""

    @property
    def host(self) -> str:
        """unix:///… of the daemon's socket, as seen from outside."""
        return f"unix://{self.run_directory}/flota/flota.sock"

    def environment(self) -> dict[str, str]:
        """FLOTA_HOST and DOCKER_HOST that point at this node from outside."""
        return {"FLOTA_HOST": self.host, "DOCKER_HOST": f"unix://{self.run_directory}/flota/docker.sock"}

    def exec(
        self, argv: Sequence[str], *, check: bool = True, input: str | None = None, timeout: float | None = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, its output caught. Raises LabError with the output when `check` and it failed."""
        process = subprocess.Popen(
            machine.entering(self.pid, argv),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=machine.environment(),
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: {' '.join(argv)}: no end after {timeout} s") from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if check and process.returncode:
            told = (errors + output).strip()
            raise LabError(f"{self.name}: {' '.join(argv)}: exit status {process.returncode}: {told}")
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def flota(self, *argv: str, check: bool = True, timeout: float | None = 180) -> str:
        """Run `flota …` inside; gives its standard output."""
        return self.exec(["flota", *argv], check=check, timeout=timeout).stdout


class Lab:
    """One lab. All methods block; in async code call them with asyncio.to_thread."""

    def __init__(self, name: str, plan: places.Plan | None) -> None:
        self.name = name
        self.plan = plan
        addresses = plan.addresses() if plan else {}
        self.nodes = {node: LabNode(name, node, address) for node, address in addresses.items()}

    @classmethod
    def up(
        cls,
        name: str = "lab",
        managers: int = 3,
        workers: int = 2,
        load: Sequence[Path] = (),
        swarm: bool = True,
        *,
        command: Sequence[str] = (),
        heartbeat: float = 0,
        say: Callable[[str], None] = _silent,
    ) -> "Lab":
        """Boot the nodes m1…, w1… and, with `swarm`, make them one cluster with every node READY.

        `load` are images for every node, beside busybox:latest. `command` runs on each node in place of flota's
        daemon; there are neither images nor a swarm then. `heartbeat` is the swarm's period in seconds, 0 its own
        default: a node that misses three is DOWN. Raises LabError, and then nothing is left.
        """
        places.check_name(name)
        if not 1 <= managers <= places.MOST_MANAGERS or not 0 <= workers <= places.MOST_WORKERS:
            limits = f"1 to {places.MOST_MANAGERS} managers and up to {places.MOST_WORKERS} workers are allowed"
            raise LabError(f"invalid size of {managers} managers and {workers} workers: {limits}")
        for file in load:
            if not file.is_file():
                raise LabError(f"invalid image {str(file)!r}: a file is needed, as docker save makes it")
        machine.check_tools()
        # A node cannot: it has a cgroup namespace of its own.
        moves.free()
        plan = places.claim(name, managers, workers, tuple(command))
        lab = cls(name, plan)
        try:
            switch = lab._boot_switch()
            lab._boot(list(lab.nodes))
            say(f"{len(lab.nodes)} nodes are up on {plan.subnet}")
            if not command:
                lab._form(load, swarm, heartbeat, say)
            switch.go()
        except BaseException as error:
            # With the nodes their logs go.
            for node in lab.nodes.values():
                if words := node.last_words():
                    error.add_note(f"{node.name} said last:\n{words}")
            lab.down()
            raise
        return lab

    @classmethod
    def find(cls, name: str = "lab") -> "Lab":
        """The lab of that name, whatever state it is in. Raises NoSuchLab."""
        if name not in cls.names():
            there = ", ".join(cls.names())
            raise NoSuchLab(f"there is no lab {name!r} ({f'there is {there}' if there else 'flota lab up makes one'})")
        return cls(name, places.Plan.read(name))

    @classmethod
    def names(cls) -> list[str]:
        """Every lab on this machine."""
        return sorted({*places.names(), *(lab for lab, _ in machine.processes().values())})

    def node(self, name: str) -> LabNode:
        """The node of that name. Raises LabError."""
        if name not in self.nodes:
            raise LabError(f"there is no node {name!r} in lab {self.name} (there is {', '.join(self.nodes) or 'none'})")
        return self.nodes[name]

    def kill(self, node: str) -> None:
        """The node loses power: its link is cut, then everything in it is killed, containers and all."""
        self.node(node)
        switch = self._switch()
        wire.cut(switch, node)
        machine.kill(self.name, [node])
        (places.run_directory(self.name) / node / "run").unlink(missing_ok=True)
        cgroups.remove(places.cgroup(self.name, node))

    def start(self, node: str) -> None:
        """Boot a killed node again from its disk."""
        if self.node(node).running:
            raise LabError(f"node {node} of lab {self.name} is running")
        self._boot([node])

    def partition(self, a: Collection[str], b: Collection[str]) -> None:
        """No packet passes between a node of `a` and one of `b`. Adds to earlier partitions."""
        for node in (*a, *b):
            self.node(node)
        if both := set(a) & set(b):
            raise LabError(f"a node cannot be on both sides: {', '.join(sorted(both))}")
        if not a or not b:
            raise LabError("a partition needs a node on either side")
        wire.partition(self._switch(), a, b)

    def heal(self) -> None:
        """End all partitions."""
        wire.heal(self._switch())

    def down(self) -> None:
        """Remove everything. No error when parts are gone already."""
        machine.kill(self.name)
        wire.remove_host_link(self.name)
        cgroups.remove(f"{places.CGROUP}/{self.name}")
        for directory in (places.STATE / self.name, places.run_directory(self.name)):
            shutil.rmtree(directory, ignore_errors=True)
        places.forget_parents()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _switch(self) -> int:
        pid = machine.find(self.name).get(places.SWITCH)
        if pid is None or self.plan is None:
            raise LabError(f"lab {self.name} is not whole (flota lab down --name {self.name} removes what is left)")
        return pid

    def _boot_switch(self) -> machine.Booting:
        assert self.plan is not None
        how = Boot(hostname=places.SWITCH, cgroup=places.cgroup(self.name, places.SWITCH))
        switch = machine.boot(self.name, places.SWITCH, how)
        switch.wait_until_ready()
        wire.lay(self.name, self.plan, switch.pid)
        return switch

    def _boot(self, names: Sequence[str]) -> None:
        """Boot nodes, all at once. The switch must be there."""
        switch = self._switch()
        booting = []
        try:
            for name in names:
                # What an earlier life of the node has left.
                cgroups.remove(places.cgroup(self.name, name))
                places.disk(self.name, name).mkdir(parents=True, exist_ok=True)
                (places.disk(self.name, name) / "ends").unlink(missing_ok=True)
                booting.append(machine.boot(self.name, name, self._how(name, switch)))
            for one in booting:
                one.wait_until_ready()
                node = self.nodes[one.name]
                node.run_directory.parent.mkdir(exist_ok=True)
                node.run_directory.unlink(missing_ok=True)
                node.run_directory.symlink_to(f"/proc/{one.pid}/root/run")
                wire.plug(switch, one.name, one.pid, node.address)
                one.go()
        except BaseException:
            for one in booting:
                one.give_up()
            raise

    def _how(self, node: str, switch: int) -> Boot:
        assert self.plan is not None
        disk = places.disk(self.name, node)
        daemon = [sys.executable, "-P", "-m", "flota.node", "--state-dir", str(disk / "flota")]
        return Boot(
            hostname=node,
            cgroup=places.cgroup(self.name, node),
            switch_pid=switch,
            hosts="127.0.0.1 localhost\n" + "".join(f"{one.address} {one.name}\n" for one in self.nodes.values()),
            disk=str(disk),
            command=list(self.plan.command) or daemon,
            environment=machine.environment(),
        )

    def _form(self, load: Sequence[Path], swarm: bool, heartbeat: float, say: Callable[[str], None]) -> None:
        # Late: gRPC and messages are a tenth of a second, and the nodes are booting.
        from flota.node.lab import forming

        members = [
            forming.Member(node.name, node.address, node.host, node.name.startswith("m"))
            for node in self.nodes.values()
        ]
        # Among the lab's own files, so that it goes with them when this process is killed.
        with tempfile.TemporaryDirectory(prefix="images-", dir=places.run_directory(self.name)) as folder:
            archive = Path(folder) / f"{busybox.REFERENCE}.tar"
            busybox.write_archive(archive)
            asyncio.run(forming.form(self.name, members, [archive, *load], swarm, heartbeat, say))
