"""A lab: a whole cluster on one machine. Each node has namespaces, an address, a hostname, /run and cgroups of its own.

    with Lab.up("lab", managers=3, workers=2) as lab:
        lab.nodes["m1"].flota("service", "ls")
        lab.kill("m1")

Everything a lab makes can be found again from its name, so `Lab.find(name).down()` cleans up after any crash.
"""

import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol


class LabNode(Protocol):
    """One node, up or down."""

    name: str
    address: str
    running: bool
    # unix:///… of the daemon's socket, as seen from outside.
    host: str

    def exec(
        self, argv: Sequence[str], *, check: bool = True, input: str | None = None, timeout: float | None = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, its output caught. Raises LabError with the output when `check` and it failed."""
        ...

    def flota(self, *argv: str, check: bool = True, timeout: float | None = 60) -> str:
        """Run `flota …` inside; gives its standard output."""
        ...

    def environment(self) -> dict[str, str]:
        """FLOTA_HOST and DOCKER_HOST that point at this node from outside."""
        ...


class Lab(Protocol):
    """One lab. All methods block; in async code call them with asyncio.to_thread."""

    name: str
    nodes: dict[str, LabNode]

    @classmethod
    def up(
        cls,
        name: str = "lab",
        managers: int = 3,
        workers: int = 2,
        load: Sequence[Path] = (),
        swarm: bool = True,
    ) -> "Lab":
        """Boot the nodes m1…, w1… and, with `swarm`, make them one cluster with every node READY."""
        ...

    @classmethod
    def find(cls, name: str = "lab") -> "Lab":
        """The lab of that name, whatever state it is in. Raises NoSuchLab."""
        ...

    @classmethod
    def names(cls) -> list[str]:
        """Every lab on this machine."""
        ...

    def kill(self, node: str) -> None:
        """The node loses power: its link is cut, then everything in it is killed, containers and all."""
        ...

    def start(self, node: str) -> None:
        """Boot a killed node again from its disk."""
        ...

    def partition(self, a: Collection[str], b: Collection[str]) -> None:
        """No packet passes between a node of `a` and one of `b`. Adds to earlier partitions."""
        ...

    def heal(self) -> None:
        """End all partitions."""
        ...

    def down(self) -> None:
        """Remove everything. No error when parts are gone already."""
        ...
