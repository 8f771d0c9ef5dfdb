"""Layers that come over connections that break: each goes on where the last one ended, and what comes out is right."""

import asyncio
import os
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flota.worker.images.errors import BadImage, PullRefused, RegistryUnavailable
from flota.worker.images.pull import Word
from flota.worker.images.registry import fetching
from flota.worker.images.store import ImageStore
from tests.cluster.images.authority import Authority, serving, token_server
from tests.cluster.images.proxy import Proxy, proxy
from tests.cluster.images.registry import PASSWORD, USER, Registry, registry_auth
from tests.unit.images.making import MadeImage, docker_save, parts, sha256, tar

LAYER = tar([("data", os.urandom(3_000_000))])
IMAGE = MadeImage([LAYER], {"Cmd": ["resumed"]})
DIGEST = sha256(LAYER)
FAR = 1_000_000


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the next try."""
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.001)


@pytest.fixture
def between(registry: Registry) -> Iterator[Proxy]:
    registry.push(IMAGE, "resumed:1")
    with proxy(registry.address) as made:
        yield made


def layers(between: Proxy) -> list[tuple[str, int]]:
    """Ranges that were asked for, and statuses."""
    return [(one.range, one.status) for one in between.sent if one.path.endswith(DIGEST)]


def bytes_sent(between: Proxy) -> int:
    return sum(one.bytes for one in between.sent if one.path.endswith(DIGEST))


@asynccontextmanager
async def started(directory: Path) -> AsyncIterator[ImageStore]:
    """A store, as a daemon finds it when it starts."""
    made = ImageStore(directory, pull_limit=60)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def partial(directory: Path) -> Path:
    return directory / "partial" / DIGEST.removeprefix("sha256:")


async def test_a_broken_connection_goes_on_within_the_pull(store: ImageStore, between: Proxy, tmp_path: Path) -> None:
    between.cuts = [FAR, 500_000]
    words: list[Word] = []
    assert (await store.pull(f"{between.address}/resumed:1", say=words.append)).id == IMAGE.id
    assert layers(between) == [("", 200), (f"bytes={FAR}-", 206), (f"bytes={FAR + 500_000}-", 206)]
    assert bytes_sent(between) == len(LAYER)
    assert any(word.line.startswith(f"{DIGEST[7:19]}: Retrying at 1.0 MB") for word in words)
    assert list((tmp_path / "images/partial").iterdir()) == []


async def test_the_next_pull_goes_on_also_after_a_restart(between: Proxy, tmp_path: Path) -> None:
    between.cuts = [FAR] + [0] * fetching.TRIES
    name = f"{between.address}/resumed:1"
    async with started(tmp_path) as store:
        with pytest.raises(
            RegistryUnavailable, match=r"resumed:1 from registry .* failed: the connection ended too early"
        ):
            await store.pull(name)
    assert partial(tmp_path).stat().st_size == FAR
    words: list[Word] = []
    async with started(tmp_path) as store:
        assert (await store.pull(name, say=words.append)).id == IMAGE.id
    assert layers(between)[-1] == (f"bytes={FAR}-", 206)
    assert bytes_sent(between) == len(LAYER)
    assert f"{DIGEST[7:19]}: Resuming at 1.0 MB of 3.0 MB" in [word.line for word in words]
    assert not partial(tmp_path).exists()


async def test_a_server_that_knows_no_ranges_sends_all_of_it_again(store: ImageStore, between: Proxy) -> None:
    between.knows_ranges = False
    between.cuts = [FAR]
    assert (await store.pull(f"{between.address}/resumed:1")).id == IMAGE.id
    assert layers(between) == [("", 200), (f"bytes={FAR}-", 200)]
    assert bytes_sent(between) == FAR + len(LAYER)


async def test_what_had_come_is_damaged(between: Proxy, tmp_path: Path) -> None:
    between.cuts = [FAR] + [0] * fetching.TRIES
    name = f"{between.address}/resumed:1"
    async with started(tmp_path) as store:
        with pytest.raises(RegistryUnavailable):
            await store.pull(name)
    with partial(tmp_path).open("r+b") as file:
        file.seek(FAR // 2)
        byte = file.read(1)
        file.seek(FAR // 2)
        file.write(bytes([byte[0] ^ 1]))
    words: list[Word] = []
    async with started(tmp_path) as store:
        pulled = await store.pull(name, say=words.append)
        assert (store.layers_directory / pulled.layers[0] / "data").read_bytes() in LAYER
    assert layers(between)[-2:] == [(f"bytes={FAR}-", 206), ("", 200)]
    assert f"{DIGEST[7:19]}: What had come is damaged, beginning anew" in [word.line for word in words]


async def test_all_of_it_had_come(between: Proxy, tmp_path: Path) -> None:
    """The worker died before it was unpacked."""
    async with started(tmp_path) as store:
        partial(tmp_path).write_bytes(LAYER)
        assert (await store.pull(f"{between.address}/resumed:1")).id == IMAGE.id
    assert layers(between) == []


async def test_more_than_all_of_it_had_come(between: Proxy, tmp_path: Path) -> None:
    async with started(tmp_path) as store:
        partial(tmp_path).write_bytes(LAYER + b"more")
        assert (await store.pull(f"{between.address}/resumed:1")).id == IMAGE.id
    assert layers(between) == [("", 200)]


async def test_a_registry_that_sends_something_else_is_told_once_it_is_sure(store: ImageStore, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.start()
    try:
        registry.push(IMAGE, "resumed:1")
        (blob,) = (tmp_path / "registry/data").rglob(f"{DIGEST.removeprefix('sha256:')}/data")
        blob.write_bytes(b"x" * len(LAYER))
        with proxy(registry.address) as between:
            between.cuts = [FAR]
            with pytest.raises(BadImage, match=f"layer {DIGEST} is damaged: the digest of what came is sha256:"):
                await store.pull(f"{between.address}/resumed:1")
            assert [one for one, _ in layers(between)] == ["", f"bytes={FAR}-", ""]
        assert list((tmp_path / "images/partial").iterdir()) == []
    finally:
        registry.stop()


async def test_whom_blobs_are_at_elsewhere_does_not_see_credentials(
    store: ImageStore, guarded: Registry, registry: Registry
) -> None:
    guarded.push(IMAGE, "resumed:1")
    registry.push(IMAGE, "resumed:1")
    with proxy(guarded.address) as between, proxy(registry.address) as bucket:
        between.elsewhere = bucket.address
        bucket.cuts = [FAR]
        assert (await store.pull(f"{between.address}/resumed:1", registry_auth())).id == IMAGE.id
        assert layers(bucket) == [("", 200), (f"bytes={FAR}-", 206)]
        assert {one.authorization for one in bucket.sent} == {""}
        # As it was given: it may be signed.
        assert all(path.endswith("?signed=a%2fb|c") for path in bucket.paths)


async def test_who_asks_for_credentials_elsewhere_gets_none(store: ImageStore, guarded: Registry) -> None:
    asked: list[tuple[str, str | None]] = []

    class Bucket(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path.partition("?")[0], self.headers["Authorization"]))
            self.send_response(401)
            self.send_header("Www-Authenticate", f'Bearer realm="http://{self.headers["Host"]}/token"')
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not on the terminal."""

    guarded.push(IMAGE, "resumed:1")
    refused = pytest.raises(PullRefused, match=r"status 401 \(unauthorized\)")
    with proxy(guarded.address) as between, serving(Bucket) as between.elsewhere, refused:
        await store.pull(f"{between.address}/resumed:1", registry_auth())
    assert asked == [(f"/v2/resumed/blobs/{sha256(IMAGE.configuration)}", None)]


