"""What is sent to a registry, and what need not be; connections that break, registries and disks that are full."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from flota.rpc.errors import ResourceExhausted
from flota.worker.images.errors import RegistryUnavailable
from flota.worker.images.pull import Word
from flota.worker.images.registry import fetching
from flota.worker.images.store import ImageStore
from tests.cluster.images.conftest import serving
from tests.cluster.images.registry import Registry
from tests.unit.images.making import MadeImage, docker_save, parts, sha256, tar

BASE = tar([("base", os.urandom(20_000))])
BIG = tar([("data", os.urandom(3_000_000))])
BIGGER = tar([("data", os.urandom(5_000_000))])
IMAGE = MadeImage([BIG], {"Cmd": ["pushed"]})


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the next try."""
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(fetching, "WAITS", (0.001, 0.001, 0.001))


def lines(words: list[Word]) -> list[str]:
    return [word.line.partition(": ")[2] for word in words]


def sent(registry: Registry, since: int) -> list[str]:
    """Methods by which something was sent."""
    methods = [one.partition(" ")[0] for one in registry.requests()[since:]]
    return [one for one in methods if one in ("POST", "PATCH", "PUT")]


async def test_what_a_registry_has_under_another_name_is_mounted(store: ImageStore, registry: Registry) -> None:
    first, second = f"{registry.address}/mounted/one:1", f"{registry.address}/mounted/two:1"
    await store.load(parts(docker_save([(IMAGE, [first])])))
    digest = await store.push(first)
    await store.tag(first, second)
    words: list[Word] = []
    since = len(registry.requests())
    assert await store.push(second, say=words.append) == digest
    assert "Mounted from mounted/one" in lines(words)
    # The configuration is small and sent: asked for a place, for the mount, and put, as the manifest.
    assert sorted(sent(registry, since)) == ["POST", "POST", "PUT", "PUT"]


async def test_an_image_that_was_pulled_keeps_its_digest(store: ImageStore, registry: Registry, tmp_path: Path) -> None:
    """Its layers were compressed by somebody else, in another way."""
    image = MadeImage([BASE, BIG], {"Cmd": ["kept"]}, compression="zstd")
    digest = registry.push(image, "kept/one:1")
    await store.pull(f"{registry.address}/kept/one:1")
    for name in ("kept/one:2", "kept/two:1"):
        await store.tag(f"{registry.address}/kept/one:1", f"{registry.address}/{name}")
        assert await store.push(f"{registry.address}/{name}") == digest


async def test_a_layer_of_another_image_is_not_sent_again(store: ImageStore, registry: Registry) -> None:
    """At another registry it has to be: what it is called there nobody knows."""
    lower = MadeImage([BASE], {"Cmd": ["lower"]}, compression="gzip")
    upper = MadeImage([BASE, tar([("more", b"more")])], {"Cmd": ["upper"]})
    registry.push(lower, "shared/lower:1")
    await store.pull(f"{registry.address}/shared/lower:1")
    name = f"{registry.address}/shared/upper:1"
    await store.load(parts(docker_save([(upper, [name])])))
    words: list[Word] = []
    await store.push(name, say=words.append)
    assert sorted(line for line in lines(words) if line.startswith(("Mounted", "Pushed"))) == [
        "Mounted from shared/lower",
        "Pushed",
    ]
    await store.remove(name, force=True)
    assert (await store.pull(name)).id == upper.id


@asynccontextmanager
async def cutting(registry: Registry, cuts: list[int]) -> AsyncIterator[tuple[str, list[int]]]:
    """In front of a registry: each of the first connections that send much ends after so many bytes.

    Its address, and how much each of those has sent.
    """
    counts: list[int] = []
    host, _, port = registry.address.rpartition(":")

    async def there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, at = None, 0
        while data := await reader.read(65536):
            at += len(data)
            if at > 100_000:
                if number is None:
                    number = len(counts)
                    counts.append(0)
                if number < len(cuts) and at > cuts[number]:
                    data = data[: len(data) - (at - cuts[number])]
                    at = cuts[number]
                counts[number] = at
            writer.write(data)
            await writer.drain()
            if number is not None and number < len(cuts) and at == cuts[number]:
                break
        writer.close()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, asked = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        with suppress(OSError):
            both = {asyncio.create_task(there(reader, asked)), asyncio.create_task(back(answers, writer))}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
                asked.close()
                writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", counts
    finally:
        server.close()


