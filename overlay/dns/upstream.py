"""Questions that are not about our names: asked of the servers the node (or the task's own configuration) names.

Each server gets TIMEOUT seconds; a server that stayed silent is asked last for a while, and when all stayed silent
the answer is SERVFAIL at once. Answers are kept for their time to live, at most LONGEST seconds.
"""

import asyncio
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dnslib import DNSError, DNSRecord

from flota.overlay.dns import wire

TIMEOUT = 2.0
LONGEST = 300
_QUARANTINE = 10.0
_CACHED = 4096
_IN_FLIGHT = 512
_PORT = 53


@dataclass(frozen=True)
class HostResolver:
    """What a resolv.conf says."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> HostResolver:
    """Read a resolv.conf(5): nameserver, the last search or domain, options."""
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", address, *_]:
                nameservers.append(address)
            case ["search" | "domain", *domains]:
                search = domains
            case ["options", *more]:
                options += more
    return HostResolver(tuple(nameservers), tuple(search), tuple(options))


class HostConfiguration:
    """The node's resolv.conf, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._parsed = HostResolver()

    def read(self) -> HostResolver:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._parsed = parse_resolv_conf(self._path.read_text())
                self._stamp = stamp
        except OSError:
            self._parsed, self._stamp = HostResolver(), None
        return self._parsed


class Upstream:
    """Asks other servers. `port` is theirs; `clock` counts seconds."""

    def __init__(self, port: int = _PORT, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._cache: OrderedDict[tuple[object, ...], tuple[float, float, DNSRecord]] = OrderedDict()

    async def ask(self, data: bytes, question: wire.Question, servers: Sequence[str], stream: bool) -> bytes:
        """The answer to the query `data` over UDP, or TCP if `stream`; SERVFAIL when nobody answers."""
        if not servers:
            code = wire.SERVFAIL if "." in question.name else wire.NXDOMAIN
            return wire.reply(question, code)
        if self._slots.locked():
            return wire.reply(question, wire.SERVFAIL)
        # The section holds name, type and class; names that differ in letter case only are one.
        key = (tuple(servers), question.section.lower(), question.edns, data[3] & 0x10)
        cached = self._cached(key, question)
        if cached is not None and (stream or len(cached) <= question.limit):
            return cached
        async with self._slots:
            for server in self._in_order(servers):
                answer = await self._exchange(data, server, stream)
                if answer is not None:
                    self._keep(key, answer)
                    return answer
        return wire.reply(question, wire.SERVFAIL)

    def _in_order(self, servers: Sequence[str]) -> list[str]:
        """Servers that answer; if none does, nobody is asked until the quarantine of one is over."""
        now = self._clock()
        return [server for server in servers if self._silent_until.get(server, 0) <= now]

    async def _exchange(self, data: bytes, server: str, stream: bool) -> bytes | None:
        query = struct.pack("!H", secrets.randbits(16)) + data[2:]
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await (self._over_tcp(query, server) if stream else self._over_udp(query, server))
        except (TimeoutError, OSError, EOFError):
            self._silent_until[server] = self._clock() + _QUARANTINE
            return None
        self._silent_until.pop(server, None)
        return data[:2] + answer[2:]

    async def _over_udp(self, query: bytes, server: str) -> bytes:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bytes] = loop.create_future()
        transport, _protocol = await loop.create_datagram_endpoint(
            lambda: _Exchange(query, waiter), remote_addr=(server, self._port)
        )
        try:
            return await waiter
        finally:
            transport.close()

    async def _over_tcp(self, query: bytes, server: str) -> bytes:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            writer.write(struct.pack("!H", len(query)) + query)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = await reader.readexactly(length)
            if answer[:2] != query[:2]:
                raise OSError(f"{server} answered another question")
            return answer
        finally:
            writer.close()

    def _cached(self, key: tuple[object, ...], question: wire.Question) -> bytes | None:
        entry = self._cache.get(key)
        if entry is None:
            return None
        stored, expires, record = entry
        now = self._clock()
        if expires <= now:
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        aged = DNSRecord.parse(record.pack())
        aged.header.id = question.id
        for resource in (*aged.rr, *aged.auth):
            resource.ttl = max(0, resource.ttl - int(now - stored))
        return bytes(aged.pack())

    def _keep(self, key: tuple[object, ...], answer: bytes) -> None:
        try:
            record = DNSRecord.parse(answer)
        except (DNSError, ValueError):
            return
        if record.header.tc or record.header.rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return
        lives = [resource.ttl for resource in (*record.rr, *record.auth)]
        life = min([*lives, LONGEST]) if lives else 0
        if life <= 0:
            return
        now = self._clock()
        self._cache[key] = (now, now + life, record)
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)


class _Exchange(asyncio.DatagramProtocol):
    """One query and the datagram that answers it."""

    def __init__(self, query: bytes, waiter: asyncio.Future[bytes]) -> None:
        self._query = query
        self._waiter = waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # (asyncio's and uvloop's classes for it have no common name but this one.)
        cast(asyncio.DatagramTransport, transport).sendto(self._query)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        # A connected socket hears only the server; a wrong identifier is a late or forged answer.
        if data[:2] == self._query[:2] and not self._waiter.done():
            self._waiter.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(exc)
