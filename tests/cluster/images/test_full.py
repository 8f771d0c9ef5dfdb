"""A disk without room: what does not fit is refused, and what was made of it gone. In a mount namespace of its own."""

import asyncio
import os
from pathlib import Path

import pytest

from flota.rpc.errors import ResourceExhausted
from flota.v1.local_pb2 import ImportImageRequest
from flota.worker.images import collection
from flota.worker.images.store import ImageStore
from tests.cluster.images.registry import Registry
from tests.unit.images.making import MadeImage, docker_save, parts, tar


def image(size: int) -> MadeImage:
    return MadeImage([tar([("data", os.urandom(size))])])


@pytest.mark.parametrize("size", [2 << 20, 4 << 20])
async def test_what_does_not_fit_leaves_nothing(small_disk: Path, size: int) -> None:
    # The smaller one fits as it comes, but not once more as a layer.
    store = ImageStore(small_disk / str(size))
    await store.start()
    try:
        with pytest.raises(ResourceExhausted, match="no space is left for images on this node"):
            await store.load(parts(docker_save([(image(size), ["big:1"])])))
        with pytest.raises(ResourceExhausted):
            await store.import_image(ImportImageRequest.Options(), parts(tar([("data", os.urandom(size))])))
        await nothing_incoming(store)
        small = image(100_000)
        await store.load(parts(docker_save([(small, ["small:1"])])))
        assert [one.id for one in store.images()] == [small.id]
    finally:
        await store.stop()


@pytest.mark.parametrize("size", [2 << 20, 4 << 20])
async def test_a_pull_that_does_not_fit_leaves_nothing(small_disk: Path, registry: Registry, size: int) -> None:
    # The smaller one fits as it comes, but not once more as a layer.
    store = ImageStore(small_disk / f"pulled-{size}", pull_limit=60)
    await store.start()
    try:
        registry.push(image(size), "big:1")
        with pytest.raises(ResourceExhausted, match="no space is left for images on this node"):
            await store.pull(f"{registry.address}/big:1")
        await nothing_incoming(store)
        small = image(100_000)
        registry.push(small, "small:1")
        assert (await store.pull(f"{registry.address}/small:1")).id == small.id
        assert [one.id for one in store.images()] == [small.id]
    finally:
        await store.stop()


async def nothing_incoming(store: ImageStore) -> None:
    """Until what was given up is deleted."""
    async with asyncio.timeout(60):
        while os.listdir(store.layers_directory.parent / "incoming"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert os.listdir(store.layers_directory.parent / "partial") == []


async def test_a_pull_that_finds_the_disk_full_makes_room_and_tries_again(
    small_disk: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a task pulls takes the place of what no task needs any longer, never of what one needs."""
    monkeypatch.setattr(collection, "MOMENT", -1.0)
    store = ImageStore(small_disk / "collected", pull_limit=60)
    await store.start()
    try:
        names = [f"{registry.address}/room/{number}:1" for number in range(2)]
        for name in names:
            registry.push(image(1_200_000), name.partition("/")[2])
        first = await store.provide(names[0])
        store.hold("task", first.id)
        with pytest.raises(ResourceExhausted):
            # As it comes and as a layer, beside the first.
            await store.provide(names[1])
        assert [one.id for one in store.images()] == [first.id]
        store.release("task")
        second = await store.provide(names[1])
        assert [one.id for one in store.images()] == [second.id]
    finally:
        await store.stop()
