"""Pulling from a real registry: what comes, what does not come twice, and what is said when it does not come."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from flota.rpc.errors import InvalidArgument, Unavailable
from flota.worker.images.errors import (
    BadImage,
    ImageNotFound,
    PullRefused,
    RegistryUnavailable,
    RegistryUnreachable,
)
from flota.worker.images.pull import Word
from flota.worker.images.store import ImageStore
from tests.cluster.images.registry import Registry, registry_auth
from tests.unit.images.making import MadeImage, directory, docker_save, parts, tar

BASE = tar([directory("etc"), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("data", os.urandom(300_000))])
ONE = MadeImage([BASE], {"Cmd": ["one"]}, compression="gzip")
TWO = MadeImage([BASE, tar([("two", b"2" * 1000)])], {"Cmd": ["two"]}, compression="gzip")
OTHER = MadeImage([BASE], {"Cmd": ["other"]}, architecture="s390x", compression="gzip")


async def test_by_tag(store: ImageStore, registry: Registry) -> None:
    digest = registry.push(TWO, "by/tag:1")
    name = f"{registry.address}/by/tag"
    words: list[Word] = []
    pulled = await store.pull(f"{name}:1", say=words.append)
    assert (pulled.id, pulled.config.cmd, len(pulled.layers)) == (TWO.id, ("two",), 2)
    assert (store.layers_directory / pulled.layers[1] / "two").read_bytes() == b"2" * 1000
    assert pulled.references == (f"{name}:1", f"{name}@{digest}")
    lines = [word.line for word in words]
    assert await store.find(f"{name}@{digest}") == pulled
    assert lines[0] == f"Pulling from {name}"
    assert lines[-1] == f"Digest: {digest}"
    assert sum(line.endswith("Download complete") for line in lines) == 2


async def test_of_an_index_this_machines_image_under_both_digests(store: ImageStore, registry: Registry) -> None:
    digest = registry.push_index([OTHER, ONE], "an/index:1")
    name = f"{registry.address}/an/index"
    pulled = await store.pull(f"{name}:1")
    assert pulled.id == ONE.id
    for known in (digest, ONE.digest):
        assert (await store.find(f"{name}@{known}")).id == ONE.id
    registry.push_index([OTHER], "an/index:2")
    with pytest.raises(BadImage, match=r"an/index:2 is not for this machine \(linux/\w+\) but for linux/s390x"):
        await store.pull(f"{name}:2")


async def test_by_digest_it_is_asked_for_once_and_has_no_tag(store: ImageStore, registry: Registry) -> None:
    digest = registry.push(ONE, "by/digest:1")
    name = f"{registry.address}/by/digest"
    pulled = await store.pull(f"{name}:ignored@{digest}")
    assert pulled.references == (f"{name}@{digest}",)
    registry.stop()
    try:
        # Nobody is asked for what cannot be anything else.
        assert await store.pull(f"{name}@{digest}") == pulled
        assert await store.provide(f"{name}:1@{digest}") == pulled
    finally:
        registry.start()


async def test_what_is_here_is_used_when_the_registry_is_gone(store: ImageStore, registry: Registry) -> None:
    registry.push(ONE, "here:1")
    name = f"{registry.address}/here:1"
    pulled = await store.provide(name)
    registry.stop()
    try:
        assert await store.provide(name) == pulled
        with pytest.raises(RegistryUnreachable, match=rf"registry {registry.address} cannot be reached: .*refused"):
            await store.pull(name)
        with pytest.raises(ImageNotFound, match=rf"no such image: {name}9 \(on this node, and registry .* refused"):
            await store.provide(f"{name}9")
    finally:
        registry.start()


async def test_a_tag_that_moved_is_pulled_anew(store: ImageStore, registry: Registry) -> None:
    registry.push(ONE, "moving:1")
    name = f"{registry.address}/moving:1"
    assert (await store.pull(name)).id == ONE.id
    registry.push(TWO, "moving:1")
    assert (await store.provide(name)).id == ONE.id
    assert (await store.pull(name)).id == TWO.id
    assert (await store.find(name)).id == TWO.id


async def test_layers_that_are_here_are_not_fetched(store: ImageStore, registry: Registry) -> None:
    await store.load(parts(docker_save([(ONE, ["one"])])))
    registry.push(TWO, "shared/two:1")
    base, top = (json.loads(TWO.manifest)["layers"][number]["digest"] for number in (0, 1))
    before = len(registry.requests())
    words: list[Word] = []
    pulled = await store.pull(f"{registry.address}/shared/two:1", say=words.append)
    assert (await store.find("one")).layers == pulled.layers[:1]
    fetched = [one for one in registry.requests()[before:] if "/blobs/" in one and one.startswith("GET")]
    assert any(top in one for one in fetched)
    assert not any(base in one for one in fetched)
    assert f"{base[7:19]}: Already exists" in [word.line for word in words]
    # And nothing at all when everything is here.
    registry.push(TWO, "shared/again:1")
    before = len(registry.requests())
    assert (await store.pull(f"{registry.address}/shared/again:1")).id == TWO.id
    assert not any(base in one or top in one for one in registry.requests()[before:])


async def test_many_who_need_it_pull_it_once(store: ImageStore, registry: Registry) -> None:
    registry.push(TWO, "many:1")
    before = len(registry.requests())
    pulled = await asyncio.gather(*(store.provide(f"{registry.address}/many:1") for _ in range(20)))
    assert {one.id for one in pulled} == {TWO.id}
    layer = json.loads(TWO.manifest)["layers"][0]["digest"]
    assert sum(f"/blobs/{layer}" in one and one.startswith("GET") for one in registry.requests()[before:]) == 1


async def test_who_gives_up_does_not_take_it_from_others(store: ImageStore, registry: Registry) -> None:
    registry.push(ONE, "patience:1")
    name = f"{registry.address}/patience:1"
    impatient, patient = asyncio.create_task(store.pull(name)), asyncio.create_task(store.pull(name))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).id == ONE.id
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_when_nobody_needs_it_any_more_it_ends(store: ImageStore, registry: Registry) -> None:
    registry.push(TWO, "nobody:1")
    name = f"{registry.address}/nobody:1"
    begun = asyncio.Event()
    only = asyncio.create_task(store.pull(name, say=lambda _: begun.set()))
    await begun.wait()
    only.cancel()
    # One that comes just then begins anew.
    with pytest.raises(asyncio.CancelledError):
        await only
    assert (await store.pull(name)).id == TWO.id


async def test_credentials(store: ImageStore, guarded: Registry) -> None:
    guarded.push(ONE, "private/web:1")
    name = f"{guarded.address}/private/web:1"
    for auth in ("", registry_auth(password="wrong")):
        with pytest.raises(PullRefused, match=rf"registry {guarded.address} refuses {name}: .*authent|unauthorized"):
            await store.pull(name, auth)
    with pytest.raises(InvalidArgument, match="invalid registry_auth: base64 of a JSON object"):
        await store.pull(name, "no auth")
    assert (await store.pull(name, registry_auth())).id == ONE.id


async def test_what_is_not_there(store: ImageStore, registry: Registry) -> None:
    registry.push(ONE, "there:1")
    for name in ("there:2", "nowhere:1", f"there@sha256:{'0' * 64}"):
        reference = f"{registry.address}/{name}"
        with pytest.raises(ImageNotFound, match=rf"no such image: {reference} \(registry .* has none of that name\)"):
            await store.pull(reference)
    for reference in ("UPPER", "a:b:c", ""):
        with pytest.raises(ImageNotFound, match=rf"no such image: {reference} \(.*allowed is \[HOST"):
            await store.pull(reference)


async def test_a_registry_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = ImageStore(tmp_path / "images", pull_limit=0.5)
    await store.start()
    try:
        with pytest.raises(RegistryUnavailable, match=rf"registry {address} sends nothing \(for 0.5 s\)"):
            await store.pull(f"{address}/web:1")
    finally:
        await store.stop()
        server.close()


async def test_damaged_content_is_not_kept(store: ImageStore, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.start()
    try:
        registry.push(TWO, "damaged:1")
        layer = json.loads(TWO.manifest)["layers"][1]["digest"].removeprefix("sha256:")
        (blob,) = (tmp_path / "registry/data").rglob(f"{layer}/data")
        blob.write_bytes(b"x" * blob.stat().st_size)
        with pytest.raises((BadImage, RegistryUnavailable)):
            await store.pull(f"{registry.address}/damaged:1")
        assert store.images() == []
    finally:
        registry.stop()


@pytest.mark.parametrize("document", ["manifest", "configuration"])
async def test_what_is_not_what_its_digest_says_is_refused(store: ImageStore, tmp_path: Path, document: str) -> None:
    registry = Registry(tmp_path / "registry")
    registry.start()
    try:
        digest = registry.push(TWO, "forged:1")
        asked = digest if document == "manifest" else json.loads(TWO.manifest)["config"]["digest"]
        (blob,) = (tmp_path / "registry/data").rglob(f"{asked.removeprefix('sha256:')}/data")
        blob.write_bytes(blob.read_bytes() + b" ")
        with pytest.raises((BadImage, RegistryUnavailable), match=r"digest|damaged"):
            await store.pull(f"{registry.address}/forged@{digest}")
        assert store.images() == []
    finally:
        registry.stop()


async def test_stopping_ends_pulls(tmp_path: Path, registry: Registry) -> None:
    registry.push(TWO, "stopped:1")
    store = ImageStore(tmp_path / "images")
    await store.start()
    begun = asyncio.Event()
    pull = asyncio.create_task(store.pull(f"{registry.address}/stopped:1", say=lambda _: begun.set()))
    await begun.wait()
    await store.stop()
    with pytest.raises(Unavailable, match="worker stops"):
        await pull
