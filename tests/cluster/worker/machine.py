"""One machine with a real worker process on it, and the manager's side that it talks to.

The machine is a network and mount namespace kept by a sleeping process, so that the worker in it may be killed and
started again while its containers go on. It is joined to this machine by a cable of two addresses.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from flota.node.lab.busybox import write_archive
from flota.node.process import ENVIRONMENT
from flota.rpc.channels import local_channel
from flota.v1.local_pb2 import AgentStatusRequest, LoadImageRequest
from flota.v1.local_pb2_grpc import AgentStub
from flota.v1.objects_pb2 import Node, Task
from flota.v1.process_pb2 import WorkerConfig
from flota.v1.specs_pb2 import ContainerSpec
from flota.v1.types_pb2 import TaskState, TaskStatus
from tests.addresses import reserve
from tests.unit.dispatcher.swarm import Swarm

if TYPE_CHECKING:
    from flota.v1.local_pb2_grpc import AgentAsyncStub

CGROUPS = Path("/sys/fs/cgroup")
ROOT = Path(__file__).parents[3]
T = TypeVar("T")
RUNNING = TaskState.TASK_STATE_RUNNING
PATIENCE = 60.0


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


@cache
def _block() -> int:
    """Where this process's four addresses of 203.0.113.0/24 begin; its machines have them one after the other."""
    return next(first for first in range(0, 256, 4) if reserve(f"203.0.113.{first}/30"))


class Machine:
    """`address` is the machine's, `gateway` this side's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state, self.run_directory = directory / "state", directory / "run"
        self.run_directory.mkdir()
        self.name = f"wk{os.getpid()}"
        self.cgroup = f"/{self.name}"
        block = _block()
        self.gateway, self.address = f"203.0.113.{block + 1}", f"203.0.113.{block + 2}"
        self._process: asyncio.subprocess.Process | None = None
        self._boots = 0
        self.power_on()

    def power_on(self, *, run_on_disk: bool = False) -> None:
        """A kernel that was just started: namespaces with nothing in them, another boot id.

        `run_on_disk`: the run directory is not in memory, as it should be, and has kept what was in it.
        """
        self._boots += 1
        boot_id = self.directory / f"boot{self._boots}"
        boot_id.write_text(f"00000000-0000-0000-0000-{self._boots:012}\n")
        script = (
            "umount /sys/fs/cgroup/unified 2>/dev/null; "
            f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id && "
            + ("" if run_on_disk else f"mount -t tmpfs tmpfs {self.run_directory} && ")
            + "echo ready && exec sleep infinity"
        )
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--net", "--uts", "sh", "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n"
        try:
            pid = str(self._keeper.pid)
            run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", pid)
            run("ip", "addr", "add", f"{self.gateway}/30", "dev", self.name)
            run("ip", "link", "set", self.name, "up")
            for line in (f"addr add {self.address}/30 dev eth0", "link set eth0 up", "link set lo up"):
                run(*self.entering("ip", *line.split()))
        except BaseException:
            self.close()
            raise

    def entering(self, *command: str) -> list[str]:
        """The command on this machine."""
        return ["nsenter", f"--target={self._keeper.pid}", "--mount", "--net", "--uts", "--", *command]

    @property
    def socket(self) -> Path:
        return self.directory / "worker.sock"

    def config(self, identity: Path | None, managers: Iterable[str] = (), **values: Any) -> WorkerConfig:
        return WorkerConfig(
            node_id="w1",
            hostname="machine-one",
            identity_directory=str(identity or ""),
            state_directory=str(self.state),
            run_directory=str(self.run_directory),
            socket=str(self.socket),
            managers=managers,
            data_path_address=self.address,
            cgroup_parent=self.cgroup,
            **values,
        )

    async def start(self, config: WorkerConfig, die_at: str = "") -> str:
        """Start a worker; gives back what it says: "ready", or why not. `die_at`: see dying.py."""
        module = "tests.cluster.worker.dying" if die_at else "flota.worker"
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.entering(sys.executable, "-m", module),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=ENVIRONMENT | os.environ | {"FLOTA_LOG": "info", "DIE_AT": die_at, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        return await self.tell(config)

    async def tell(self, config: WorkerConfig) -> str:
        """Write one more line to it; what it says to that."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json_format.MessageToJson(config, indent=None).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            return (await self._process.stdout.readline()).decode().strip()

    async def kill(self) -> None:
        """kill -9"""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """As the daemon does: its end of the pipe is closed."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    @asynccontextmanager
    async def agent(self) -> AsyncIterator["AgentAsyncStub"]:
        async with local_channel(f"unix://{self.socket}") as channel:
            yield AgentStub(channel)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def pid(self) -> int:
        """A process on this machine."""
        return self._keeper.pid

    @property
    def worker(self) -> int:
        """The worker's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its worker does."""
        return self._process is not None and self._process.returncode is None

    def power_off(self) -> None:
        """Everything that is not on the disk is gone: processes, mounts, interfaces, control groups."""
        self.close()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    def groups(self) -> list[Path]:
        """Control groups of containers and their monitors, deepest first."""
        ours = [group for kind in ("", "*/") for group in CGROUPS.glob(f"{kind}{self.name}")]
        found = [one for group in ours for one in (group, *group.glob("*/"), *group.glob("*/*/"))]
        return sorted(found, key=lambda path: len(path.parts), reverse=True)

    def processes(self) -> set[int]:
        """Processes of containers."""
        return {pid for group in self.groups() if "monitors" not in group.parts for pid in _processes(group)}

    def close(self) -> None:
        """Take everything away, also what a dead worker left."""
        self._end_processes()
        self._keeper.kill()
        self._keeper.wait()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()
        run("ip", "link", "del", self.name, check=False)

    def _end_processes(self) -> None:
        deadline = time.monotonic() + PATIENCE
        # Monitors first: whoever has no power sees no other's end.
        groups = sorted(self.groups(), key=lambda group: group.name != "monitors")
        while any(pids := [pid for group in groups for pid in _processes(group)]):
            assert time.monotonic() < deadline, "processes do not end"
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for group in self.groups():
            with suppress(OSError):
                group.rmdir()


