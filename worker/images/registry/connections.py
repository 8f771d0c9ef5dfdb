"""Connections to servers: made on the event loop, used in threads, where what comes goes to the disk without a detour.

A thread that waits for a server cannot be interrupted, but its connection can be shut: `Connection.interrupt`.
"""

import asyncio
import base64
import http.client
import os
import socket
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from aiohappyeyeballs import start_connection

from flota.worker.images.registry.configuration import is_insecure
from flota.worker.runtime.processes import to_the_end

_CONNECT_LIMIT = 30.0
_HANDSHAKE_LIMIT = 10.0
# As browsers do it: seconds until the next of several addresses is tried beside the first.
_STAGGER = 0.25
_PORTS = {"http": 80, "https": 443}
_PIECE = 256 << 10

T = TypeVar("T")


class NoWay(Exception):
    """A server cannot be reached. The message is for people."""


class Connection:
    """One request after the other."""

    def __init__(self, plain: socket.socket, threads: Executor) -> None:
        self._socket = plain
        # Of the same connection, whatever is wrapped around the first.
        self._handle = plain.dup()
        self._threads = threads
        self._http = http.client.HTTPConnection("")
        self._http.auto_open = 0
        self._response: http.client.HTTPResponse | None = None
        self._left: int | None = None

    async def begin(self, url: SplitResult, proxy: SplitResult | None, trusted: ssl.SSLContext, limit: float) -> None:
        """Through the proxy and TLS, if there is to be any. Raises OSError, http.client.HTTPException."""

        def handshakes() -> None:
            self._socket.settimeout(min(limit, _HANDSHAKE_LIMIT))
            if url.scheme == "https":
                if proxy is not None:
                    _tunnel(self._socket, url, proxy)
                self._socket = trusted.wrap_socket(self._socket, server_hostname=url.hostname)
            self._socket.settimeout(limit)
            self._http.sock = self._socket

        await self._in_thread(handshakes)

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        """The answer, whose content is still to come. Raises OSError, http.client.HTTPException."""

        def ask() -> http.client.HTTPResponse:
            self._http.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                self._http.putheader(name, value)
            self._http.endheaders(body)
            return self._http.getresponse()

        self._response = response = await self._in_thread(ask)
        length = response.getheader("Content-Length", "")
        self._left = int(length) if length.isascii() and length.isdigit() and not response.chunked else None
        return response

    async def read(self, take: Callable[[bytes], bool]) -> bool:
        """Have `take` called in a thread with all that comes, until it says False; whether it was all.

        Raises OSError, http.client.HTTPException, and what `take` raises.
        """
        response = self._response
        assert response is not None

        def pour() -> bool:
            while self._left != 0:
                part = response.read1(_PIECE if self._left is None else min(_PIECE, self._left))
                if not part:
                    return self._left is None
                if self._left is not None:
                    self._left -= len(part)
                if not take(part):
                    return False
            return True

        whole = await self._in_thread(pour)
        if whole:
            response.close()
        return whole

    @property
    def is_free(self) -> bool:
        """Whether it serves for one more request."""
        return self._response is not None and self._response.isclosed() and not self._response.will_close

    def interrupt(self) -> None:
        """Whoever waits for the server does so no longer."""
        with suppress(OSError):
            self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._socket.close()
        self._handle.close()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        work = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._threads, function))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self.interrupt()
            # It ends at once now, and nobody wants to know how.
            with suppress(Exception):
                await to_the_end(_ended(work))
            raise


async def connect(url: SplitResult, trusted: ssl.SSLContext, limit: float, threads: Executor) -> Connection:
    """A connection over which `url` can be asked for.

    Raises NoWay, OSError, http.client.HTTPException (both from the handshakes).
    """
    proxy = proxy_for(url)
    server = proxy or url
    made = Connection(await _connected(server, limit, "proxy " if proxy is not None else ""), threads)
    try:
        await made.begin(url, proxy, trusted, limit)
    except BaseException:
        made.close()
        raise
    return made


async def _connected(server: SplitResult, limit: float, what: str) -> socket.socket:
    loop = asyncio.get_running_loop()
    host = server.hostname or ""
    try:
        async with asyncio.timeout(min(limit, _CONNECT_LIMIT)):
            try:
                addresses = await loop.getaddrinfo(host, port(server), type=socket.SOCK_STREAM)
            except OSError as error:
                raise NoWay(f"lookup {what}{host}: {(error.strerror or str(error)).lower()}") from None
            return await start_connection(addresses, happy_eyeballs_delay=_STAGGER)
    except TimeoutError:
        raise NoWay(f"connect: {what}{host} does not answer") from None
    except OSError as error:
        raise NoWay(f"connect: {what}{_system(error)}") from None


def proxy_for(url: SplitResult) -> SplitResult | None:
    """As HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; never to this machine itself."""
    host = url.hostname or ""
    named = f"[{host}]:{port(url)}" if ":" in host else f"{host}:{port(url)}"
    if is_insecure(named, ()) or urllib.request.proxy_bypass_environment(named):  # type: ignore[attr-defined]
        return None
    found = urllib.request.getproxies_environment().get(url.scheme, "")
    return urlsplit(found if "://" in found else f"http://{found}") if found else None


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """What it is shown."""
    if proxy.username is None:
        return {}
    known = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(known.encode()).decode()}"}


def port(url: SplitResult) -> int:
    """The one it names, or its scheme's."""
    return url.port or _PORTS.get(url.scheme, 80)


def host_header(url: SplitResult) -> str:
    """HOST[:PORT], without what may stand before it."""
    return url.netloc.rpartition("@")[2]


def _tunnel(plain: socket.socket, url: SplitResult, proxy: SplitResult) -> None:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    target = f"{host}:{port(url)}"
    headers = {"Host": target} | proxy_headers(proxy)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    plain.sendall(f"CONNECT {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
    answer = http.client.HTTPResponse(plain, method="CONNECT")
    answer.begin()
    if answer.status != 200:
        raise NoWay(f"proxy {proxy.hostname} says {answer.status} ({answer.reason})")


async def _ended(work: "asyncio.Future[T]") -> None:
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # seen


def _system(error: OSError) -> str:
    """As system calls have it: connection refused."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)).lower()
