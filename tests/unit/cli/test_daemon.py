"""`flota daemon` becomes another program: with these words, and one line when they are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Flota


def test_the_flags_are_handed_on(flota: Flota, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def become(path: str, argv: list[str]) -> None:
        assert path == sys.executable
        started.append(argv)

    monkeypatch.setattr(os, "execv", become)
    flota("daemon")
    flota(
        "daemon", "--state-dir", "/s", "--run-dir=/r", "--cgroup-parent", "/c", "--manager-metrics", "",
        "--worker-metrics", "[::]:9", "--label", "a=b=c", "--label", "d", "--generic-resource", "gpu=2",
    )  # fmt: skip
    program = [sys.executable, "-P", "-m", "flota.node"]
    assert started == [
        program,
        [
            *program,
            "--state-dir=/s", "--run-dir=/r", "--cgroup-parent=/c", "--manager-metrics=", "--worker-metrics=[::]:9",
            "--label=a=b=c", "--label=d", "--generic-resource=gpu=2",
        ],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--cgroup-parent", "flota"], "flota daemon: invalid --cgroup-parent 'flota': a path like /flota is needed\n"),
        (["--generic-resource", "gpu"], "flota daemon: invalid --generic-resource 'gpu': KIND=NUMBER or KIND=NAME is"),
        (["--state-dir", "/proc/1/nowhere"], "flota daemon: cannot use the directory /proc/1/nowhere: "),
        (["--bogus"], "flota daemon: no such option '--bogus'."),
    ],
)
def test_a_refusal_is_one_line(flags: list[str], line: str, tmp_path: Path) -> None:
    flota = Path(sys.executable).with_name("flota")
    done = subprocess.run(
        [flota, "daemon", "--state-dir", "state", "--run-dir", "run", *flags],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
