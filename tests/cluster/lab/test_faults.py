"""A node whose containers do their worst within their limits: its other tasks answer, and nothing is left."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import pytest

from flota.node.lab import Lab, LabNode
from flota.v1.types_pb2 import NODE_STATE_READY
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

FLOTA = [sys.executable, "-m", "flota.cli"]
LOG_SIZE = 1 << 20
PROCESSES = 30
# awk goes on when a fork is refused, which a shell does not.
BOMB = """echo 'BEGIN { while (1) system("awk -f /tmp/bomb &") }' > /tmp/bomb; exec awk -f /tmp/bomb"""
GUESTS = ("flood", "bomb", "late")
SERVE = "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp"


@pytest.mark.timeout(600)
def test_floods_and_a_bomb_beside_a_service_that_answers(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(managers=1, workers=1)
    node = lab.nodes["w1"]
    with Swarm(lab) as swarm:
        create(lab, "web", "--publish", "8080:80", "busybox", "sh", "-c", SERVE)
        wait_until(lambda: answers(node), "the service answers")
        before = traces(lab, node)
        for attempt in (1, 2, 3):
            worked, by_us, stood = work_done(), work_done(lab), standstills(lab)
            try:
                beside_floods_and_a_bomb(lab, node, swarm)
                break
            except (AssertionError, grpc.RpcError, subprocess.TimeoutExpired):
                # On a machine that others keep busy a lab has too little for any node to answer in time; and when the
                # manager's process stood still, beside which there are no guests, w1 had nobody to hear it.
                ours = (work_done(lab) - by_us) / (work_done() - worked)
                if ours > 0.5 and (attempt == 3 or standstills(lab) == stood):
                    raise
                if attempt == 3:
                    pytest.skip(f"others keep this machine busy: {ours:.0%} of its work was the lab's")
            finally:
                # It may have failed before all were there.
                with suppress(AssertionError):
                    flota(lab, "service", "rm", *GUESTS)
        with suppress(AssertionError):
            wait_until(lambda: traces(lab, node) <= before, "nothing is left", 60, step=0.2)
        assert traces(lab, node) - before == Counter()
        assert answers(node)


def beside_floods_and_a_bomb(lab: Lab, node: LabNode, swarm: Swarm) -> None:
    """Have them on w1: its service answers all the time, it keeps its manager, and it takes one more."""
    had = sessions_of(node)
    # Whatever else is tested on this machine at the time has to go on, too.
    worst = ("--restart-condition", "none", "--limit-cpu", "0.5")
    log = ("--log-driver", "json-file", "--log-opt", f"max-size={LOG_SIZE}")
    create(lab, "flood", *worst, *log, "--replicas", "2", "busybox", "yes", "0123456789" * 10)
    create(lab, "bomb", *worst, "--limit-pids", str(PROCESSES), "busybox", "sh", "-c", BOMB)
    wait_until(lambda: swarm.running("flood")["w1"] == 2 and swarm.running("bomb")["w1"] == 1, "all at work", 60)
    floods, [bomb] = [task.id for task in swarm.tasks("flood")], [task.id for task in swarm.tasks("bomb")]
    wait_until(lambda: processes_of(lab, bomb) == PROCESSES, "the bomb has all that it may have")

    # A start forks and moves processes between groups, as they fork.
    create(lab, "late", "busybox", "sleep", "1000")
    wait_until(lambda: swarm.running("late")["w1"] == 1, "one more container runs", 30)

    begun, until = said(lab, floods), time.monotonic() + 4
    while time.monotonic() < until or said(lab, floods) - begun < 50 << 20:
        assert answers(node)
        assert time.monotonic() < until + 120, "the floods have dried up"
        for task in floods:
            # A new file takes the place of a full one, which is there until then.
            assert size(node.disk / "flota/tasks" / task) < 2 * LOG_SIZE + (256 << 10)
        time.sleep(0.05)
    assert sessions_of(node) == had
    assert swarm.nodes()["w1"].status.state == NODE_STATE_READY
    # One may be between two forks.
    assert PROCESSES // 2 < processes_of(lab, bomb) <= PROCESSES
    # None was replaced.
    assert [task.id for name in ("flood", "bomb") for task in swarm.tasks(name)] == [*floods, bomb]


def flota(lab: Lab, *command: str) -> None:
    environment = os.environ | lab.nodes["m1"].environment()
    done = subprocess.run([*FLOTA, *command], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def create(lab: Lab, name: str, *options: str) -> None:
    """On w1, and quick to go."""
    here = ("--constraint", "node.hostname==w1", "--stop-grace-period", "100ms")
    flota(lab, "service", "create", "-d", "--name", name, *here, *options)


def answers(node: LabNode) -> bool:
    """Whether the service does, within a time that is long also for a machine with much to do."""
    with suppress(URLError, OSError), urlopen(f"http://{node.address}:8080/", timeout=5) as answer:
        return bool(answer.read() == b"hello\n")
    return False


def sessions_of(node: LabNode) -> int:
    """How many its worker has had."""
    return sum(json.loads(line)["event"] == "session" for line in (node.disk / "log").read_text().splitlines())


def standstills(lab: Lab) -> int:
    """How often the manager has noticed that it got no processor for a while."""
    return (lab.nodes["m1"].disk / "log").read_text().count("this process stood still")


def work_done(lab: Lab | None = None) -> float:
    """Seconds that processors of this machine have worked until now, or have for the lab."""
    if lab is None:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
        user, nice, system, _, _, *interrupts = map(int, fields)
        return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    unified = Path("/sys/fs/cgroup/flota-lab", lab.name, "cpu.stat")
    if unified.exists():
        return int(dict(line.split() for line in unified.read_text().splitlines())["usage_usec"]) / 1e6
    return int(Path("/sys/fs/cgroup/cpuacct/flota-lab", lab.name, "cpuacct.usage").read_text()) / 1e9


def groups(lab: Lab) -> Iterator[Path]:
    """Control groups of the node's containers, in every hierarchy."""
    for place in (f"flota-lab/{lab.name}/w1/flota", f"*/flota-lab/{lab.name}/w1/flota"):
        yield from Path("/sys/fs/cgroup").glob(place)


