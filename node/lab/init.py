"""Process 1 of a lab's machine: makes its namespaces, mounts and name, then keeps its daemon running.

    python -m flota.node.lab.init LAB MACHINE

These words are how a machine is found again (machine.py). The first line on standard input is a Boot in JSON. The
machine writes "ready" when its namespaces are there, and waits for the line "go", by which time its cable is plugged
in. When the input ends before, whoever was making the lab is dead, and so is the machine.

The switch is a machine without daemon: it owns the bridge, and its process namespace is the parent of all nodes', so
that its death is the death of the lab.
"""

import json
import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from flota.node.lab import cgroups, kernel, places

_RESTART_SECONDS = 0.5
_NODE_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET


@dataclass(frozen=True)
class Boot:
    """How a machine is to be."""

    hostname: str
    cgroup: str
    # Process 1 of the switch as this machine sees it; 0 for the switch itself.
    switch_pid: int = 0
    # Files that take the place of the machine's own, and a node's disk: empty for the switch.
    hosts: str = ""
    disk: str = ""
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def line(self) -> bytes:
        """As the first line of the input."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    """Become the machine, two processes further down."""
    boot = Boot(**json.loads(_read_line()))
    try:
        os.setsid()
        if boot.switch_pid:
            kernel.enter(f"/proc/{boot.switch_pid}/ns/pid", kernel.CLONE_NEWPID)
            # A namespace can be made only from within the parent's, and process 1 there must be left to its init:
            # so one process more, which ends at once.
            if child := os.fork():
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        kernel.unshare(kernel.CLONE_NEWPID | (_NODE_NAMESPACES if boot.switch_pid else kernel.CLONE_NEWNET))
        if os.fork():
            os._exit(0)
        with places.machine_lock():  # Whoever removes the last lab removes the group above, too.
            cgroups.make(boot.cgroup)
        cgroups.enter(boot.cgroup)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
        if boot.switch_pid:
            # What the group is at this moment is the root of the machine's view.
            kernel.unshare(kernel.CLONE_NEWCGROUP)
            _furnish(boot)
    except OSError as error:
        print(f"failed {error}", flush=True)
        os._exit(1)
    print("ready", flush=True)
    if _read_line() != b"go":
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    _live(boot)


def _read_line() -> bytes:
    """One line of the input, not a byte more: what follows is for the process that goes on."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _furnish(boot: Boot) -> None:
    """Mounts and a name."""
    socket.sethostname(boot.hostname)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    resolver = Path(os.path.realpath("/etc/resolv.conf"))
    trees = cgroups.hierarchies()
    for covered in ("/proc", "/sys"):
        kernel.detach(covered)
    kernel.mount("tmpfs", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    _mount_sys(trees)
    files = {"hosts": Path("/etc/hosts"), "hostname": Path("/etc/hostname"), "resolv.conf": resolver}
    contents = {
        "hosts": boot.hosts,
        "hostname": f"{boot.hostname}\n",
        "resolv.conf": "# A lab has no way to the outside.\n",
    }
    for name, place in files.items():
        if place.is_relative_to("/run"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(contents[name])
        elif place.exists():
            file = Path("/run") / f".lab-{name}"
            file.write_text(contents[name])
            kernel.mount(str(file), place, flags=kernel.MS_BIND)


def _mount_sys(trees: list[cgroups.Hierarchy]) -> None:
    """/sys as this network namespace has it, control groups as seen from the machine's own.

    A version 2 tree beside version 1 ones is left out: crun and runc refuse such a mixture.
    """
    kernel.mount("sysfs", "/sys", "sysfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    if all(tree.unified for tree in trees):
        kernel.mount("cgroup2", cgroups.ROOT, "cgroup2", flags)
        cgroups.settle(cgroups.ROOT)
        return
    kernel.mount("tmpfs", cgroups.ROOT, "tmpfs", flags, "mode=755")
    for tree in trees:
        if not tree.unified:
            tree.path.mkdir()
            kernel.mount("cgroup", tree.path, "cgroup", flags, tree.options)
            for controller in tree.options.split(","):
                # cpu and cpuacct are often one tree under either name.
                link = cgroups.ROOT / controller
                if "=" not in controller and not link.exists():
                    link.symlink_to(tree.path.name)


def _live(boot: Boot) -> NoReturn:
    """Keep the daemon running, bury the dead, until SIGTERM."""
    daemon = _start(boot)
    ending = False
    while True:
        wait_for = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
        missing = bool(boot.command) and not daemon
        news = signal.sigtimedwait(wait_for, _RESTART_SECONDS) if missing else signal.sigwaitinfo(wait_for)
        if news is None:
            daemon = _start(boot)
        elif news.si_signo != signal.SIGCHLD:
            ending = True
            if daemon:
                os.kill(daemon, signal.SIGTERM)
        for pid, status in _dead():
            if pid == daemon:
                daemon = 0
                if not ending:
                    _tell_end(boot, status)
        if ending and not daemon:
            os._exit(0)


def _dead() -> list[tuple[int, int]]:
    found = []
    try:
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((one[0], os.waitstatus_to_exitcode(one[1])))
    except ChildProcessError:
        pass
    return found


def _start(boot: Boot) -> int:
    """Start the daemon; 0 when the machine has none."""
    if not boot.command:
        return 0
    log = os.open(Path(boot.disk) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        return os.posix_spawn(
            boot.command[0],
            boot.command,
            boot.environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            setsid=True,
            setsigmask=[],
        )
    except OSError as error:
        os.write(log, f"flota lab: cannot start {boot.command[0]}: {error.strerror}\n".encode())
        _tell_end(boot, 127)
        return 0
    finally:
        os.close(log)


def _tell_end(boot: Boot, status: int) -> None:
    """Leave word of a daemon that ended, for whoever waits for it."""
    with open(Path(boot.disk) / "ends", "a") as file:
        file.write(f"{status}\n")


if __name__ == "__main__":
    main()
