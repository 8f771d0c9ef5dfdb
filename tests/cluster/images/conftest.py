"""Registries on loopback, one of each kind for a module, and a store for each test."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flota.worker.images.store import ImageStore
from tests.cluster.images.registry import Registry
from tests.cluster.runtime.world import private_mounts


@contextmanager
def serving(registry: Registry) -> Iterator[Registry]:
    """As long as the block lasts."""
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Gives everything to everybody."""
    with serving(Registry(tmp_path_factory.mktemp("registry") / "open")) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Wants to know who asks."""
    with serving(Registry(tmp_path_factory.mktemp("guarded") / "registry", auth=True)) as made:
        yield made


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """3 MiB."""
    place = tmp_path_factory.mktemp("disk")
    with private_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], check=True)
        yield place
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    """An empty one."""
    made = ImageStore(tmp_path / "images", pull_limit=60)
    await made.start()
    yield made
    await made.stop()
    # Nothing of any pull is left, but what the next try needs.
    assert list((tmp_path / "images/incoming").iterdir()) == []
