"""Figures of containers, from files as kernels with cgroup v1 and v2 write them."""

from dataclasses import replace
from pathlib import Path

import pytest

from flota.worker.runtime.machine import Machine
from flota.worker.runtime.usage import Gauges

MACHINE = Machine("/flota", True, True, "", frozenset(), {}, True)
V2 = {
    "flota/c1/cpu.stat": "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 9\nnr_throttled 4\n"
    "throttled_usec 70\n",
    "flota/c1/memory.current": "1000000\n",
    "flota/c1/memory.max": "67108864\n",
    "flota/c1/memory.peak": "2000000\n",
    "flota/c1/memory.swap.current": "4096\n",
    "flota/c1/memory.stat": "anon 1\ninactive_file 300000\nworkingset_x 2\n",
    "flota/c1/memory.events": "low 0\noom 2\noom_kill 1\n",
    "flota/c1/pids.current": "3\n",
    "flota/c1/pids.max": "max\n",
    "flota/c1/io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
}
V1 = {
    "cpuacct/flota/c1/cpuacct.usage": "5000000\n",
    "cpuacct/flota/c1/cpuacct.usage_user": "3000000\n",
    "cpuacct/flota/c1/cpuacct.usage_sys": "2000000\n",
    "cpu/flota/c1/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 70000\n",
    "memory/flota/c1/memory.usage_in_bytes": "1000000\n",
    "memory/flota/c1/memory.limit_in_bytes": "67108864\n",
    "memory/flota/c1/memory.max_usage_in_bytes": "2000000\n",
    "memory/flota/c1/memory.stat": "inactive_file 5\ntotal_inactive_file 300000\ntotal_swap 4096\n",
    "memory/flota/c1/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "pids/flota/c1/pids.current": "3\n",
    "pids/flota/c1/pids.max": "max\n",
    "blkio/flota/c1/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\nTotal 9\n",
    "blkio/flota/c1/blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n",
}
PROC = {
    "stat": "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 5 0 5 40 0 0 0 0 0 0\ncpu1 5 0 5 40 0 0 0 0 0 0\nintr 1\n",
    "77/net/dev": "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
    "  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("unified", "files"), [(True, V2), (False, V1)])
def test_the_same_figures_from_both(tmp_path: Path, unified: bool, files: dict[str, str]) -> None:
    machine = replace(MACHINE, unified_cgroups=unified)
    gauges = Gauges(machine, write(tmp_path / "cgroup", files), write(tmp_path / "proc", PROC))
    assert gauges.read({"gone": 78}) == {}
    (stats,) = gauges.read({"c1": 77, "gone": 78}).values()
    assert (stats.cpu.total, stats.cpu.user, stats.cpu.system) == (5_000_000, 3_000_000, 2_000_000)
    assert (stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled) == (9, 4, 70_000)
    assert (stats.cpu.machine, stats.cpu.processors) == (1_000_000_000, 2)
    memory = stats.memory
    assert (memory.usage, memory.used, memory.limit) == (1_000_000, 700_000, 64 << 20)
    assert (memory.peak, memory.swap, memory.oom_kills) == (2_000_000, 4096, 1)
    assert (stats.pids, stats.pids_limit) == (3, 0)
    (block,) = stats.blocks
    assert (block.device, block.read_bytes, block.written_bytes, block.reads, block.writes) == ("8:0", 4096, 8192, 1, 2)
    (network,) = stats.networks
    assert (network.name, network.received_bytes, network.received_dropped) == ("eth0", 100, 4)
    assert (network.sent_bytes, network.sent_errors) == (200, 6)


def test_no_limit_is_what_the_machine_has(tmp_path: Path) -> None:
    files = V1 | {"memory/flota/c1/memory.limit_in_bytes": "9223372036854771712\n"}
    gauges = Gauges(replace(MACHINE, unified_cgroups=False), write(tmp_path, files), write(tmp_path / "proc", PROC))
    assert 64 << 20 < gauges.read({"c1": 77})["c1"].memory.limit < 1 << 50
