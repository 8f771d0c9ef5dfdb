"""Answers that go on: frames of Docker's multiplexed streams, lines of JSON, connections that become plain streams."""

from __future__ import annotations

import array
import asyncio
import fcntl
import json
import socket
import struct
import termios
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import grpc.aio
import structlog
from aiohttp import web

from flota.gateway.failures import failure_of
from flota.gateway.http import Call
from flota.rpc.errors import FlotaError

_log = structlog.get_logger("gateway")
STDOUT, STDERR = 1, 2
# A client that has not read the head by then does not wait for it. Seconds; a busy machine may let one wait for long.
_HEAD_LIMIT = 5.0
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"


def frame(stream: int, data: bytes) -> bytes:
    """One frame: which stream, three zeros, the length, the data (moby's pkg/stdcopy)."""
    return struct.pack(">BxxxL", stream, len(data)) + data


class Streaming:
    """An answer that is written bit by bit. A failure while it goes on ends it; the client sees it cut off.

    With `told` the failure is the last line of JSON, as `docker pull` and `docker load` expect it.
    """

    def __init__(self, call: Call, content_type: str, told: bool = False) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": content_type, **call.headers})
        self._call = call
        self._told = told

    async def __aenter__(self) -> Streaming:
        await self.response.prepare(self._call.request)
        return self

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client does not read."""
        await self.response.write(data)

    async def line(self, value: Any) -> None:
        """Write one line of JSON."""
        await self.write(json.dumps(value, separators=(",", ":")).encode() + b"\r\n")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, FlotaError | grpc.aio.AioRpcError):
            text = str(failure_of(error))
            _log.info("a stream broke off", path=self._call.request.path, reason=text)
            if self._told:
                await self.line({"errorDetail": {"message": text}, "error": text})
            else:
                self.response.force_close()
            return True
        return isinstance(error, ConnectionError)


async def passed_on(call: Call, going: Any, content_type: str) -> web.StreamResponse:
    """An answer of the data in all messages of a gRPC call, which ends with it.

    The head waits for the first one: until then a refusal has its own status.
    """
    parts = aiter(going)
    try:
        part = await anext(parts, None)
        async with Streaming(call, content_type) as out:
            while part is not None:
                await out.write(part.data)
                part = await anext(parts, None)
        return out.response
    finally:
        going.cancel()


class Hijacked:
    """A connection that the client takes over: HTTP no longer, plain bytes both ways.

    `open` it from a handler, then read chunks from it and write to it; give `response` back when it is over.
    """

    def __init__(self, transport: asyncio.Transport, old: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._protocol = _Bytes(transport, old)
        self.response = _Nothing()

    @classmethod
    async def open(cls, call: Call, content_type: str) -> Hijacked:
        """Take the connection: 101 when the client asked to upgrade, else 200 (old clients read on after it)."""
        request = call.request
        await request.read()
        transport = request.transport
        if not isinstance(transport, asyncio.Transport):
            raise ConnectionResetError("the client has gone")
        hijacked = cls(transport, transport.get_protocol())
        if "upgrade" in request.headers.get("Connection", "").lower():
            head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in call.headers.items())
        transport.set_protocol(hijacked._protocol)
        transport.write(f"{head}\r\n".encode())
        await _taken(transport)
        return hijacked

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client does not read. Raises ConnectionResetError when it has gone."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        await self._protocol.may_write.wait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """What the client sends, until it sends no more."""
        while data := await self._protocol.incoming.get():
            yield data
            if self._protocol.incoming.empty():
                self._transport.resume_reading()

    @property
    def gone(self) -> bool:
        """Whether the whole connection has ended, not just the client's half."""
        return self._protocol.lost.is_set()

    def close(self) -> None:
        """End it; what was written is still sent."""
        self._transport.close()


async def _taken(transport: asyncio.Transport) -> None:
    """Until the client has read what was written, as far as that can be known.

    docker-py (docker-compose, Ansible) reads the head through a buffer and everything after it past that buffer: what
    comes so soon that it is read with the head is lost to it.
    """
    wire = transport.get_extra_info("socket")
    if wire is None or wire.family != socket.AF_UNIX:
        return
    until, pause, unread = time.monotonic() + _HEAD_LIMIT, 0.0002, array.array("i", [0])
    while time.monotonic() < until and not transport.is_closing():
        fcntl.ioctl(wire.fileno(), termios.TIOCOUTQ, unread)
        if transport.get_write_buffer_size() == 0 and unread[0] == 0:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.01)


class _Bytes(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, old: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._old = old
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.incoming.put_nowait(data)
        # Nothing more until this is taken.
        self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.incoming.put_nowait(b"")
        # Our half stays open: the output of a command whose input has ended is still to come.
        return True

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()
        self.may_write.set()
        self.incoming.put_nowait(b"")
        self._old.connection_lost(error)


class _Nothing(web.StreamResponse):
    """What a handler gives back that has answered by itself."""

    @property
    def prepared(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing."""
        return

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing."""
