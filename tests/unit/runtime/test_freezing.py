"""Pausing on cgroup v2, where the kernel says later than crun that everything stands still."""

import asyncio
from pathlib import Path

import pytest

from flota.worker.runtime import freezing
from flota.worker.runtime.cgroups import Cgroups
from flota.worker.runtime.container import ContainerError
from flota.worker.runtime.freezing import Freezer
from flota.worker.runtime.machine import Machine
from flota.worker.runtime.oci import Program

V2 = Machine("/flota", True, True, "", frozenset(), {}, True)


class Told(Program):
    """A runtime that writes down what it is told, and says at once that it is done."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.name = "crun"
        self._said = directory / "said"

    def arguments(self, *arguments: str) -> list[str]:
        return ["sh", "-c", f"echo {' '.join(arguments)} >> {self._said}"]

    def said(self) -> list[str]:
        return self._said.read_text().split() if self._said.exists() else []


class Kernel:
    """What the kernel says of container c."""

    def __init__(self, directory: Path) -> None:
        self._events = directory / "cgroup/flota/c/cgroup.events"
        self._events.parent.mkdir(parents=True)
        self.says("frozen 0")

    def says(self, word: str) -> None:
        self._events.write_text(f"populated 1\n{word}\n")

    def forgets(self) -> None:
        self._events.unlink()


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


@pytest.fixture
def freezer(told: Told, tmp_path: Path) -> Freezer:
    return Freezer(told, Cgroups(V2, tmp_path / "cgroup"))


async def test_it_is_paused_when_the_kernel_says_so(freezer: Freezer, kernel: Kernel, told: Told) -> None:
    pausing = asyncio.create_task(freezer.freeze("c"))
    async with asyncio.timeout(60):
        while True:
            if told.said():
                break
            await asyncio.sleep(0.005)
    assert not (await asyncio.wait([pausing], timeout=0.2))[0], "crun has said pause, the kernel has not said frozen"
    kernel.says("frozen 1")
    await asyncio.wait_for(pausing, 60)
    assert freezer.is_frozen("c")


async def test_what_does_not_stop_goes_on_and_whoever_asked_is_told(
    freezer: Freezer, kernel: Kernel, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "_STOP_LIMIT", 0.05)
    with pytest.raises(ContainerError, match="container c could not be paused"):
        await freezer.freeze("c")
    assert told.said() == ["pause", "c", "resume", "c"]
    assert not freezer.is_frozen("c")


async def test_a_container_that_ends_meanwhile_is_not_waited_for(freezer: Freezer, kernel: Kernel) -> None:
    kernel.forgets()
    await asyncio.wait_for(freezer.freeze("c"), 60)
