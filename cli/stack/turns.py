"""One deploy of a stack at a time: whoever deploys holds the stack's turn, and others wait for theirs.

The turn is a small config in the cluster, so it holds across machines. Its holder changes a label of it every few
seconds. Who waits and sees no change for long enough takes it over: the holder was killed, or cut off. Only one's own
clock is asked, never another machine's. A holder that finds its turn taken stops before it changes anything more.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from flota.cli.failures import CommandFailed
from flota.stacks.records import TURN, record_name
from flota.stacks.translation.names import NAMESPACE
from flota.v1.stack_records import RECORD

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.objects_pb2 import Config

_HOLDER = "flota.stack.holder"
_BEAT = "flota.stack.beat"
BEAT_SECONDS = 3.0
# A holder that has not been heard of for so long has gone. Longer than the managers need for a new leader.
DEAD_SECONDS = 20.0
# A manager went: another one takes over.
_RETRY_SECONDS = 0.2


def who() -> str:
    """user@host, for people."""
    with suppress(OSError, KeyError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return f"uid {os.getuid()}@{socket.gethostname()}"


def _holder(turn: Config) -> str:
    return turn.spec.annotations.labels.get(_HOLDER, "somebody")


class Turn:
    """The right to deploy a stack."""

    def __init__(self, session: Session, stack: str) -> None:
        self._session = session
        self._stack = stack
        self._name = record_name(stack, "deploying")
        self._labels = {
            NAMESPACE: stack,
            RECORD: TURN,
            _HOLDER: f"{who()} (process {os.getpid()})",
        }
        self._mine: Config | None = None
        self._beats = 0
        # Another process has taken the turn from this one.
        self.lost = False

    async def take(self, say: Callable[[str], None]) -> None:
        """Wait until this process holds the turn."""
        told = False
        while not await self._create():
            other = await self._look()
            if other is None:
                continue
            if not told:
                told = True
                say(f"Waiting: {_holder(other)} is deploying stack {self._stack}")
            silent = await self._watch(other)
            if silent is not None and await self._update(silent):
                say(f"Nothing was heard of that deploy for {DEAD_SECONDS:g} seconds: going on without it")
                return

    async def _watch(self, other: Config) -> Config | None:
        """Follow another one's turn: None once it is given back, its last state when that is DEAD_SECONDS old."""
        import grpc

        from flota.v1.control_pb2 import WatchRequest
        from flota.v1.store_pb2 import StoreAction

        request = WatchRequest(selectors=[WatchRequest.Selector(kind="config", ids=[other.id])], include_existing=True)
        loop = asyncio.get_running_loop()
        newest, due = other, loop.time() + DEAD_SECONDS
        while True:
            there = False
            try:
                async with asyncio.timeout_at(due) as limit:
                    async for message in self._session.control.Watch(request):
                        there = there or message.object.HasField("config")
                        if message.kind == StoreAction.KIND_REMOVE or not there:
                            return None
                        now = message.object.config
                        if message.object.HasField("config") and now.meta.version != newest.meta.version:
                            newest, due = now, loop.time() + DEAD_SECONDS
                            limit.reschedule(due)
            except TimeoutError:
                return newest
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _create(self) -> bool:
        import grpc

        from flota.v1.control_pb2 import CreateConfigRequest
        from flota.v1.specs_pb2 import ConfigSpec

        spec = ConfigSpec(data=b"turn")
        spec.annotations.name = self._name
        spec.annotations.labels.update(self._labels)
        try:
            self._mine = (await self._session.control.CreateConfig(CreateConfigRequest(spec=spec))).config
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
            return False
        return True

    async def _look(self) -> Config | None:
        import grpc

        from flota.v1.control_pb2 import GetConfigRequest

        try:
            return (await self._session.control.GetConfig(GetConfigRequest(config_id=self._name))).config
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            return None

    async def _update(self, config: Config) -> bool:
        """Write our labels over `config`; False when it has moved or gone."""
        import grpc

        from flota.v1.control_pb2 import UpdateConfigRequest
        from flota.v1.specs_pb2 import ConfigSpec

        self._beats += 1
        spec = ConfigSpec()
        spec.annotations.labels.update(self._labels | {_BEAT: str(self._beats)})
        request = UpdateConfigRequest(config_id=config.id, version=config.meta.version, spec=spec)
        try:
            self._mine = (await self._session.control.UpdateConfig(request)).config
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND):
                raise
            return False
        return True

    async def keep(self) -> None:
        """Runs until cancelled, or until another one has taken the turn."""
        import grpc

        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            assert self._mine is not None
            try:
                if not await self._update(self._mine):
                    return
                heard = loop.time()
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                    # Managers of an older version: nobody there takes a turn over, either.
                    await loop.create_future()
                if error.code() != grpc.StatusCode.UNAVAILABLE or loop.time() - heard > DEAD_SECONDS:
                    return

    async def taken_by(self) -> str:
        """Who has the turn now, for people."""
        import grpc

        with suppress(grpc.aio.AioRpcError):
            other = await self._look()
            if other is not None:
                return _holder(other)
        return "somebody, who has finished already,"

    async def give_back(self) -> None:
        """Let the next one go on."""
        import grpc

        from flota.v1.control_pb2 import RemoveConfigRequest

        if self._mine is not None:
            with suppress(grpc.aio.AioRpcError):
                await self._session.control.RemoveConfig(RemoveConfigRequest(config_id=self._mine.id))


@asynccontextmanager
async def turn(session: Session, stack: str, say: Callable[[str], None]) -> AsyncIterator[Turn]:
    """Hold the turn of `stack`; `say` tells a person what is waited for.

    Raises CommandFailed when another process takes the turn away meanwhile (this one was not heard of for too long).
    """
    mine = Turn(session, stack)
    await mine.take(say)
    working = asyncio.current_task()
    assert working is not None
    keeping = asyncio.create_task(mine.keep())

    def stop(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            mine.lost = True
            working.cancel()

    keeping.add_done_callback(stop)
    try:
        yield mine
    except asyncio.CancelledError:
        if not mine.lost:
            raise
        working.uncancel()
        raise CommandFailed(
            f"{await mine.taken_by()} took over stack {stack} with another deploy, as this one was not heard of for "
            f"{DEAD_SECONDS:g} seconds: this one changes nothing more (flota stack diff shows what it has left undone)"
        ) from None
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if not mine.lost:
            await mine.give_back()
