"""A manager's side and a machine with a worker; whatever the machine has is taken away at the end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.worker.machine import Cluster, Machine
from tests.unit.dispatcher.swarm import Swarm


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    machine = Machine(tmp_path)
    try:
        swarm = Swarm(tmp_path, period=5.0, host=machine.gateway)
        async with swarm.serving():
            await swarm.node("w1")
            try:
                yield Cluster(swarm, machine)
            finally:
                await machine.end()
    finally:
        machine.close()
