"""urllib3 on the event loop: each request in a thread, where what comes goes to the disk without a detour.

HTTP, pools, TLS and proxies are urllib3's. Two things it has not: a thread that waits for a server stops when nobody
wants the answer any longer (its connection is shut: `Exchange.interrupt`), and the addresses of a server are tried
beside each other (aiohappyeyeballs), where urllib3 gives each of them as long as all of them may take.
"""

import asyncio
import concurrent.futures
import http.client
import os
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote

import urllib3
from aiohappyeyeballs import start_connection
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from flota.worker.images.registry.configuration import is_insecure
from flota.worker.images.registry.failures import NoWay
from flota.worker.runtime.processes import to_the_end

_CONNECT_LIMIT = 30.0
_HANDSHAKE_LIMIT = 10.0
# As browsers do it: seconds until the next of several addresses is tried beside the first.
_STAGGER = 0.25
_PORTS = {"http": 80, "https": 443}
_PIECE = 256 << 10
# Of one server, what is kept for the next request.
_KEPT = 8
_TUNNEL = "Tunnel connection failed: "

# What goes with a request: whole, or in parts, which are asked for again when it is sent again.
Body = bytes | Callable[[], Iterable[bytes]] | None

T = TypeVar("T")
# Of registries that may show any certificate.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
# Which exchange a thread is busy with: urllib3 makes connections when it needs them.
_busy = threading.local()


class Exchange:
    """One request and its answer. Its thread can be interrupted."""

    def __init__(self, threads: Executor, limit: float) -> None:
        self.response: urllib3.BaseHTTPResponse | None = None
        # The connection had served before: its server may have closed it meanwhile.
        self.used_before = False
        self.target = ""
        self.limit = limit
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._connecting: concurrent.futures.Future[socket.socket] | None = None
        self._handle: socket.socket | None = None
        self._gone = False

    async def read(self, take: Callable[[bytes], bool]) -> None:
        """Have `take` called in a thread with all that comes, until it says False.

        Raises OSError, http.client.HTTPException, and what `take` raises.
        """

        response = self.response
        assert response is not None

        def pour() -> None:
            while part := response.read1(_PIECE, decode_content=False):
                if not take(part):
                    return
            # It serves somebody else by now.
            self._handle = None

        await self.in_thread(pour)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """What `function` gives back. Raises what it does."""
        work = asyncio.ensure_future(self._loop.run_in_executor(self._threads, self._raw, function))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self.interrupt()
            # It ends at once now, and nobody wants to know how.
            with suppress(Exception):
                await to_the_end(_ended(work))
            raise

    def interrupt(self) -> None:
        """Whoever waits for the server does so no longer."""
        self._gone = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def connect(self, host: str, port: int, what: str) -> socket.socket:
        """In its thread: a connection to a server. Raises NoWay."""
        self._connecting = asyncio.run_coroutine_threadsafe(
            _connected(host, port, min(self.limit, _CONNECT_LIMIT), what), self._loop
        )
        try:
            return self._connecting.result()
        except concurrent.futures.CancelledError:
            raise NoWay("nobody waits for it") from None
        finally:
            self._connecting = None

    def uses(self, handle: socket.socket) -> None:
        """In its thread: the connection that it goes over."""
        self._handle = handle
        if self._gone:
            raise NoWay("nobody waits for it")

    def _raw(self, function: Callable[[], T]) -> T:
        _busy.exchange = self
        try:
            return function()
        except urllib3.exceptions.HTTPError as error:
            raise _cause(error) from None
        finally:
            _busy.exchange = None


