"""Questions that are not about our names: asked of the servers the node (or the task's own configuration) names.

A server that says nothing for STAGGER seconds gets company: the next one is asked as well, and whoever answers first
is believed. One that was silent is asked last for a while. It is asked all the same: one lost datagram, or a name whose
own servers are dead, must not take the others' names away. An answer that is a refusal (SERVFAIL, REFUSED) counts only
if nobody has a better one. Answers are kept for their time to live, at most LONGEST seconds.
"""

import asyncio
import ipaddress
import secrets
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnslib import DNSError, DNSRecord

from flota.overlay.dns import wire

# Seconds: in all, until the next server is asked too, and until a datagram is sent again. Clients wait for five
# (resolv.conf(5), timeout), and an answer is to come before they ask again.
PATIENCE = 4.5
STAGGER = 1.5
_AGAIN = 1.0
LONGEST = 300
_QUARANTINE = 10.0
_CACHED = 4096
_IN_FLIGHT = 512
_PORT = 53

# Makes a socket of a family and type that does not block, where questions are to come from.
Open = Callable[[int, int], Awaitable[socket.socket]]


def make_socket(family: int, kind: int) -> socket.socket:
    """In the calling thread's namespace. Raises OSError."""
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)


async def open_here(family: int, kind: int) -> socket.socket:
    """In the process's own namespace."""
    return make_socket(family, kind)


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
    """Asks other servers, from where `open_socket` makes its sockets. `port` is theirs; `clock` counts seconds."""

    def __init__(
        self, open_socket: Open = open_here, port: int = _PORT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open = open_socket
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
        # The section holds name, type and class; names that differ in letter case only are one. What follows it (how
        # large an answer may be, signatures, a cookie) is between the asker and the server.
        rest = data[12 + len(question.section) :]
        key = (tuple(servers), question.section.lower(), rest, data[3] & 0x10)
        cached = self._cached(key, question)
        if cached is not None and (stream or len(cached) <= question.limit):
            return cached
        if self._slots.locked():
            return wire.reply(question, wire.SERVFAIL)
        async with self._slots:
            answer = await self._first_good(data, self._in_order(servers), stream)
        if answer is None:
            return wire.reply(question, wire.SERVFAIL)
        self._keep(key, answer)
        return answer

    def _in_order(self, servers: Sequence[str]) -> list[str]:
        """Those that were silent a moment ago come last."""
        now = self._clock()
        return sorted(servers, key=lambda server: self._silent_until.get(server, 0) > now)

    async def _first_good(self, data: bytes, servers: list[str], stream: bool) -> bytes | None:
        """The first answer that is no refusal; the first refusal if there is no other; None if there is nothing."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        refusal: bytes | None = None
        asked: set[asyncio.Task[bytes | None]] = set()
        try:
            while (left := end - loop.time()) > 0 and (servers or asked):
                if servers:
                    asked.add(loop.create_task(self._exchange(data, servers.pop(0), stream)))
                pause = min(STAGGER, left) if servers else left
                done, asked = await asyncio.wait(asked, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for answer in (one.result() for one in done):
                    if answer is not None and answer[3] & 0x0F not in (wire.SERVFAIL, wire.REFUSED):
                        return answer
                    refusal = refusal or answer
            return refusal
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _exchange(self, data: bytes, server: str, stream: bool) -> bytes | None:
        """What a server answers, None if it does not. One that says nothing for a while is a silent one."""
        query = struct.pack("!H", secrets.randbits(16)) + data[2:]
        silence = asyncio.get_running_loop().call_later(STAGGER, self._is_silent, server)
        try:
            answer = await (self._over_tcp(query, server) if stream else self._over_udp(query, server))
        except (OSError, EOFError, ValueError):
            self._is_silent(server)
            return None
        finally:
            silence.cancel()
        self._silent_until.pop(server, None)
        return data[:2] + answer[2:]

    def _is_silent(self, server: str) -> None:
        self._silent_until[server] = self._clock() + _QUARANTINE

    async def _socket(self, server: str, kind: int) -> socket.socket:
        """Raises OSError, ValueError (a server that is no address)."""
        version = ipaddress.ip_address(server).version
        return await self._open(socket.AF_INET if version == 4 else socket.AF_INET6, kind)

    async def _over_udp(self, query: bytes, server: str) -> bytes:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()

        def readable() -> None:
            try:
                data = connection.recv(65535)
            except BlockingIOError:
                return
            except OSError as error:
                if not answered.done():
                    answered.set_exception(error)
                return
            # A connected socket hears only the server; a wrong identifier is a late or forged answer.
            if len(data) >= 12 and data[:2] == query[:2] and not answered.done():
                answered.set_result(data)

        with await self._socket(server, socket.SOCK_DGRAM) as connection:
            connection.connect((server, self._port))
            loop.add_reader(connection, readable)
            try:
                while not answered.done():
                    connection.send(query)
                    await asyncio.wait({answered}, timeout=_AGAIN)
                return answered.result()
            finally:
                loop.remove_reader(connection)
                answered.cancel()

    async def _over_tcp(self, query: bytes, server: str) -> bytes:
        connection = await self._socket(server, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (server, self._port))
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        try:
            writer.write(struct.pack("!H", len(query)) + query)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = await reader.readexactly(length)
            if len(answer) < 12 or answer[:2] != query[:2]:
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
        packed = bytes(aged.pack())
        # Letters as they were asked for this time: some compare them (0x20).
        return packed[:12] + question.section + packed[12 + len(question.section) :]

    def _keep(self, key: tuple[object, ...], answer: bytes) -> None:
        try:
            record = DNSRecord.parse(answer)
        except (DNSError, ValueError):
            return
        if record.header.tc or record.header.rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return
        lives = [resource.ttl for resource in (*record.rr, *record.auth)]
        if not record.rr:
            # How long it does not exist (RFC 2308).
            lives += [resource.rdata.times[4] for resource in record.auth if resource.rtype == wire.SOA]
        life = min([*lives, LONGEST]) if lives else 0
        if life <= 0:
            return
        now = self._clock()
        self._cache[key] = (now, now + life, record)
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
