"""How long a person waits for the command line: whole processes, from start to exit, `python -m bench.cli`.

The daemon is the tests' (tests/unit/cli/daemon.py): the real control API over a real store with a consensus of one, on
a unix socket, with some services and tasks in it. So what is measured is the command: Python's start, imports, the
connection, the call, the table.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flota.v1.control_pb2 import CreateServiceRequest
from flota.v1.specs_pb2 import ServiceSpec
from tests.unit.cli.daemon import Daemon

FLOTA = str(Path(sys.executable).with_name("flota"))
SERVICES, TASKS = 50, 10


class Row(NamedTuple):
    """One thing to measure; goals are in milliseconds, 0 = none."""

    argv: Sequence[str]
    goal: float = 0


ROWS = (
    Row((sys.executable, "-c", "pass")),
    Row((FLOTA, "--help"), 80),
    Row((FLOTA, "service", "create", "--help"), 100),
    Row((FLOTA, "service", "ls"), 250),
    Row((FLOTA, "service", "ls", "--format", "{{.Name}} {{.Replicas}}"), 250),
    Row((FLOTA, "service", "ps", "s1"), 250),
    Row((FLOTA, "service", "inspect", "s1"), 250),
    Row((FLOTA, "service", "update", "--detach", "--force", "s1"), 300),
    Row((FLOTA, "node", "ls"), 250),
    Row((FLOTA, "version"), 250),
)


def measure(argv: Sequence[str], runs: int, env: dict[str, str]) -> list[tuple[float, float]]:
    """Milliseconds of wall and of processor time, for each run. Raises CalledProcessError when one fails."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            assert process.stderr is not None
            raise subprocess.CalledProcessError(process.returncode, argv, stderr=process.stderr.read())
        process.communicate()
        times.append((wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000))
    return times


async def fill(daemon: Daemon) -> None:
    """Services with running tasks, on four nodes."""
    nodes = ["m1", *("w1", "w2", "w3")]
    for hostname in nodes[1:]:
        await daemon.cluster.add_node(hostname)
    for number in range(SERVICES):
        spec = ServiceSpec()
        spec.annotations.name = f"s{number}"
        spec.task.container.image = "busybox:1.36"
        spec.replicated.replicas = TASKS
        await daemon.cluster.control.CreateService(CreateServiceRequest(spec=spec), None)
        for slot in range(1, TASKS + 1):
            await daemon.cluster.add_task(f"s{number}", slot, nodes[slot % len(nodes)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cli", description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="of each row; one more before, not counted (15)")
    runs = parser.parse_args().runs
    missed = False
    with tempfile.TemporaryDirectory(prefix="flota-bench-cli-") as folder, Daemon(Path(folder)) as daemon:
        daemon.begin()
        daemon.run(fill(daemon))
        env = os.environ | {"FLOTA_HOST": daemon.host}
        print(f"{runs} runs each, {SERVICES} services with {TASKS} tasks each; milliseconds, whole process\n")
        print(f"{'command':<58}{'goal':>6}{'median':>8}{'min':>7}{'max':>7}{'cpu':>7}")
        for row in ROWS:
            measure(row.argv, 1, env)
            times = measure(row.argv, runs, env)
            wall = [each for each, _ in times]
            median = statistics.median(wall)
            missed = missed or bool(row.goal and median > row.goal)
            name = " ".join([Path(row.argv[0]).name, *row.argv[1:]])
            goal = f"{row.goal:.0f}" if row.goal else ""
            cpu = statistics.median(each for _, each in times)
            print(f"{name:<58}{goal:>6}{median:>8.0f}{min(wall):>7.0f}{max(wall):>7.0f}{cpu:>7.0f}", flush=True)
    if missed:
        print("\na goal was missed", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
