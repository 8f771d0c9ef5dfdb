"""What clusters of the overlay's tests have in common: machines, programs in their tasks, a client outside."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flota.v1.objects_pb2 import Task
from tests.cluster.overlay.machines import Machines, Node, run
from tests.cluster.overlay.programs import ASK


class Running:
    """Machines and the programs of their tasks; a test's own kind of it says which. Ended by `close`."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.servers: dict[str, subprocess.Popen[str]] = {}

    def serve(self, one: Task, node: Node, script: str) -> None:
        """A task's program runs, in place of the one before."""
        if one.id in self.servers:
            self.kill(one)
        self.servers[one.id] = node.background(one, script)

    def kill(self, one: Task) -> None:
        self.servers[one.id].kill()
        self.servers.pop(one.id).wait()

    def outside(self, script: str) -> list[str]:
        """A Python script in the namespace of a client outside of the cluster: the bridge between the machines."""
        return run("ip", "netns", "exec", self.machines.wire, sys.executable, "-c", script).splitlines()

    def asked(self, address: str, count: int = 4, port: int = 8080) -> Counter[str]:
        """How often that client was answered what at an address."""
        return Counter(self.outside(ASK.format(address=address, port=port, count=count)))

    @contextmanager
    def talking(self, script: str) -> Iterator[Callable[[str], str]]:
        """A script in the client's namespace that prints a line when it is ready, and then one for each it is told."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.machines.wire, sys.executable, "-u", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        told, says = process.stdin, process.stdout

        def say(line: str) -> str:
            told.write(f"{line}\n")
            told.flush()
            return says.readline().strip()

        try:
            assert says.readline()
            yield say
        finally:
            process.kill()
            process.communicate()

    def close(self) -> None:
        for server in self.servers.values():
            server.kill()
            server.wait()


R = TypeVar("R", bound=Running)


def fixture_of(kind: Callable[[Machines], R], count: int) -> Any:
    """A fixture that gives a cluster of a kind, on so many machines."""

    @pytest.fixture
    def cluster(tmp_path: Path) -> Iterator[R]:
        machines = Machines(tmp_path, count)
        try:
            built = kind(machines)
            try:
                yield built
            finally:
                built.close()
        finally:
            machines.close()

    return cluster
