"""When moves between control groups are made to hold up nobody, and which options the tree keeps."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flota.worker.runtime import moves

SYSTEMD = "rw,seclabel,nsdelegate,memory_recursiveprot"


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What the kernel is told."""
    told: list[set[str]] = []
    monkeypatch.setattr(moves, "_set", lambda options: told.append(set(options)))
    monkeypatch.setattr(moves, "_FIRST_CGROUP_NAMESPACE", -1)
    return told


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """/proc of a process in the first cgroup namespace, unless it is `inside` another."""

    def make(release: str, here: str | None, first: str | None = None, *, inside: bool = False) -> Path:
        for process, options in (("self", here), ("1", first)):
            (tmp_path / process / "ns").mkdir(parents=True)
            lines = ["24 29 0:22 / /proc rw,relatime - proc proc rw"]
            if options is not None:
                lines.append(f"35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 {options}")
            (tmp_path / process / "mountinfo").write_text("\n".join(lines) + "\n")
        (tmp_path / "sys/kernel").mkdir(parents=True)
        (tmp_path / "sys/kernel/osrelease").write_text(release + "\n")
        namespace = tmp_path / "self/ns/cgroup"
        namespace.touch()
        if not inside:
            monkeypatch.setattr(moves, "_FIRST_CGROUP_NAMESPACE", os.stat(namespace).st_ino)
        return tmp_path

    return make


@pytest.mark.parametrize("release", ["6.18.0", "6.18.44-fc-v769", "7.0-rc1", "10.2.1"])
def test_it_is_set_beside_what_is_set(sets: list[set[str]], proc: Callable[..., Path], release: str) -> None:
    assert moves.free(proc(release, SYSTEMD))
    assert sets == [{"nsdelegate", "memory_recursiveprot", "favordynmods"}]


@pytest.mark.parametrize("release", ["6.17.9", "6.1.0-56-cloud-amd64", "5.10.0", "unknown"])
def test_a_kernel_where_it_means_something_else(sets: list[set[str]], proc: Callable[..., Path], release: str) -> None:
    assert not moves.free(proc(release, SYSTEMD))
    assert sets == []


def test_it_is_set_already(sets: list[set[str]], proc: Callable[..., Path]) -> None:
    assert moves.free(proc("6.1.0", SYSTEMD + ",favordynmods"))
    assert sets == []


def test_the_tree_is_mounted_elsewhere_or_nowhere(sets: list[set[str]], proc: Callable[..., Path]) -> None:
    """The daemon was started where it is unmounted, beside v1."""
    assert moves.free(proc("6.18.1", None, "rw,nsdelegate"))
    assert sets == [{"nsdelegate", "favordynmods"}]


def test_a_machine_of_v1_alone(sets: list[set[str]], proc: Callable[..., Path]) -> None:
    assert moves.free(proc("6.18.1", None))
    assert sets == [{"favordynmods"}]


def test_a_namespace_that_may_not(sets: list[set[str]], proc: Callable[..., Path]) -> None:
    assert not moves.free(proc("6.18.1", SYSTEMD, inside=True))
    assert sets == []


def test_the_kernel_refuses(
    proc: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(options: set[str]) -> None:
        raise PermissionError(1, "Operation not permitted")

    place = proc("6.18.1", SYSTEMD)
    monkeypatch.setattr(moves, "_set", refuse)
    assert not moves.free(place)
    assert "a container that forks much can hold up this machine" in caplog.text
