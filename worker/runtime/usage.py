"""What containers use: read from their control groups (v1 and v2), network namespaces and the machine's /proc/stat.

Figures are counters as the kernel has them. A container that ends meanwhile is left out; what a kernel does not count
is 0.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from flota.v1.tasks_pb2 import TaskStats
from flota.worker.runtime.machine import CGROUPS, Machine

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_US = 1000
# What "no limit" looks like on v1, about.
_UNLIMITED = 1 << 60
_STAT_FIELDS = 8


class Gauges:
    """Reads the groups below `machine.cgroup_parent`; `read` may be called on any thread."""

    def __init__(self, machine: Machine, cgroups: Path = CGROUPS, proc: Path = Path("/proc")) -> None:
        self._unified = machine.unified_cgroups
        self._parent = machine.cgroup_parent.strip("/")
        self._cgroups = cgroups
        self._proc = proc
        self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def read(self, containers: Mapping[str, int]) -> dict[str, TaskStats]:
        """Figures by container id. `containers`: id → first process."""
        machine, processors = self._machine_time()
        found = {}
        for container_id, pid in containers.items():
            stats = TaskStats(task_id=container_id)
            stats.read_at.FromNanoseconds(time.time_ns())
            stats.cpu.machine, stats.cpu.processors = machine, processors
            try:
                (self._read_v2 if self._unified else self._read_v1)(container_id, stats)
            except OSError:
                # It has ended.
                continue
            self._read_network(pid, stats)
            found[container_id] = stats
        return found

    def _machine_time(self) -> tuple[int, int]:
        lines = _text(self._proc / "stat").splitlines()
        total = sum(map(int, lines[0].split()[1 : _STAT_FIELDS + 1])) * _TICK_NS if lines else 0
        return total, sum(line.startswith("cpu") for line in lines) - 1

    def _read_v2(self, container_id: str, stats: TaskStats) -> None:
        group = self._cgroups / self._parent / container_id
        cpu, memory = _table(group / "cpu.stat", needed=True), _table(group / "memory.stat")
        stats.cpu.total, stats.cpu.user = cpu.get("usage_usec", 0) * _US, cpu.get("user_usec", 0) * _US
        stats.cpu.system = cpu.get("system_usec", 0) * _US
        stats.cpu.periods, stats.cpu.throttled_periods = cpu.get("nr_periods", 0), cpu.get("nr_throttled", 0)
        stats.cpu.throttled = cpu.get("throttled_usec", 0) * _US
        self._set_memory(stats, _number(group / "memory.current"), memory, memory.get("inactive_file", 0))
        self._set_limit(stats, _number(group / "memory.max"))
        stats.memory.peak, stats.memory.swap = _number(group / "memory.peak"), _number(group / "memory.swap.current")
        stats.memory.oom_kills = _table(group / "memory.events").get("oom_kill", 0)
        stats.pids, stats.pids_limit = _number(group / "pids.current"), _number(group / "pids.max")
        for line in _text(group / "io.stat").splitlines():
            device, *pairs = line.split()
            values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            stats.blocks.add(
                device=device,
                read_bytes=int(values.get("rbytes", 0)),
                written_bytes=int(values.get("wbytes", 0)),
                reads=int(values.get("rios", 0)),
                writes=int(values.get("wios", 0)),
            )

    def _read_v1(self, container_id: str, stats: TaskStats) -> None:
        def group(controller: str) -> Path:
            return self._cgroups / controller / self._parent / container_id

        stats.cpu.total = int((group("cpuacct") / "cpuacct.usage").read_text())
        stats.cpu.user = _number(group("cpuacct") / "cpuacct.usage_user")
        stats.cpu.system = _number(group("cpuacct") / "cpuacct.usage_sys")
        cpu, memory = _table(group("cpu") / "cpu.stat"), _table(group("memory") / "memory.stat")
        stats.cpu.periods, stats.cpu.throttled_periods = cpu.get("nr_periods", 0), cpu.get("nr_throttled", 0)
        stats.cpu.throttled = cpu.get("throttled_time", 0)
        usage = _number(group("memory") / "memory.usage_in_bytes")
        self._set_memory(stats, usage, memory, memory.get("total_inactive_file", 0))
        self._set_limit(stats, _number(group("memory") / "memory.limit_in_bytes"))
        stats.memory.peak = _number(group("memory") / "memory.max_usage_in_bytes")
        stats.memory.swap = memory.get("total_swap", 0)
        stats.memory.oom_kills = _table(group("memory") / "memory.oom_control").get("oom_kill", 0)
        stats.pids, stats.pids_limit = _number(group("pids") / "pids.current"), _number(group("pids") / "pids.max")
        for name, read, written in (
            ("blkio.throttle.io_service_bytes_recursive", "read_bytes", "written_bytes"),
            ("blkio.throttle.io_serviced_recursive", "reads", "writes"),
        ):
            _add_blkio(stats, _text(group("blkio") / name), read, written)

    @staticmethod
    def _set_memory(stats: TaskStats, usage: int, details: Mapping[str, int], droppable: int) -> None:
        stats.memory.usage, stats.memory.used = usage, usage - min(usage, droppable)
        stats.memory.details.update(details)

    def _set_limit(self, stats: TaskStats, limit: int) -> None:
        stats.memory.limit = limit if 0 < limit < _UNLIMITED else self._memory

    def _read_network(self, pid: int, stats: TaskStats) -> None:
        for line in _text(self._proc / str(pid) / "net/dev").splitlines()[2:]:
            name, _, rest = line.partition(":")
            values = list(map(int, rest.split()))
            if name.strip() == "lo" or len(values) < 12:
                continue
            received, sent = values[:4], values[8:12]
            network = stats.networks.add(name=name.strip())
            network.received_bytes, network.received_packets = received[0], received[1]
            network.received_errors, network.received_dropped = received[2], received[3]
            network.sent_bytes, network.sent_packets, network.sent_errors, network.sent_dropped = sent


def _add_blkio(stats: TaskStats, text: str, read: str, written: str) -> None:
    """Lines such as "8:0 Read 4096"."""
    known = {block.device: block for block in stats.blocks}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or words[1] not in ("Read", "Write"):
            continue
        block = known.get(words[0])
        if block is None:
            block = known[words[0]] = stats.blocks.add(device=words[0])
        setattr(block, read if words[1] == "Read" else written, int(words[2]))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _number(file: Path) -> int:
    """A file's number; 0 for "max" and for what is not there."""
    text = _text(file).strip()
    return int(text) if text.isdigit() else 0


def _table(file: Path, *, needed: bool = False) -> dict[str, int]:
    """Lines of a name and a number. Raises FileNotFoundError if it is `needed`."""
    text = file.read_text() if needed else _text(file)
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