def processes_of(lab: Lab, task: str) -> int:
    for group in groups(lab):
        with suppress(OSError):
            return int((group / task / "pids.current").read_text())
    return 0


def said(lab: Lab, tasks: Iterable[str]) -> int:
    """Bytes that the tasks' monitors have written."""
    monitors = set()
    for group in groups(lab):
        with suppress(FileNotFoundError):
            monitors.update((group / "monitors/cgroup.procs").read_text().split())
    total = 0
    for pid in monitors:
        with suppress(OSError):
            if any(task in Path(f"/proc/{pid}/cmdline").read_text() for task in tasks):
                lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
                total += int(lines["wchar"])
    return total


def size(directory: Path) -> int:
    """Bytes of the files in it."""
    total = 0
    for file in directory.iterdir():
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def traces(lab: Lab, node: LabNode) -> Counter[str]:
    """What containers leave on a node when they leave something. Which tasks' it is does not matter."""
    found = [f"mount {line.split()[4]}" for line in Path(f"/proc/{node.pid}/mountinfo").read_text().splitlines()]
    for name in ("tasks", "runtime", "netns", "looked-at"):
        found += [f"file {path}" for path in (node.run_directory / "flota" / name).glob("*")]
    found += [f"group {path}" for group in groups(lab) for path in group.glob("*/")]
    shown = node.exec(["sh", "-c", "ip -o link | cut -d: -f2; echo; ps -eo args"]).stdout
    links, _, processes = shown.partition("\n\n")
    found += [f"interface {name}" for name in links.split()]
    found += [
        f"process {words}" for words in processes.splitlines() if not words.startswith(("ps ", "sh -c ip", "cut "))
    ]
    return Counter(re.sub("[0-9a-z]{25}", "ID", one) for one in found)