async def test_a_token_that_runs_out_in_the_middle(store: ImageStore, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "tokens")
    given: list[str] = []
    # Its server says that it lasts longer.
    with token_server(authority, USER, PASSWORD, lasts=-55, given=given) as realm:
        registry = Registry(tmp_path / "registry", tokens=(authority, realm))
        registry.start()
        try:
            name = f"{registry.address}/by/token:1"
            await store.load(parts(docker_save([(IMAGE, [name])])))
            await store.push(name, registry_auth())
            await store.remove(name, force=True)
            with proxy(registry.address) as between:

                def until_it_has_run_out(request: BaseHTTPRequestHandler) -> None:
                    if "Range" in request.headers and request.headers["Authorization"] == f"Bearer {used[0]}":
                        wait_until_refused(f"http://{registry.address}{request.path}", used[0])
                    elif not used:
                        used.append(request.headers["Authorization"].removeprefix("Bearer "))

                used: list[str] = []
                between.before = until_it_has_run_out
                between.cuts = [FAR]
                before = len(given)
                assert (await store.pull(f"{between.address}/by/token:1", registry_auth())).id == IMAGE.id
                whole = [one for one in between.sent if one.bytes > 100_000]
                assert [one.status for one in whole] == [200, 206]
                assert whole[0].authorization != whole[1].authorization
                assert len(given) - before == 2
        finally:
            registry.stop()


def wait_until_refused(url: str, token: str) -> None:
    while True:
        try:
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}", "Range": "bytes=0-0"})
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            error.close()
            return


async def test_two_pulls_that_need_one_layer_fetch_it_once(
    store: ImageStore, between: Proxy, registry: Registry
) -> None:
    other = MadeImage([LAYER, tar([("more", b"more")])])
    registry.push(other, "resumed/other:1")
    both = asyncio.Event()
    between.cuts = [FAR]

    async def second() -> str:
        await both.wait()
        return (await store.pull(f"{between.address}/resumed/other:1")).id

    waiting = asyncio.create_task(second())
    first = await store.pull(f"{between.address}/resumed:1", say=lambda word: both.set())
    assert (first.id, await waiting) == (IMAGE.id, other.id)
    assert bytes_sent(between) == len(LAYER)


async def test_layers_come_several_at_a_time_but_not_all(store: ImageStore, registry: Registry) -> None:
    many = MadeImage([tar([("one", os.urandom(1000))]) for _ in range(9)])
    registry.push(many, "many/layers:1")
    digests = {sha256(layer) for layer in many.layers}
    now: list[int] = [0]
    most: list[int] = [0]
    changed = threading.Condition()

    def together(request: BaseHTTPRequestHandler) -> None:
        if request.path.rpartition("/")[2] not in digests:
            return
        with changed:
            now[0] += 1
            most[0] = max(most[0], now[0])
            changed.notify_all()
            # Whoever is here waits for a second one, however long that takes, and for one more than there may be.
            changed.wait_for(lambda: most[0] > 1, 60)
            changed.wait_for(lambda: most[0] > 4, 0.5)
            now[0] -= 1

    with proxy(registry.address) as between:
        between.before = together
        assert len((await store.pull(f"{between.address}/many/layers:1")).layers) == 9
    assert 1 < most[0] <= 4
