"""Control groups of cgroup v2 and v1, on trees of plain files where directories come with a kernel's files."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flota.worker.runtime import cgroups as cgroups_module
from flota.worker.runtime.cgroups import Cgroups
from flota.worker.runtime.machine import Machine, with_swap_known

V2 = Machine("/machine/flota", True, True, "", frozenset(), {}, True)
V1 = replace(V2, unified_cgroups=False)
FILES = {
    "": (
        "cgroup.procs",
        "cgroup.controllers",
        "cgroup.subtree_control",
        "cgroup.kill",
        "cpu.weight",
        "io.weight",
        "memory.events",
    ),
    "cpu,cpuacct": ("cgroup.procs", "cpu.shares"),
    "blkio": ("cgroup.procs", "blkio.bfq.weight"),
    "memory": ("cgroup.procs", "memory.oom_control"),
    "pids": ("cgroup.procs", "pids.max"),
    "systemd": ("cgroup.procs",),
}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/sys/fs/cgroup: what is made below it has the files of a group, and they go with it."""
    mkdir, rmdir = Path.mkdir, os.rmdir

    def made(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if parents and not self.parent.exists():
            made(self.parent, parents=True)
        mkdir(self, mode, exist_ok=exist_ok)
        kind = self.relative_to(tmp_path).parts[0]
        for name in FILES.get(kind, FILES[""]):
            (self / name).touch()

    def gone(path: str | Path) -> None:
        for file in Path(path).glob("*"):
            if file.is_file():
                file.unlink()
        rmdir(path)

    monkeypatch.setattr(Path, "mkdir", made)
    monkeypatch.setattr(os, "rmdir", gone)
    return tmp_path


@pytest.fixture
def group(kernel: Path) -> Callable[[str], Path]:
    """Makes a container's group, as crun does."""

    def make(place: str) -> Path:
        (kernel / place).mkdir(parents=True)
        return kernel / place

    return make


def test_the_parent_group_passes_all_controllers_on_so_that_nobody_takes_one_back(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str]] = []

    def write(file: Path, text: str) -> None:
        if file.name == "cgroup.subtree_control":
            given.append((str(file.parent.relative_to(kernel)), text))

    monkeypatch.setattr(cgroups_module, "_write", write)
    (kernel / "machine/flota").mkdir(parents=True)
    for group in (kernel, kernel / "machine", kernel / "machine/flota"):
        (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    Cgroups(V2, kernel).prepare()
    words = ["+cpuset", "+cpu", "+io", "+memory", "+pids"]
    assert given == [(group, word) for group in (".", "machine", "machine/flota") for word in words]


def test_all_containers_of_v2_weigh_half_as_much_as_others(kernel: Path) -> None:
    (kernel / "machine").mkdir()
    (kernel / "machine/cgroup.controllers").write_text("cpu io\n")
    cgroups = Cgroups(V2, kernel)
    cgroups.prepare()
    parent = kernel / "machine/flota"
    assert ((parent / "cpu.weight").read_text(), (parent / "io.weight").read_text()) == ("50", "default 50")
    # One write each, for the kernel takes a list wholly or not at all. The last one is on top here.
    assert (kernel / "machine/cgroup.subtree_control").read_text().startswith("+io")
    assert (parent / "monitors").is_dir()
    (parent / "cpu.weight").write_text("700")
    cgroups.prepare()
    assert (parent / "cpu.weight").read_text() == "700", "what somebody has set stays"
    cgroups.close()
    assert not parent.exists()


def test_all_containers_of_v1_weigh_half_as_much_as_others(kernel: Path) -> None:
    for hierarchy in FILES:
        if hierarchy:
            (kernel / hierarchy).mkdir()
    (kernel / "cpu").symlink_to("cpu,cpuacct")
    Cgroups(V1, kernel).prepare()
    assert (kernel / "cpu/machine/flota/cpu.shares").read_text() == "512"
    assert (kernel / "blkio/machine/flota/blkio.bfq.weight").read_text() == "50"
    monitors = [path.relative_to(kernel).parts[0] for path in kernel.glob("*/machine/flota/monitors")]
    # The daemon's own limits are not the monitors', and systemd does not end them with its service.
    assert sorted(monitors) == ["memory", "pids", "systemd"]


@pytest.mark.parametrize(
    ("machine", "file", "text", "killed"),
    [
        (V2, "machine/flota/c/memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n", True),
        (V2, "machine/flota/c/memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 0\n", False),
        (V1, "memory/machine/flota/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", True),
        (V1, "memory/machine/flota/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
    ],
)
def test_whether_the_kernel_killed_for_want_of_memory(
    kernel: Path, group: Callable[[str], Path], machine: Machine, file: str, text: str, killed: bool
) -> None:
    group(os.path.dirname(file))
    (kernel / file).write_text(text)
    cgroups = Cgroups(machine, kernel)
    assert cgroups.out_of_memory("c") is killed
    assert not cgroups.out_of_memory("gone")


def test_members_are_those_of_inner_groups_too(kernel: Path, group: Callable[[str], Path]) -> None:
    (group("machine/flota/c") / "cgroup.procs").write_text("1\n2\n")
    (group("machine/flota/c/inner") / "cgroup.procs").write_text("3\n")
    (group("machine/flota/other") / "cgroup.procs").write_text("4\n")
    assert Cgroups(V2, kernel).members("c") == {1, 2, 3}
    assert Cgroups(V2, kernel).members("gone") == set()


def test_v2_kills_by_one_word_and_older_kernels_one_by_one(kernel: Path, group: Callable[[str], Path]) -> None:
    there = group("machine/flota/c")
    cgroups = Cgroups(V2, kernel)
    with subprocess.Popen(["sleep", "1000"]) as process:
        (there / "cgroup.procs").write_text(f"{process.pid}\n")
        cgroups.kill("c")
        assert (there / "cgroup.kill").read_text() == "1"
        assert process.poll() is None
        (there / "cgroup.kill").unlink()
        cgroups.kill("c")
        assert process.wait(10) == -signal.SIGKILL
    cgroups.kill("gone")


def test_a_group_goes_with_those_that_its_container_made(kernel: Path, group: Callable[[str], Path]) -> None:
    group("machine/flota/c/one/two")
    cgroups = Cgroups(V2, kernel)
    assert cgroups.remove("gone")
    assert cgroups.remove("c")
    assert not (kernel / "machine/flota/c").exists()


def test_swap_is_limited_also_where_no_other_group_is(kernel: Path) -> None:
    """v2's top has no limits to look at, and without systemd there may be no group but ours."""
    fresh = replace(V2, swap_accounting=False)
    assert not with_swap_known(fresh, kernel).swap_accounting
    (kernel / "machine/flota").mkdir(parents=True)
    assert not with_swap_known(fresh, kernel).swap_accounting, "a kernel that does not count it"
    (kernel / "machine/flota/memory.swap.max").touch()
    assert with_swap_known(fresh, kernel).swap_accounting
    assert not with_swap_known(replace(V1, swap_accounting=False), kernel).swap_accounting