async def test_what_breaks_off_is_sent_again(store: ImageStore, registry: Registry) -> None:
    async with cutting(registry, [1_000_000, 700_000]) as (address, counts):
        name = f"{address}/cut/layer:1"
        await store.load(parts(docker_save([(IMAGE, [name])])))
        words: list[Word] = []
        digest = await store.push(name, say=words.append)
    assert (counts[:2], len(counts)) == ([1_000_000, 700_000], 3)
    assert sum(line.startswith("Retrying in ") for line in lines(words)) == 2
    assert (await store.pull(f"{registry.address}/cut/layer@{digest}")).id == IMAGE.id


async def test_a_registry_that_goes_in_the_middle(store: ImageStore, tmp_path: Path) -> None:
    with serving(Registry(tmp_path / "registry")) as going:
        async with cutting(going, [1_000_000]) as (address, _):
            name = f"{address}/went/away:1"
            await store.load(parts(docker_save([(IMAGE, [name])])))

            def say(word: Word) -> None:
                if "Retrying" in word.line:
                    going.stop()

            message = f"pushing {name} to registry {address} failed: the connection ended too early"
            with pytest.raises(RegistryUnavailable, match=message):
                await store.push(name, say=say)
            going.start()
            # Nothing of it is named there.
            assert await store.push(name)


async def test_who_gives_up_ends_it(store: ImageStore, registry: Registry) -> None:
    name = f"{registry.address}/given/up:1"
    await store.load(parts(docker_save([(IMAGE, [name])])))
    begun = asyncio.Event()
    pushing = asyncio.create_task(store.push(name, say=lambda word: begun.set() if "Prep" in word.line else None))
    await begun.wait()
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    # And what was made for it is gone (the fixture looks).


async def test_no_space_at_the_registry(store: ImageStore, small_disk: Path) -> None:
    with serving(Registry(small_disk / "registry")) as full:
        name = f"{full.address}/too/much:1"
        await store.load(parts(docker_save([(MadeImage([BASE, BIGGER]), [name])])))
        with pytest.raises(RegistryUnavailable, match=f"pushing {name} to registry {full.address} failed: .*no space"):
            await store.push(name)
    shutil.rmtree(small_disk / "registry")


async def test_no_space_on_this_node(small_disk: Path, registry: Registry) -> None:
    store = ImageStore(small_disk / "node", pull_limit=60)
    await store.start()
    try:
        name = f"{registry.address}/node/full:1"
        await store.load(parts(docker_save([(MadeImage([tar([("d", os.urandom(500_000))])]), [name])])))
        filler = small_disk / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        with pytest.raises(ResourceExhausted, match="no space is left for images on this node"):
            await store.push(name)
        filler.unlink()
        assert await store.push(name)
        assert list((small_disk / "node/incoming").iterdir()) == []
    finally:
        await store.stop()


async def test_what_a_registry_gets_is_what_it_was(store: ImageStore, registry: Registry, tmp_path: Path) -> None:
    """As others take it: skopeo checks all digests."""
    name = f"{registry.address}/others/take:1"
    await store.load(parts(docker_save([(MadeImage([BASE, BIG, BASE], {"Cmd": ["thrice"]}), [name])])))
    await store.push(name)
    command = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{name}"]
    done = await asyncio.create_subprocess_exec(*command, f"oci:{tmp_path}/layout:1")
    assert await done.wait() == 0
    assert sha256(BIG).removeprefix("sha256:") not in os.listdir(tmp_path / "layout/blobs/sha256")