class _Connection(HTTPConnection):
    _handle: socket.socket | None = None
    _served = False

    def _new_conn(self) -> socket.socket:
        exchange: Exchange = _busy.exchange
        made = exchange.connect(self._dns_host, self.port, "proxy " if self.proxy is not None else "")
        for option in self.socket_options or ():
            made.setsockopt(*option)
        # Until the handshakes are over; then urllib3 sets what it was told.
        shakes = isinstance(self, HTTPSConnection) or self.proxy_is_tunneling
        made.settimeout(min(exchange.limit, _HANDSHAKE_LIMIT) if shakes else exchange.limit)
        # Of the same connection, whatever is wrapped around the first.
        self._handle = made.dup()
        exchange.used_before = False
        exchange.uses(self._handle)
        return made

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        exchange: Exchange = _busy.exchange
        if self.sock is not None and self._handle is not None:
            exchange.used_before = self._served
            exchange.uses(self._handle)
        # As it was given: urllib3 writes some characters in another way, and it may be signed.
        super().request(method, exchange.target, *args, **kwargs)
        self._served = True

    def close(self) -> None:
        super().close()
        self._served = False
        if self._handle is not None:
            self._handle.close()


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Connections:
    """To all servers that one registry leads to. `limit` are seconds without a byte; `threads` wait for them."""

    def __init__(self, trusted: ssl.SSLContext, limit: float, threads: Executor) -> None:
        self._trusted = trusted
        self._limit = limit
        self._threads = threads
        self._managers: dict[str, urllib3.PoolManager] = {}

    def close(self) -> None:
        """Those that nobody uses."""
        for manager in self._managers.values():
            manager.clear()

    async def ask(self, method: str, url: SplitResult, headers: Mapping[str, str], body: Body) -> Exchange:
        """The answer, whose content is still to come; `done` is to be called with it.

        Raises NoWay, OSError, http.client.HTTPException.
        """
        proxy = proxy_for(url)
        manager = self._manager(proxy)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if proxy and url.scheme == "http":
            target = f"http://{host_header(url)}{target}"
        headers = {"Host": host_header(url), **headers}
        # As often as there are connections that had been kept for too long, and over a new one.
        while True:
            exchange = Exchange(self._threads, self._limit)
            exchange.target = target

            def request(exchange: Exchange = exchange) -> None:
                exchange.response = manager.urlopen(
                    method,
                    url.geturl(),
                    headers=headers,
                    body=body() if callable(body) else body,
                    redirect=False,
                    preload_content=False,
                )

            try:
                await exchange.in_thread(request)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # The server has closed it meanwhile.
                if not exchange.used_before or callable(body):
                    raise
            except asyncio.CancelledError:
                # The answer may have come at the same moment.
                if exchange.response is not None:
                    exchange.response.close()
                raise
            else:
                return exchange

    def done(self, exchange: Exchange) -> None:
        """Its connection serves on, if the answer was read to its end."""
        response = exchange.response
        assert response is not None
        if isinstance(response, urllib3.HTTPResponse) and response.length_remaining == 0:
            # Nothing is to come, so nobody has read it; this does not block.
            response.drain_conn()
        # Nothing if it was.
        response.close()

    def _manager(self, proxy: str) -> urllib3.PoolManager:
        if proxy not in self._managers:
            limits = urllib3.Timeout(connect=self._limit, read=self._limit)
            given: dict[str, Any] = {
                "maxsize": _KEPT, "retries": False, "timeout": limits, "ssl_context": self._trusted, "blocksize": _PIECE
            }  # fmt: skip
            if proxy:
                made: urllib3.PoolManager = urllib3.ProxyManager(proxy, proxy_headers=_proxy_headers(proxy), **given)
            else:
                made = urllib3.PoolManager(**given)
            made.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
            self._managers[proxy] = made
        return self._managers[proxy]


async def _connected(host: str, port: int, limit: float, what: str) -> socket.socket:
    try:
        async with asyncio.timeout(limit):
            try:
                loop = asyncio.get_running_loop()
                addresses = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise NoWay(f"lookup {what}{host}: {(error.strerror or str(error)).lower()}") from None
            return await start_connection(addresses, happy_eyeballs_delay=_STAGGER)
    except TimeoutError:
        raise NoWay(f"connect: {what}{host} does not answer") from None
    except OSError as error:
        raise NoWay(f"connect: {what}{_system(error)}") from None


def proxy_for(url: SplitResult) -> str:
    """As HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; empty without one, and always for this machine itself."""
    host = url.hostname or ""
    named = f"[{host}]:{port(url)}" if ":" in host else f"{host}:{port(url)}"
    if is_insecure(named, ()) or urllib.request.proxy_bypass_environment(named):  # type: ignore[attr-defined]
        return ""
    found = urllib.request.getproxies_environment().get(url.scheme, "")
    return found if not found or "://" in found else f"http://{found}"


def port(url: SplitResult) -> int:
    """The one it names, or its scheme's."""
    return url.port or _PORTS.get(url.scheme, 80)


def host_header(url: SplitResult) -> str:
    """HOST[:PORT], without what may stand before it."""
    return url.netloc.rpartition("@")[2]


def _proxy_headers(proxy: str) -> dict[str, str]:
    """What it is shown."""
    known = urllib3.util.parse_url(proxy).auth
    if not known:
        return {}
    return {"Proxy-Authorization": urllib3.make_headers(proxy_basic_auth=unquote(known))["proxy-authorization"]}


async def _ended(work: "asyncio.Future[T]") -> None:
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # seen


def _cause(error: Exception) -> OSError | http.client.HTTPException | NoWay:
    """What urllib3 has wrapped."""
    while not isinstance(error, OSError | http.client.HTTPException | NoWay):
        if isinstance(error, urllib3.exceptions.TimeoutError):
            return TimeoutError()
        if isinstance(error, urllib3.exceptions.ProxySchemeUnknown):
            return NoWay(f"proxy: {error}")
        inner = next((one for one in error.args if isinstance(one, Exception)), None)
        if inner is None:
            return http.client.HTTPException(str(error))
        error = inner
    if str(error).startswith(_TUNNEL):
        return NoWay(f"proxy says {str(error).removeprefix(_TUNNEL)}")
    return error


def _system(error: OSError) -> str:
    """As system calls have it: connection refused."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)).lower()
