"""How full a machine is, and when it counts as short of something."""

from pathlib import Path

import pytest

from flota.v1.objects_pb2 import NodeDescription, NodeUsage
from flota.worker.agent.description import Description
from flota.worker.agent.gauge import DISK, MEMORY, PIDS, Gauge, pressures_of

GIB = 1 << 30


def usage(**values: int) -> NodeUsage:
    plenty = {
        "memory_total": 16 * GIB, "memory_available": 8 * GIB, "disk_total": 100 * GIB, "disk_available": 50 * GIB,
        "inodes_total": 1000, "inodes_available": 500, "pids": 100, "pids_limit": 1000,
    }  # fmt: skip
    return NodeUsage(**(plenty | values))


@pytest.mark.parametrize(
    ("values", "before", "expected"),
    [
        ({}, (), ()),
        ({"disk_available": GIB}, (), ()),
        ({"disk_available": GIB - 1}, (), (DISK,)),
        # It ends only when there is clearly more again.
        ({"disk_available": GIB}, (DISK,), (DISK,)),
        ({"disk_available": 2 * GIB}, (DISK,), ()),
        # A small disk: a twentieth of it.
        ({"disk_total": GIB, "disk_available": GIB // 20 - 1}, (), (DISK,)),
        ({"disk_total": GIB, "disk_available": GIB // 19}, (), ()),
        ({"inodes_available": 49}, (), (DISK,)),
        ({"memory_available": 255 << 20}, (), (MEMORY,)),
        ({"memory_available": 300 << 20}, (MEMORY,), (MEMORY,)),
        ({"memory_available": 400 << 20}, (MEMORY,), ()),
        ({"pids": 951}, (), (PIDS,)),
        ({"pids": 930}, (PIDS,), (PIDS,)),
        ({"pids": 920}, (PIDS,), ()),
        # What could not be measured is no pressure.
        ({"memory_total": 0, "memory_available": 0, "pids_limit": 0, "disk_total": 0, "disk_available": 0}, (), ()),
    ],
)
def test_what_is_short(values: dict[str, int], before: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert pressures_of(usage(**values), before) == expected  # type: ignore[arg-type]


def test_it_is_measured(tmp_path: Path) -> None:
    files = {
        "stat": "cpu  10 0 10 80 0 0 0 0 0 0\n",
        "loadavg": "1.50 1.0 0.5 3/456 999\n",
        "meminfo": "MemTotal:  1000 kB\nMemAvailable:  40 kB\n",
        "sys/kernel/pid_max": "4194304\n",
        "sys/kernel/threads-max": "460\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    gauge = Gauge(tmp_path, lambda: 7, tmp_path)
    first = gauge.look()
    assert (first.cpu, first.load, first.pids, first.pids_limit, first.containers) == (0, 1.5, 456, 460, 7)
    assert (first.memory_total, first.memory_available) == (1000 << 10, 40 << 10)
    assert 0 < first.disk_available <= first.disk_total
    assert set(gauge.pressures) >= {MEMORY, PIDS}
    (tmp_path / "stat").write_text("cpu  40 0 10 150 0 0 0 0 0 0\n")
    assert gauge.look().cpu == pytest.approx(0.3)


async def test_news_of_the_machine_when_it_gets_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gauge = Gauge(tmp_path)
    gauge.look()
    description = Description(lambda: NodeDescription(hostname="one", pressures=gauge.pressures), gauge)
    before = description.current
    short = (*gauge.pressures, DISK) if DISK not in gauge.pressures else ()

    def look() -> NodeUsage:
        gauge.pressures = short
        return usage()

    monkeypatch.setattr(gauge, "look", look)
    assert description.usage() == usage()
    assert description.current != before
    assert tuple(description.current.pressures) == short
