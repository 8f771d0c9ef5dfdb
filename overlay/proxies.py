"""Connections of published ports that begin with a PROXY header: from the listener beside a program to the program.

All in the task's own namespace: the client's address is known there (published-ports.md), and the program is asked at
the address at which the client came in. Bytes pass through the worker, on a thread with a loop of its own, so that a
busy port does not hold up the rest of it. A worker that ends takes these connections with it.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flota.overlay import namespaces
from flota.overlay.addresses import task_namespace
from flota.overlay.proxy_protocol import Target, header, listener, targets_of
from flota.overlay.relay import CHUNK, Stream, relay
from flota.v1.objects_pb2 import Task

log = logging.getLogger(__name__)

T = TypeVar("T")

_BACKLOG = 1024


class Proxies:
    """Those of one node's tasks. The thread lives from the first such port to `stop`."""

    def __init__(self, run_directory: Path, home: int) -> None:
        self._run_directory = run_directory
        self._home = home
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # On the thread: a task's listeners, and its connections.
        self._listeners: dict[str, list[asyncio.Server]] = {}
        self._connections: dict[str, set[asyncio.Task[None]]] = {}

    async def add(self, task: Task) -> None:
        """Listen beside the programs of a task that has its namespace. Raises OSError."""
        targets = targets_of(task.endpoint.spec.ports)
        if targets:
            await self._call(self._open(task.id, targets))

    async def remove(self, task_id: str) -> None:
        """End the task's listeners and connections."""
        if self._loop is not None:
            await self._call(self._close(task_id))

    async def stop(self) -> None:
        """End all of them, and the thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        for task_id in list(self._listeners):
            await self.remove(task_id)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()
        self._loop = self._thread = None

    async def _call(self, there: Coroutine[Any, Any, T]) -> T:
        """Run on the thread, and wait."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="overlay-proxies", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there, self._loop))

    async def _open(self, task_id: str, targets: Iterable[Target]) -> None:
        self._connections[task_id] = set()
        self._listeners[task_id] = listeners = []
        try:
            for target in targets:
                accept = partial(self._accept, task_id, target)
                with namespaces.entered(task_namespace(self._run_directory, task_id), self._home):
                    sock = _listen(listener(target.port))
                listeners.append(await asyncio.start_server(accept, sock=sock, limit=CHUNK))
        except BaseException:
            await self._close(task_id)
            raise

    async def _close(self, task_id: str) -> None:
        for server in self._listeners.pop(task_id, ()):
            server.close()
        connections = list(self._connections.pop(task_id, ()))
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(
        self, task_id: str, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connections = self._connections.get(task_id)
        this = asyncio.current_task()
        if connections is None or this is None:
            writer.transport.abort()
            return
        connections.add(this)
        try:
            await self._pass_on(task_id, target, Stream(reader, writer))
        except OSError as error:
            # Nobody listens (any longer), or an end went away: the client hears of it as it would without us.
            log.debug("task %s, port %d: %s", task_id, target.port, error)
        finally:
            connections.discard(this)

    async def _pass_on(self, task_id: str, target: Target, client: Stream) -> None:
        seen, own = client.writer.get_extra_info("peername"), client.writer.get_extra_info("sockname")
        sock = None
        try:
            with namespaces.entered(task_namespace(self._run_directory, task_id), self._home):
                sock = socket.socket(socket.AF_INET6 if ":" in own[0] else socket.AF_INET)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (own[0], target.port))
            program = Stream(*await asyncio.open_connection(sock=sock, limit=CHUNK))
        except BaseException:
            client.writer.transport.abort()
            if sock is not None:
                sock.close()
            raise
        await relay(client, program, header(target.version, seen[:2], (own[0], target.port)))


def _listen(port: int) -> socket.socket:
    """For both IP versions, or for IPv4 if the kernel has no other."""
    with_ipv6 = namespaces.has_ipv6()
    family = socket.AF_INET6 if with_ipv6 else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=with_ipv6)
