"""What a real registry has under a name, without pulling it."""

import pytest

from flota.worker.images.errors import ImageNotFound, PullRefused
from flota.worker.images.store import ImageStore
from tests.cluster.images.registry import Registry, registry_auth
from tests.unit.images.making import INDEX, MadeImage, directory, tar

LAYER = tar([directory("etc")])
HERE = MadeImage([LAYER], {"Cmd": ["here"]}, compression="gzip")
THERE = MadeImage([LAYER], {"Cmd": ["there"]}, architecture="s390x", compression="gzip")


async def test_one_image_by_tag_and_by_digest(store: ImageStore, guarded: Registry) -> None:
    digest = guarded.push(HERE, "one:1")
    found = await store.resolve(f"{guarded.address}/one:1", registry_auth())
    assert found.digest == digest
    assert [(each.os, each.architecture) for each in found.platforms] == [("linux", "amd64")]
    assert await store.resolve(f"{guarded.address}/one@{digest}", registry_auth()) == found
    assert store.images() == []


async def test_an_index_is_for_several_platforms(store: ImageStore, guarded: Registry) -> None:
    digest = guarded.push_index([HERE, THERE], "many:1")
    found = await store.resolve(f"{guarded.address}/many:1", registry_auth())
    assert (found.digest, found.media_type) == (digest, INDEX)
    assert {each.architecture for each in found.platforms} == {"amd64", "s390x"}


async def test_who_may_not_and_what_is_not_there(store: ImageStore, guarded: Registry) -> None:
    with pytest.raises(PullRefused):
        await store.resolve(f"{guarded.address}/one:1")
    with pytest.raises(ImageNotFound):
        await store.resolve(f"{guarded.address}/nothing:1", registry_auth())
