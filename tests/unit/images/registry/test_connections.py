"""Requests over urllib3: whoever waits can be interrupted at any time, and what a server closed is opened anew."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from urllib.parse import SplitResult, urlsplit

import pytest

from flota.worker.images.registry.connections import Connections
from flota.worker.images.registry.failures import NoWay

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
    """A server that does this with each connection; HOST:PORT."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(one for one in tasks if one is not None), return_exceptions=True)


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    trusted = ssl.create_default_context()
    threads = ThreadPoolExecutor(4)
    made = Connections(trusted, 600, threads)
    yield made
    made.close()
    # No thread is left that waits.
    await asyncio.to_thread(threads.shutdown)


async def content(connections: Connections, url: SplitResult) -> bytes:
    got = bytearray()

    def take(data: bytes) -> bool:
        got.extend(data)
        return True

    exchange = await connections.ask("GET", url, {}, None)
    try:
        await exchange.read(take)
    finally:
        connections.done(exchange)
    return bytes(got)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"])
async def test_who_waits_is_interrupted(connections: Connections, scheme: str, begin: bytes) -> None:
    """In the middle of handshakes, of headers, of what comes."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(begin)
        asked.set()
        await asyncio.Event().wait()

    async with served(silent) as address:
        if scheme == "https" and begin:
            return
        waiting = asyncio.create_task(content(connections, urlsplit(f"{scheme}://{address}/")))
        await asked.wait()
        waiting.cancel()
        async with asyncio.timeout(120):
            with pytest.raises(asyncio.CancelledError):
                await waiting


async def test_a_connection_serves_for_the_next_request_and_one_that_was_closed_is_made_anew(
    connections: Connections,
) -> None:
    served_by: list[int] = []

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(set(served_by))
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            served_by.append(number)
            writer.write(HELLO)
        # It takes the next request, and goes without a word.
        await reader.readuntil(b"\r\n\r\n")

    async with served(twice) as address:
        for _ in range(5):
            assert await content(connections, urlsplit(f"http://{address}/")) == b"hello"
    assert served_by == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("POST", b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
async def test_answers_without_content_need_no_reading(connections: Connections, method: str, said: bytes) -> None:
    """The connection serves for the next request."""
    made: list[int] = []

    async def always(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(1)
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)

    async with served(always) as address:
        for _ in range(3):
            connections.done(await connections.ask(method, urlsplit(f"http://{address}/"), {}, None))
    assert made == [1]


async def test_an_answer_that_ends_too_early(connections: Connections) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO[:-2])
        await writer.drain()

    async with served(half) as address:
        with pytest.raises(Exception, match="IncompleteRead"):
            await content(connections, urlsplit(f"http://{address}/"))


def test_a_worker_that_asks_no_registry_has_no_client_in_memory() -> None:
    code = "import sys, flota.worker.process; sys.exit('urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_proxy_is_told_all_of_the_address(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written, with what the proxy wants to be shown."""
    heads: list[list[str]] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"))
            writer.write(HELLO)

    async with served(proxy) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://so%3Ame:one@{address}")
        for path in ("/v2/?a=%2f|b", "/v2/"):
            assert await content(connections, urlsplit(f"http://registry.test:5000{path}")) == b"hello"
    assert [head[0] for head in heads] == [
        "GET http://registry.test:5000/v2/?a=%2f|b HTTP/1.1",
        "GET http://registry.test:5000/v2/ HTTP/1.1",
    ]
    for head in heads:
        assert [line for line in head if line.startswith("Host:")] == ["Host: registry.test:5000"]
        assert sum(line.startswith("Proxy-Authorization: Basic ") for line in head) == 1


async def test_a_proxy_that_refuses_is_named(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with served(proxy) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        with pytest.raises(NoWay, match="proxy says 407 Proxy Authentication Required"):
            await content(connections, urlsplit("https://registry.test/v2/"))