def _processes(group: Path) -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return []


class Cluster:
    """A store with a dispatcher, and one node `w1` whose worker is real."""

    def __init__(self, swarm: Swarm, machine: Machine) -> None:
        self.swarm = swarm
        self.machine = machine

    def config(self, **values: Any) -> WorkerConfig:
        return self.machine.config(self.machine.directory / "w1", [self.swarm.address], **values)

    async def boot(self, *, die_at: str = "", **values: Any) -> None:
        """Start the worker as a member; it has an image `busybox`. `die_at`: see dying.py."""
        assert await self.machine.start(self.config(**values), die_at) == "ready", self.machine.log()
        async with self.machine.agent() as agent:
            if not (await agent.Status(AgentStatusRequest())).images:
                archive = self.machine.directory / "busybox.tar"
                write_archive(archive)
                await agent.LoadImage(iter([LoadImageRequest(data=archive.read_bytes())]))

    def task(self, id: str, *command: str, **spec: Any) -> Task:
        """A task on the node, as the scheduler leaves it; a single word with spaces is a line for the shell."""
        words = ["/bin/sh", "-c", command[0]] if len(command) == 1 and " " in command[0] else list(command)
        made = Task(id=id.ljust(25, "0"), service_id="svc", node_id="w1", slot=1, desired_state=RUNNING)
        made.service_annotations.name = "web"
        made.spec.container.CopyFrom(ContainerSpec(image="busybox", command=words, **spec))
        made.status.state = TaskState.TASK_STATE_ASSIGNED
        return made

    def log_file(self, task: Task) -> Path:
        """Where the node keeps what a task said."""
        return self.machine.state / "tasks" / task.id / "log"

    def output(self, task: Task) -> list[str]:
        """What a task said, without times and streams."""
        with suppress(FileNotFoundError):
            return [line.split(" ", 3)[3] for line in self.log_file(task).read_text().splitlines()]
        return []

    def has_container(self, task: Task) -> bool:
        """Whether anything of the task's container is there."""
        places = (self.machine.run_directory / "tasks", self.machine.run_directory / "runtime")
        inside = [f"/proc/{self.machine.pid}/root{place}/{task.id}" for place in places]
        return any(map(os.path.exists, inside)) or any(CGROUPS.glob(f"*{self.machine.cgroup}/{task.id}"))

    def node(self) -> Node:
        """The machine's node, as the managers have it."""
        stored = self.swarm.store.nodes.get("w1")
        assert stored is not None
        return stored

    async def want(self, task: Task, state: "TaskState.ValueType") -> None:
        """Change what is wanted of a task."""
        await self.swarm.change(task.id, lambda one: setattr(one, "desired_state", state))

    def status(self, task: Task) -> TaskStatus:
        stored = self.swarm.store.tasks.get(task.id)
        assert stored is not None
        return stored.status

    async def until(self, task: Task, *states: "TaskState.ValueType") -> TaskStatus:
        """Wait until the managers know the task to be in one of `states`."""
        await self._until(lambda: self.status(task).state in states, lambda: f"{task.id}: {self.status(task)}")
        return self.status(task)

    async def _until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        try:
            await self.swarm.until(condition)
        except TimeoutError:
            raise AssertionError(f"{what()}\n{self.machine.log()[-4000:]}") from None


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(int(value * 1e9))
    return made


async def eventually(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Ask until yes: for what other processes do in their own time."""
    async with asyncio.timeout(seconds):
        while True:
            if value := condition():
                return value
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
