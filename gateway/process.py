"""The gateway's process: serves on sockets it was given until its standard input ends or nobody asks any longer."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from pathlib import Path

import structlog
from aiohttp import web

from flota.gateway.backend import Backend
from flota.gateway.endpoints.all import ROUTES
from flota.gateway.server import application
from flota.rpc import child

_log = structlog.get_logger("gateway")
# Requests that are being answered when we are told to stop get this long.
_GRACE = 1.0
_LINE = 1 << 16


class Activity:
    """How many requests are being answered; `idle` is set once nobody has asked for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.idle = asyncio.Event()
        self._limit = limit
        self._open = 0
        self._timer = asyncio.get_running_loop().call_later(limit, self.idle.set)

    def count(self, change: int) -> None:
        """A request came (+1) or is done (-1)."""
        self._open += change
        self._timer.cancel()
        if not self._open:
            self._timer = asyncio.get_running_loop().call_later(self._limit, self.idle.set)


async def serve(plain: socket.socket | None, secure: socket.socket | None, tls: Path, daemon: str, idle: float) -> int:
    """Serve on a unix socket and, with the PEM files in `tls`, on one for other machines. Gives the exit status."""
    activity = Activity(idle)
    backend = Backend(daemon)
    runner = web.AppRunner(
        application(backend, ROUTES, activity.count),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=_GRACE,
        keepalive_timeout=idle,
    )
    await runner.setup()
    try:
        sites: list[web.BaseSite] = []
        if plain is not None:
            sites.append(web.SockSite(runner, plain))
        if secure is not None:
            sites.append(web.SockSite(runner, secure, ssl_context=tls_context(tls)))
        for site in sites:
            await site.start()
        child.ready()
        await _until_end(activity)
        for site in sites:
            await site.stop()
        # What was accepted in the last moment is still answered.
        await asyncio.sleep(_GRACE / 10)
    except (OSError, ssl.SSLError) as error:
        return child.failed(str(error))
    finally:
        await runner.cleanup()
        await backend.close()
    return 0


async def _until_end(activity: Activity) -> None:
    """Wait for the daemon's end, or for nothing to do."""
    lines = asyncio.StreamReader(limit=_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    waiting = {asyncio.create_task(_drained(lines)), asyncio.create_task(activity.idle.wait())}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _drained(lines: asyncio.StreamReader) -> None:
    while await lines.read(_LINE):
        pass


def tls_context(directory: Path) -> ssl.SSLContext:
    """Mutual TLS as dockerd's --tlsverify has it: ca.pem says whom to let in, cert.pem and key.pem who we are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(directory / "ca.pem")
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context
