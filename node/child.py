"""A child program that is to be running: started, watched, started again with a growing pause, ended.

It knows nothing of what the program does. The configuration is asked for at every start, so that a process that starts
again gets what is true by then.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import grpc.aio
import structlog
from google.protobuf import json_format
from google.protobuf.message import Message

from flota.node.process import ChildFailed, ChildProcess, note
from flota.rpc.channels import local_channel
from flota.rpc.errors import Unavailable

_log = structlog.get_logger("child")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
# A process that lived so long was sound: the next pause is the first again.
_SOUND = 30.0

Configuration = Callable[[], Message]


def program(module: str) -> list[str]:
    """The command line of a child. The directory we are started in is none of its import path's business."""
    return [sys.executable, "-P", "-m", module]


class Child:
    """See the module's docstring; not running until `start` or `insist`. `socket` is what it answers on."""

    def __init__(self, name: str, argv: Sequence[str], socket: Path, pid_file: Path) -> None:
        self.name = name
        # Why it is not running; empty when it is, and when it is not meant to.
        self.error = ""
        self._argv = argv
        self._socket = socket
        self._pid_file = pid_file
        self._configuration: Configuration | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._process: ChildProcess | None = None
        self._spare: ChildProcess | None = None
        self._channel: grpc.aio.Channel | None = None
        self._news = asyncio.Condition()

    # A process kept ready.

    async def warm(self) -> None:
        """Have a process whose imports are done, so that the next start is quick."""
        if self._spare is None or not self._spare.alive:
            await self.cool()
            self._spare = await ChildProcess.start(self.name, self._argv)

    async def cool(self) -> None:
        """No process is kept ready any longer."""
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.end()

    async def _take(self) -> ChildProcess:
        spare, self._spare = self._spare, None
        if spare is not None and spare.alive:
            return spare
        if spare is not None:
            await spare.end()
        return await ChildProcess.start(self.name, self._argv)

    # Running.

    @property
    def wanted(self) -> bool:
        """Whether it is meant to be running."""
        return self._keeping is not None

    @property
    def running(self) -> bool:
        """Whether it runs and is ready."""
        return self._channel is not None

    @property
    def channel(self) -> grpc.aio.Channel:
        """To its socket. Raises Unavailable when it is not running at the moment."""
        if self._channel is None:
            raise Unavailable(f"this node's {self.name} is not running: {self.error or 'it is starting'}")
        return self._channel

    async def start(self, configuration: Configuration) -> None:
        """Start it; returns when it is ready. Raises ChildFailed, and then it is not running."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.insist(configuration, first)
        try:
            await first
        except BaseException:
            await self.stop()
            raise

    async def insist(self, configuration: Configuration, first: asyncio.Future[None] | None = None) -> None:
        """Start it and keep trying until it runs; does not wait for that. `first` hears how the first try went."""
        await self.stop()
        self._configuration = configuration
        self._keeping = asyncio.create_task(self._keep(first), name=f"keep the {self.name}")

    async def become(self, configuration: Configuration) -> None:
        """Give the running process another configuration; returns when it is ready again. Raises ChildFailed."""
        self._configuration = configuration
        await self.until_ready()
        process = self._process
        assert process is not None
        await process.configure(self._line())

    async def until_ready(self) -> grpc.aio.Channel:
        """Wait until it runs; gives its channel."""
        async with self._news:
            await self._news.wait_for(lambda: self._channel is not None)
        return self.channel

    async def soon(self, limit: float) -> grpc.aio.Channel:
        """The channel, once a start that is under way has come to its end; waits `limit` seconds at most.

        Raises Unavailable.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.until_tried()
        return self.channel

    async def until_tried(self) -> None:
        """Wait until it runs or a try has failed."""
        async with self._news:
            await self._news.wait_for(lambda: self._channel is not None or bool(self.error))

    async def stop(self) -> None:
        """End it; returns when it is gone. No error when it is not running."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            # Not gather: should we be cancelled here, it goes on ending its process by itself.
            await asyncio.wait({keeping})
        self.error = ""

    def _line(self) -> bytes:
        assert self._configuration is not None
        return json_format.MessageToJson(self._configuration(), indent=None).encode()

    async def _keep(self, first: asyncio.Future[None] | None) -> None:
        pause = _FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                process = self._process = await self._take()
                try:
                    note(self._pid_file, process.pid)
                    await process.configure(self._line())
                    await self._opened()
                    if first is not None and not first.done():
                        first.set_result(None)
                    self.error = f"it ended ({await process.ended()})"
                finally:
                    await self._closed(process)
            except (ChildFailed, OSError) as failure:
                self.error = str(failure)
                if first is not None and not first.done():
                    first.set_exception(ChildFailed(self.error))
            except Exception as defect:  # noqa: BLE001 - whatever it is, the child is to be running
                _log.exception("a defect ended a child", child=self.name)
                self.error = f"{type(defect).__name__}: {defect}"
                if first is not None and not first.done():
                    first.set_exception(ChildFailed(self.error))
            if loop.time() - began > _SOUND:
                pause = _FIRST_PAUSE
            _log.warning("a child is not running", child=self.name, reason=self.error, again_in=pause)
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _opened(self) -> None:
        self.error = ""
        self._channel = local_channel(f"unix://{self._socket}")
        async with self._news:
            self._news.notify_all()

    async def _closed(self, process: ChildProcess) -> None:
        """Also while we are being cancelled: a process never outlives its keeper."""
        channel, self._channel, self._process = self._channel, None, None
        await process.end()
        self._pid_file.unlink(missing_ok=True)
        if channel is not None:
            await channel.close()
