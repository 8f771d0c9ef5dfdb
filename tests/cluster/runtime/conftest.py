"""Real containers in a mount namespace of their own; whatever a test leaves behind fails it."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World, private_mounts


@pytest.fixture(scope="module", autouse=True)
def _mounts() -> Iterator[None]:
    # For a whole module: the threads of every test's event loop have ended before it is left.
    with private_mounts():
        yield


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    built = World(tmp_path, f"/rt-test-{os.getpid()}")
    try:
        yield built
    finally:
        built.close()


@pytest.fixture
async def runtime(world: World) -> AsyncIterator[Runtime]:
    """A started Runtime; at the end all containers are removed, and nothing of them may be left."""
    started = world.runtime()
    await started.start()
    try:
        yield started
    finally:
        for container_id in await started.adopt():
            await started.remove(container_id)
        await started.stop()
    assert not any(world.left().values()), world.left()
    assert world.groups() == []
