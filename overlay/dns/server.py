"""The DNS server of one task: two sockets in its namespace, served on the worker's event loop.

The sockets are made on the overlay's kernel thread (`open_sockets`, in the namespace) and owned here from then on.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flota.overlay.dns import wire
from flota.overlay.dns.resolver import Resolver
from flota.overlay.dns.upstream import HostConfiguration, Upstream

ADDRESS = "127.0.0.11"
# Where it listens; asked at port 53, which balance.base_rules leads here. Above the ports programs are given.
PORT = 61053
# Questions taken from a socket before others get their turn.
_BURST = 32
_IDLE = 10.0
_CONNECTIONS = 64
# Questions of one task that wait for other servers. One that floods is not to take the others' turn.
_WAITING = 128
_RECEIVE_BUFFER = 1 << 20


@dataclass(frozen=True)
class Sockets:
    """`leads_out`: whether the namespace they are in had a way out into the world when they were made."""

    datagram: socket.socket
    stream: socket.socket
    leads_out: bool

    def close(self) -> None:
        self.datagram.close()
        self.stream.close()


def open_sockets(*, leads_out: bool) -> Sockets:
    """Bind UDP and TCP in the calling thread's namespace, where lo is up."""
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        datagram.bind((ADDRESS, PORT))
        stream.bind((ADDRESS, PORT))
        stream.listen(_CONNECTIONS)
    except BaseException:
        datagram.close()
        stream.close()
        raise
    return Sockets(datagram, stream, leads_out)


class Server:
    """Serves one task. `networks` are the ids of its networks in order, `nameservers` its own upstream servers.

    `upstream` asks those from the task's own namespace; without them it asks the host's, from the node's, and only for
    tasks that have a way out themselves: nothing is to leave a network that is internal as a question about a name.
    """

    def __init__(
        self,
        sockets: Sockets,
        networks: Sequence[str],
        nameservers: Sequence[str],
        resolver: Resolver,
        upstream: Upstream,
        host: HostConfiguration,
    ) -> None:
        self._sockets = sockets
        self._networks = networks
        self._nameservers = nameservers
        self._resolver = resolver
        self._upstream = upstream
        self._host = host
        self._loop = asyncio.get_running_loop()
        self.leads_out = sockets.leads_out
        self._conversations: set[asyncio.Task[None]] = set()
        self._forwards: set[asyncio.Task[None]] = set()
        self._loop.add_reader(sockets.datagram, self._readable)
        self._loop.add_reader(sockets.stream, self._connectable)

    def follow(self, networks: Sequence[str], *, leads_out: bool) -> None:
        """The task's networks are these from now on."""
        self._networks = networks
        self.leads_out = leads_out

    async def close(self) -> None:
        """Stop serving; questions that wait for others are dropped."""
        self._loop.remove_reader(self._sockets.datagram)
        self._loop.remove_reader(self._sockets.stream)
        self._sockets.close()
        work = [*self._conversations, *self._forwards]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    def _readable(self) -> None:
        datagram = self._sockets.datagram
        for _ in range(_BURST):
            try:
                data, asker = datagram.recvfrom(4096)
            except OSError:
                return
            try:
                question = wire.parse(data)
            except wire.Malformed as error:
                if error.reply is not None:
                    self._send(error.reply, asker)
                continue
            answer = self._resolver.answer(question, self._networks, question.limit)
            if answer is not None:
                self._send(answer, asker)
            elif len(self._forwards) >= _WAITING:
                self._send(wire.reply(question, wire.SERVFAIL), asker)
            else:
                _keep(self._forwards, self._loop.create_task(self._forward(data, question, asker)))

    def _send(self, answer: bytes, asker: Any) -> None:
        # A full buffer or an asker that is gone: it asks again.
        with suppress(OSError):
            self._sockets.datagram.sendto(answer, asker)

    async def _forward(self, data: bytes, question: wire.Question, asker: Any) -> None:
        self._send(await self._upstream.ask(data, question, self._servers(), stream=False), asker)

    def _servers(self) -> Sequence[str]:
        if self._nameservers:
            return self._nameservers
        return self._host.read().nameservers if self.leads_out else ()

    def _connectable(self) -> None:
        try:
            connection, _asker = self._sockets.stream.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._conversations) >= _CONNECTIONS:
            connection.close()
            return
        _keep(self._conversations, self._loop.create_task(self._converse(connection)))

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            while True:
                async with asyncio.timeout(_IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                answer = await self._answer_stream(data)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                async with asyncio.timeout(_IDLE):
                    await writer.drain()
        except (TimeoutError, EOFError, OSError):
            return
        finally:
            writer.close()

    async def _answer_stream(self, data: bytes) -> bytes | None:
        try:
            question = wire.parse(data)
        except wire.Malformed as error:
            return error.reply
        answer = self._resolver.answer(question, self._networks, None)
        if answer is None:
            answer = await self._upstream.ask(data, question, self._servers(), stream=True)
        return answer


def _keep(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.add(task)
    task.add_done_callback(tasks.discard)
