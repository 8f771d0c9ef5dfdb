"""Control groups: one per container below the node's parent group, and one for all monitors.

crun makes and configures a container's group; here is what it is asked for afterwards: who is in it, whether the
kernel killed for want of memory, and its removal. On cgroup v1 a group is a directory in every hierarchy.

On v2 a controller works in a group only if every group above passes it on, and systemd, which has a say at the top too,
may take back there what no unit of its own needs any longer. It cannot while a group passes it on further down, so the
parent group does, from the start and for all it has.

Moving a process into a group takes a lock that, when it was not taken for a while, waits for a grace period of RCU:
5 to 20 ms. Every container's process is moved once, so `stir` takes the lock beforehand.
"""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flota.worker.runtime.machine import CGROUPS, Machine

_MONITORS = "monitors"
# The hierarchies of v1 that matter for a monitor: systemd ends services by the first, and limits of the
# daemon's own service must not hold for what outlives it.
_MONITOR_HIERARCHIES = ("systemd", "memory", "pids")
# What all containers together count when the machine has too much to do, beside 100 (v2) or 1024 (v1) of every other
# group at the top, the daemon's too: a node whose containers want everything still answers its managers.
_WEIGHING_HIERARCHIES = ("cpu", "blkio")
_WEIGHTS = {"cpu.weight": "50", "io.weight": "default 50", "cpu.shares": "512", "blkio.bfq.weight": "50"}


class Cgroups:
    """The groups below `machine.cgroup_parent`. All methods are quick, but may wait for the kernel's cgroup lock."""

    def __init__(self, machine: Machine, root: Path = CGROUPS) -> None:
        self._unified = machine.unified_cgroups
        self._parent = machine.cgroup_parent.strip("/")
        self._hierarchies = [root] if self._unified else _v1_hierarchies(root)
        self._monitors = [
            group / self._parent / _MONITORS
            for group in self._hierarchies
            if self._unified or _controls(group, _MONITOR_HIERARCHIES)
        ]
        memory = root if self._unified else root / "memory"
        self._memory = memory / self._parent
        self._own = _own_group(self._hierarchies[0], self._unified)

    def prepare(self) -> None:
        """Make the parent group, where it is new with its weight, and the monitors' group."""
        for hierarchy in self._hierarchies:
            group = hierarchy / self._parent
            weighs = self._unified or _controls(hierarchy, _WEIGHING_HIERARCHIES)
            # What somebody has set for a group that is there stays.
            new = weighs and not group.exists()
            if new:
                group.mkdir(parents=True)
            if self._unified:
                for above in [*reversed(group.relative_to(hierarchy).parents), group.relative_to(hierarchy)]:
                    _pass_on(hierarchy / above)
            if new:
                _weigh(group)
        for group in self._monitors:
            group.mkdir(parents=True, exist_ok=True)

    def place_monitor(self, pid: int) -> None:
        """Move a process out of the daemon's groups, so that whoever ends those does not end it."""
        for group in self._monitors:
            try:
                _write(group / "cgroup.procs", str(pid))
            except FileNotFoundError:
                # An earlier worker that stops takes empty groups with it.
                group.mkdir(parents=True, exist_ok=True)
                _write(group / "cgroup.procs", str(pid))

    def stir(self) -> None:
        """Move ourselves to where we are: what is moved in the next 10 ms or so does not wait."""
        with suppress(OSError):
            _write(self._own / "cgroup.procs", str(os.getpid()))

    def out_of_memory(self, container_id: str) -> bool:
        """Whether the kernel killed a process of the container because its memory limit was reached."""
        name = "memory.events" if self._unified else "memory.oom_control"
        with suppress(FileNotFoundError):
            for line in (self._memory / container_id / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def members(self, container_id: str) -> set[int]:
        """The processes of a container, those of its inner groups too."""
        found: set[int] = set()
        for top in self._groups(container_id):
            for directory, _, _ in os.walk(top):
                with suppress(OSError):
                    found |= set(map(int, Path(directory, "cgroup.procs").read_text().split()))
        return found

    def is_frozen(self, container_id: str) -> bool:
        """Whether its processes are to stand still."""
        if self._unified:
            return _text(self._memory / container_id / "cgroup.freeze") == "1"
        return _text(CGROUPS / "freezer" / self._parent / container_id / "freezer.state") in ("FROZEN", "FREEZING")

    def stands_still(self, container_id: str) -> bool:
        """Whether all of its processes do, a moment after they were told to (v2; v1's freezer is waited for)."""
        events = self._memory / container_id / "cgroup.events"
        return not self._unified or not events.exists() or "frozen 1" in _text(events).splitlines()

    def allow_processes(self, container_id: str) -> None:
        """As many processes in a container as the machine has. Raises OSError."""
        group = self._memory if self._unified else CGROUPS / "pids" / self._parent
        _write(group / container_id / "pids.max", "max")

    def kill(self, container_id: str) -> None:
        """SIGKILL for every process of a container."""
        if self._unified:
            try:
                _write(self._memory / container_id / "cgroup.kill", "1")
                return
            except FileNotFoundError:
                # A kernel before 5.14, or the group is gone.
                pass
        for pid in self.members(container_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, container_id: str) -> bool:
        """Take the container's group away; False while a process is still leaving it."""
        removed = [_remove(group) for group in self._groups(container_id)]
        return all(removed)

    def close(self) -> None:
        """Take away the monitors' and the parent group, where nobody is in them."""
        for group in [*self._monitors, *(hierarchy / self._parent for hierarchy in self._hierarchies)]:
            with suppress(OSError):
                group.rmdir()

    def _groups(self, container_id: str) -> list[Path]:
        return [hierarchy / self._parent / container_id for hierarchy in self._hierarchies]


def _own_group(hierarchy: Path, unified: bool) -> Path:
    """The group this process is in, in one hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        names = controllers.removeprefix("name=").split(",")
        if (unified and not controllers) or hierarchy.name in names or hierarchy.name == controllers:
            return hierarchy / group.lstrip("/")
    return hierarchy


def _controls(hierarchy: Path, controllers: Iterable[str]) -> bool:
    """Whether a hierarchy of v1 is one of these; several may share one, as in `cpu,cpuacct`."""
    return not set(controllers).isdisjoint(hierarchy.name.split(","))


def _pass_on(group: Path) -> None:
    """Have all controllers of a group in those below it, where the kernel lets us (v2)."""
    for controller in _text(group / "cgroup.controllers").split():
        # One write each, for the kernel takes a list wholly or not at all.
        with suppress(OSError):
            _write(group / "cgroup.subtree_control", f"+{controller}")


def _weigh(group: Path) -> None:
    for file, weight in _WEIGHTS.items():
        # Each kernel has some of them.
        with suppress(OSError):
            _write(group / file, weight)


def _v1_hierarchies(root: Path) -> list[Path]:
    # Names of two controllers on one hierarchy (cpu, cpuacct) are links to it.
    return sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))


def _text(file: Path) -> str:
    """What is in a file; empty when it is not there."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _remove(group: Path) -> bool:
    try:
        group.rmdir()
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    # Groups a container made within its own; and where no hierarchy is mounted (the place of an unmounted
    # cgroup2) crun leaves plain directories with a plain file in them. A real group's file cannot be unlinked.
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.unlink(Path(directory, "cgroup.procs"))
        with suppress(OSError):
            os.rmdir(directory)
    return not group.exists()
