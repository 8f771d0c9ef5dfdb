"""flota beside a real Docker Swarm, on this machine: `python -m bench.swarm [--json] [--runs N] [--only SIDE]`.

Both sides run bench/workload.py on three managers and two workers in network namespaces and are driven over their
APIs. Needs root, and Debian's docker.io for the peer (installed when missing). Everything started is removed again.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.workload import Swarm, day
from flota.node.lab import LabError

# What each row is, its unit, and how much better than Docker Swarm flota wants to be.
ROWS: dict[str, tuple[str, str, float]] = {
    "init": ("swarm init", "s", 1.3),
    "join": ("swarm join", "s", 1.2),
    "create_1": ("1 replica, create → running", "s", 5),
    "create_50": ("50 replicas, create → running", "s", 8),
    "scale_100": ("scale 50 → 100", "s", 8),
    "remove_100": ("remove 100, all containers gone", "s", 8),
    "update_20": ("rolling update, 20 by 5, no delay, monitor 0", "s", 8),
    "worker_kill": ("worker killed → its tasks run elsewhere", "s", 5),
    "leader_answer": ("leader killed → API answers", "s", 8),
    "leader_task": ("leader killed → a new task runs", "s", 8),
    "manager_rss_idle": ("memory of the manager (dockerd; flota.manager), idle", "MiB", 1),
    "manager_rss_100": ("the same, 100 tasks in the cluster", "MiB", 1),
    "node_rss_idle": ("memory of all daemons of a manager's machine, shared pages once, idle", "MiB", 1),
    "node_rss_100": ("the same, 100 tasks in the cluster", "MiB", 1),
}
_PACKAGE = "docker.io"
_POLICY = Path("/usr/sbin/policy-rc.d")


def install_peer() -> None:
    """Install dockerd if it is missing, without starting it. Raises RuntimeError."""
    if shutil.which("dockerd") and shutil.which("containerd"):
        return
    note(f"installing Debian's {_PACKAGE}, the peer")
    held = not _POLICY.exists()
    if held:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        for argv in (["update", "-q"], ["install", "-qy", "--no-install-recommends", _PACKAGE]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(["apt-get", *argv], capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                last = (done.stderr + done.stdout).strip().splitlines()[-1:]
                raise RuntimeError(f"apt-get {argv[0]} failed: {''.join(last)}")
    finally:
        if held:
            _POLICY.unlink()


def note(line: str) -> None:
    print(f"· {line}", file=sys.stderr, flush=True)


def docker() -> Swarm:
    from bench.docker_swarm import DockerSwarm

    install_peer()
    return DockerSwarm()


def flota() -> Swarm:
    from bench.flota_swarm import FlotaSwarm

    return FlotaSwarm()


SIDES: dict[str, Callable[[], Swarm]] = {"flota": flota, "swarm": docker}


def measure(side: str, runs: int) -> dict[str, float]:
    """The median of each row."""
    days = []
    for run in range(1, runs + 1):
        note(f"{side}: day {run} of {runs}")
        days.append(day(SIDES[side]()))
    return {row: statistics.median(one[row] for one in days) for row in days[0]}


def table(figures: dict[str, dict[str, float]]) -> str:
    lines = [("", *figures, *(["ratio", "goal"] if len(figures) == 2 else []))]
    for row, (what, unit, goal) in ROWS.items():
        values = [
            f"{figures[side][row]:.2f} {unit}" if unit == "s" else f"{figures[side][row]:.0f} {unit}"
            for side in figures
        ]
        compared = []
        if len(figures) == 2:
            ratio = figures["swarm"][row] / figures["flota"][row]
            compared = [f"{ratio:.1f}", f"{goal:g}{'' if ratio >= goal else ' ✗'}"]
        lines.append((what, *values, *compared))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = []
    for what, *cells in lines:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        shown.append(f"{what:<{widths[0]}}   {'   '.join(padded)}".rstrip())
    return "\n".join(shown)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.swarm", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object: {row: {flota, swarm, ratio, goal}}")
    parser.add_argument("--runs", type=int, default=1, help="days to take the median of (default 1)")
    parser.add_argument("--only", choices=list(SIDES), help="one side only")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs is {options.runs}; at least 1 is needed")
    if os.geteuid() != 0:
        parser.error("root is needed: namespaces and containers are made")
    try:
        figures = {side: measure(side, options.runs) for side in SIDES if options.only in (None, side)}
    except (LabError, RuntimeError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if not options.json:
        print(table(figures))
        return 0
    result = {}
    for row, (_, _, goal) in ROWS.items():
        result[row] = {side: round(figures[side][row], 3) for side in figures}
        if len(figures) == 2:
            result[row] |= {"ratio": round(figures["swarm"][row] / figures["flota"][row], 2), "goal": goal}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
