"""`flota` runs a command line against `daemon`, a real server on a unix socket."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flota.cli.main import main
from tests.unit.cli.daemon import Daemon


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output, line by line."""
        return self.out.splitlines()


Flota = Callable[..., Ran]


def on_terminal(daemon: Daemon, *argv: str, **env: str) -> tuple[int, str, str]:
    """Run a command line whose standard output is a terminal: exit status, what was shown there, standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flota.cli", "-H", daemon.host, *argv],
        stdout=theirs, stderr=subprocess.PIPE, text=True, env=os.environ | env,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], 30)[0]:
            shown += os.read(ours, 65536)
    except OSError:
        pass  # The other side is closed.
    finally:
        os.close(ours)
    _, err = process.communicate(timeout=120)
    return process.returncode, shown.decode(), err


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def swarm(daemon: Daemon) -> Daemon:
    """A daemon that is the first manager of a swarm, on node m1."""
    daemon.begin()
    return daemon


@pytest.fixture
def working(daemon: Daemon) -> Daemon:
    """A swarm whose services get tasks, and whose two nodes run them."""
    daemon.begin()
    daemon.run(daemon.cluster.add_node("w1"))
    daemon.work()
    return daemon


@pytest.fixture
def flota(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Flota:
    """Run a command line; everything it prints is caught. It talks to the daemon of the test, if there is one."""
    monkeypatch.setenv("FLOTA_HOST", f"unix://{tmp_path}/flota.sock")
    monkeypatch.delenv("FLOTA_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*argv: str) -> Ran:
        capfd.readouterr()
        status = main(list(argv))
        caught = capfd.readouterr()
        return Ran(status, caught.out, caught.err)

    return run
