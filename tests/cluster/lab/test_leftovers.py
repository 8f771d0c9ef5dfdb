"""A lab that is down has left nothing: no process, interface, mount, control group or file, whatever happened to it."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.labs import lab_name

TRACES = Path(__file__).with_name("traces.py")
SANDBOX = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


def traces(*argv: str) -> tuple[str, dict[str, Any]]:
    lab = lab_name()
    done = subprocess.run(
        [*SANDBOX, sys.executable, TRACES, lab, *argv], stdout=subprocess.PIPE, text=True, check=True, timeout=100
    )
    return lab, json.loads(done.stdout)


def left(seen: dict[str, Any]) -> list[str]:
    """What is there after and was not before. (A mount of somebody else may have gone: the sandbox began as a copy.)"""
    return sorted((Counter(seen["after"]) - Counter(seen["before"])).elements())


def test_down_leaves_nothing() -> None:
    lab, seen = traces("plain")
    assert seen["status"] == 0
    during = set(seen["during"]) - set(seen["before"])
    # What there was to leave.
    assert f"interface fl-{lab}" in during
    assert any(line.endswith(f"init {lab} w2") for line in during)
    assert f"/var/lib/flota-lab/{lab}/m1" in during
    assert any(line.endswith(f"flota-lab/{lab}/m3") and line.startswith("/sys/fs/cgroup/") for line in during)
    assert left(seen) == []


@pytest.mark.parametrize("condition", ["claimed", "switch", "wired", "node", "linked"])
def test_down_leaves_nothing_of_a_lab_whose_maker_was_killed(condition: str) -> None:
    lab, seen = traces("plain", condition)
    assert seen["status"] == -signal.SIGKILL
    assert f"/run/flota-lab/{lab}" in seen["during"]
    assert left(seen) == []


def test_down_leaves_nothing_of_a_swarm() -> None:
    _, seen = traces("flota")
    assert seen["status"] == 0
    assert any("flota.worker" in line for line in set(seen["during"]) - set(seen["before"]))
    assert any("sleep 100000" in line for line in seen["during"])
    assert left(seen) == []


def test_down_leaves_nothing_of_a_swarm_whose_maker_was_killed() -> None:
    lab, seen = traces("flota", "listening")
    assert seen["status"] == -signal.SIGKILL
    assert f"/var/lib/flota-lab/{lab}" in seen["during"]
    assert left(seen) == []
