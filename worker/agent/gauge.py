"""How full this machine is, and what it is about to run out of.

A pressure begins when little is left and ends when there is clearly more again, so that a node at the edge does not
come and go with each heartbeat. What is measured is cheap: a few files of /proc and one statvfs.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flota.v1.objects_pb2 import NodeUsage
from flota.v1.types_pb2 import NodePressure

DISK, MEMORY = NodePressure.NODE_PRESSURE_DISK, NodePressure.NODE_PRESSURE_MEMORY
PIDS = NodePressure.NODE_PRESSURE_PIDS
# A pressure begins below this share of all, or this much if that is less (bytes); it ends at half as much again.
_SHARE = 0.05
_DISK_ENOUGH = 1 << 30
_MEMORY_ENOUGH = 256 << 20
_RELIEF = 1.5
_BUSY_FIELDS, _IDLE = 8, (3, 4)


class Gauge:
    """`look` at each heartbeat; `pressures` are those of the last look."""

    def __init__(self, directory: Path, containers: Callable[[], int] = lambda: 0, proc: Path = Path("/proc")) -> None:
        """`directory`: on the file system that matters."""
        self._directory = directory
        self._containers = containers
        self._proc = proc
        self._cpu = (0, 0)
        self.pressures: tuple[NodePressure.ValueType, ...] = ()

    def look(self) -> NodeUsage:
        """Measure. What cannot be read is 0, and no pressure."""
        usage = NodeUsage(containers=self._containers())
        usage.measured_at.FromNanoseconds(time.time_ns())
        usage.cpu = self._busy()
        usage.load = self._number("loadavg", 0)
        memory = self._memory()
        usage.memory_total, usage.memory_available = memory.get("MemTotal", 0), memory.get("MemAvailable", 0)
        try:
            disk = os.statvfs(self._directory)
            usage.disk_total, usage.disk_available = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
            usage.inodes_total, usage.inodes_available = disk.f_files, disk.f_favail
        except OSError:
            pass
        entities = self._text("loadavg").split()[3:4]
        usage.pids = int(entities[0].partition("/")[2]) if entities else 0
        limits = [int(self._number(f"sys/kernel/{name}", 0)) for name in ("pid_max", "threads-max")]
        usage.pids_limit = min((limit for limit in limits if limit), default=0)
        self.pressures = pressures_of(usage, self.pressures)
        return usage

    def _busy(self) -> float:
        fields = self._text("stat").partition("\n")[0].split()[1 : _BUSY_FIELDS + 1]
        ticks = [int(field) for field in fields]
        now = (sum(ticks), sum(ticks[place] for place in _IDLE)) if len(ticks) == _BUSY_FIELDS else (0, 0)
        (before, idle_before), self._cpu = self._cpu, now
        passed = now[0] - before
        return 1 - (now[1] - idle_before) / passed if before and passed > 0 else 0.0

    def _memory(self) -> dict[str, int]:
        pairs = (line.split() for line in self._text("meminfo").splitlines())
        return {pair[0].rstrip(":"): int(pair[1]) << 10 for pair in pairs if len(pair) == 3}

    def _number(self, name: str, place: int) -> float:
        words = self._text(name).split()
        return float(words[place]) if words else 0.0

    def _text(self, name: str) -> str:
        try:
            return (self._proc / name).read_text()
        except OSError:
            return ""


def pressures_of(usage: NodeUsage, before: Sequence["NodePressure.ValueType"]) -> "tuple[NodePressure.ValueType, ...]":
    """What is short, given what was short `before`."""

    def short(kind: "NodePressure.ValueType", left: int, total: int, enough: float) -> bool:
        limit = min(total * _SHARE, enough)
        return bool(total) and left < (limit * _RELIEF if kind in before else limit)

    endless = float("inf")
    found = []
    if short(DISK, usage.disk_available, usage.disk_total, _DISK_ENOUGH) or short(
        DISK, usage.inodes_available, usage.inodes_total, endless
    ):
        found.append(DISK)
    if short(MEMORY, usage.memory_available, usage.memory_total, _MEMORY_ENOUGH):
        found.append(MEMORY)
    if short(PIDS, max(0, usage.pids_limit - usage.pids), usage.pids_limit, endless):
        found.append(PIDS)
    return tuple(found)
