"""To a registry and back; and pulls that go on where another one failed."""

import json
import os
from pathlib import Path

import pytest

from flota.rpc.errors import InvalidArgument
from flota.worker.images.errors import ImageNotFound, PullRefused, RegistryUnavailable, RegistryUnreachable
from flota.worker.images.pull import Word
from flota.worker.images.registry import fetching
from flota.worker.images.store import ImageStore
from tests.cluster.images.proxy import proxy
from tests.cluster.images.registry import Registry, registry_auth
from tests.unit.images.making import MadeImage, docker_save, parts, tar


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the next try."""
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.001)


BASE = tar([("data", os.urandom(300_000))])
TWO = MadeImage([BASE, tar([("two", b"2" * 1000)])], {"Cmd": ["two"]}, compression="gzip")


async def test_what_was_pushed_is_pulled_as_the_same_image(
    store: ImageStore, guarded: Registry, tmp_path: Path
) -> None:
    name = f"{guarded.address}/shop/web:1"
    await store.load(parts(docker_save([(TWO, ["web:1"])])))
    await store.tag("web:1", name)
    words: list[Word] = []
    digest = await store.push(name, registry_auth(), words.append)
    lines = [word.line for word in words]
    assert (lines[0], lines[-1]) == (f"Pushing to {guarded.address}/shop/web", f"1: digest: {digest}")
    assert sorted(line.partition(": ")[2] for line in lines if line.endswith(": Pushed")) == ["Pushed", "Pushed"]
    assert (await store.find(f"{guarded.address}/shop/web@{digest}")).id == TWO.id
    other = ImageStore(tmp_path / "other")
    await other.start()
    try:
        pulled = await other.pull(name, registry_auth())
        assert (pulled.id, pulled.references) == (TWO.id, (name, f"{guarded.address}/shop/web@{digest}"))
        assert (other.layers_directory / pulled.layers[0] / "data").stat().st_size == 300_000
        # Once more: layers that are there are not made again, and the digest is what it was.
        del words[:]
        assert await store.push(name, registry_auth(), words.append) == digest
        assert [word.line.partition(": ")[2] for word in words[1:3]] == ["Layer already exists"] * 2
    finally:
        await other.stop()
    assert list((tmp_path / "images/incoming").iterdir()) == []


async def test_pushes_that_come_to_nothing(store: ImageStore, guarded: Registry) -> None:
    name = f"{guarded.address}/shop/api:1"
    await store.load(parts(docker_save([(TWO, [name, "127.0.0.1:1/none:1"])])))
    for auth in ("", registry_auth(password="wrong")):
        with pytest.raises(PullRefused, match=f"registry {guarded.address} refuses {name}"):
            await store.push(name, auth)
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        await store.push("127.0.0.1:1/none:1", "")
    with pytest.raises(ImageNotFound):
        await store.push(f"{name}9", "")
    with pytest.raises(InvalidArgument, match="what it is to be called there"):
        await store.push(TWO.id, "")


async def test_credentials_are_tried(store: ImageStore, guarded: Registry) -> None:
    await store.check(guarded.address, registry_auth())
    with pytest.raises(PullRefused, match="does not take these credentials"):
        await store.check(guarded.address, registry_auth(password="wrong"))
    with pytest.raises(RegistryUnreachable):
        await store.check("127.0.0.1:1", registry_auth())
    with pytest.raises(InvalidArgument, match="username and password are needed"):
        await store.check(guarded.address, registry_auth(password=""))


async def test_a_pull_goes_on_where_another_one_failed(store: ImageStore, registry: Registry) -> None:
    registry.push(TWO, "resumed/lower:1")
    base, top = (one["digest"] for one in json.loads(TWO.manifest)["layers"])
    with proxy(registry.address) as between:
        name = f"{between.address}/resumed/lower:1"
        # The upper layer comes, the lower one, without which nothing can be unpacked, does not.
        between.held = {base}

        def say(word: Word) -> None:
            if word.line == f"{top[7:19]}: Download complete":
                between.give_up.set()

        with pytest.raises(RegistryUnavailable):
            await store.pull(name, say=say)
        assert store.images() == []
        between.held = set()
        before = len(between.paths)
        assert (await store.pull(name)).id == TWO.id
        again = between.paths[before:]
        assert any(path.endswith(base) for path in again)
        assert not any(path.endswith(top) for path in again)


async def test_layers_that_were_unpacked_stay_for_the_next_try(store: ImageStore, registry: Registry) -> None:
    registry.push(TWO, "resumed/upper:1")
    base, top = (one["digest"] for one in json.loads(TWO.manifest)["layers"])
    with proxy(registry.address) as between:
        name = f"{between.address}/resumed/upper:1"
        between.held = {top}

        def say(word: Word) -> None:
            if word.line == f"{base[7:19]}: Download complete":
                between.give_up.set()

        with pytest.raises(RegistryUnavailable):
            await store.pull(name, say=say)
        between.held = set()
        before = len(between.paths)
        assert (await store.pull(name)).id == TWO.id
        assert not any(path.endswith(base) for path in between.paths[before:])
