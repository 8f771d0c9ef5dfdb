"""RUN/docker.sock: held open by the daemon, answered by a process that is started when somebody asks.

So the Docker Engine API costs neither time at the start nor memory until it is used. The daemon never accepts here:
what connects waits in the kernel's queue until the gateway's process (`flota.gateway`) takes it, and so does what comes
while that process is replaced.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import structlog

from flota.node.places import CannotStart
from flota.node.process import ChildFailed, ChildProcess

_log = structlog.get_logger("gateway")
_WAITING_CONNECTIONS = 128
# A gateway that ends at once is not started again at once.
_SOUND = 5.0
_PAUSE = 1.0


class Gateway:
    """See the module's docstring. `open` it, `run` it, `close` it."""

    def __init__(
        self,
        argv: Sequence[str],
        path: Path,
        daemon: Path,
        listen: str = "",
        tls: Path | None = None,
        link: Path | None = None,
    ) -> None:
        """`link` is another path that shall lead to the socket at `path`."""
        self._argv = [*argv, f"--daemon=unix://{daemon}"]
        self._path = path
        self._listen = listen
        self._tls = tls
        self._link = link
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        """Listen. Raises CannotStart."""
        self._path.unlink(missing_ok=True)
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sockets.append(plain)
        # Root's alone: whoever may ask here may do anything.
        before = os.umask(0o177)
        try:
            plain.bind(str(self._path))
        finally:
            os.umask(before)
        plain.listen(_WAITING_CONNECTIONS)
        if self._link is not None:
            _make_link(self._link, self._path)
        self._argv.append(f"--plain={plain.fileno()}")
        if self._listen and self._tls is not None:
            secure = _listening(self._listen)
            self._sockets.append(secure)
            self._argv += [f"--secure={secure.fileno()}", f"--tls={self._tls}"]
        for one in self._sockets:
            one.setblocking(False)

    def close(self) -> None:
        """Listen no longer."""
        for one in self._sockets:
            one.close()
        if self._sockets:
            self._path.unlink(missing_ok=True)
            if self._link is not None and _leads_to(self._link, self._path):
                self._link.unlink(missing_ok=True)
        self._sockets.clear()

    async def run(self) -> None:
        """Have a process answer whenever somebody asks, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._somebody_asks()
            began = loop.time()
            try:
                process = await ChildProcess.start("gateway", self._argv, [one.fileno() for one in self._sockets])
                try:
                    await process.configure(b"")
                    how = await process.ended()
                finally:
                    await process.end()
            except ChildFailed as failure:
                how = str(failure)
            if loop.time() - began < _SOUND:
                _log.warning("the gateway has ended", reason=how, again_in=_PAUSE)
                await asyncio.sleep(_PAUSE)

    async def _somebody_asks(self) -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        for one in self._sockets:
            loop.add_reader(one, asked.set)
        try:
            await asked.wait()
        finally:
            for one in self._sockets:
                loop.remove_reader(one)


def _make_link(link: Path, path: Path) -> None:
    """Have `link` lead to `path`; a link of ours that a crash has left is taken over. Raises CannotStart."""
    if _leads_to(link, path):
        return
    try:
        link.symlink_to(path)
    except FileExistsError:
        raise CannotStart(f"invalid --docker-socket {str(link)!r}: it is there already (Docker's daemon?)") from None
    except OSError as error:
        raise CannotStart(f"invalid --docker-socket {str(link)!r}: {error.strerror}") from None


def _leads_to(link: Path, path: Path) -> bool:
    return link.is_symlink() and link.readlink() == path


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_WAITING_CONNECTIONS
        )
    except OSError as error:
        raise CannotStart(f"cannot listen on {address} for Docker's clients: {error.strerror or error}") from None
