"""One session with one manager: heartbeats out, assignments in, reports out, all over one channel (link.py), until one
of them fails.

Whatever fails ends the session, and the error says what to do next (proto/flota/v1/dispatcher.proto); this module does
not decide that, nor does it know what assignments mean.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import grpc.aio
import structlog

from flota.rpc.errors import DeadlineExceeded, FlotaError, Unavailable, error_from
from flota.v1.dispatcher_pb2 import (
    AssignmentsRequest,
    AttachNetworkRequest,
    ConfirmAssignmentsRequest,
    EndSessionRequest,
    GetRegistryAuthRequest,
    HeartbeatRequest,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatusRequest,
)
from flota.v1.dispatcher_pb2_grpc import DispatcherStub
from flota.v1.objects_pb2 import NodeDescription
from flota.worker.agent.assignments import Assembly, Assigned, Gap
from flota.worker.agent.description import Description
from flota.worker.agent.reporter import Reporter, Update

_log = structlog.get_logger("agent")
T = TypeVar("T")

# For the first word of a manager, for a report's commit, and for the last word to it.
_FIRST_WORD_LIMIT = 5.0
_REPORT_LIMIT = 10.0
_GOODBYE_LIMIT = 2.0
_GAP_PAUSE = 0.1
# Part of the time a manager gives for the next heartbeat.
_EARLY = 0.9
_HELPER_LIMIT = 40.0
_NEWS_PAUSE = 0.1


class Listener(Protocol):
    """Who hears what a manager says."""

    def heard(self, message: SessionMessage) -> None:
        """About the cluster and this node in it."""
        ...

    def assigned(self, assigned: Assigned) -> None:
        """What the node shall have."""
        ...

    async def in_force(self) -> None:
        """Returns when what was assigned last is what names, forwarding and balance do."""
        ...


class Session:
    """`open` it, then `serve`; `id` is there once a manager has answered."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        listener: Listener,
        reporter: Reporter,
        description: Description,
        patience: float = 2.0,
    ) -> None:
        """`patience`: seconds for the answer to a heartbeat; no less than the heartbeats' period."""
        self.id = ""
        self._stub = DispatcherStub(channel)
        self._listener = listener
        self._reporter = reporter
        self._description = description
        self._patience = patience
        # The newest message that is to be confirmed.
        self._to_confirm = 0
        self._confirmable = asyncio.Event()

    async def open(self, resume: str) -> None:
        """Begin, or go on with `resume`. Raises FlotaError."""
        self._described = self._description.current
        self._call = self._stub.Session(SessionRequest(description=self._described, session_id=resume))
        self._words = _messages(self._call)
        try:
            async with asyncio.timeout(_FIRST_WORD_LIMIT):
                first = await anext(self._words)
        except BaseException as error:
            self._call.cancel()
            if not isinstance(error, TimeoutError):
                raise
            raise DeadlineExceeded(f"no word from this manager within {_FIRST_WORD_LIMIT:g} s") from None
        self.id = first.session_id
        self._listener.heard(first)

    async def serve(self) -> None:
        """Do what an open session is for; returns only by raising a FlotaError."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(self._words), name="session: words")
                group.create_task(self._beat(self._described), name="session: heartbeats")
                group.create_task(self._take_assignments(), name="session: assignments")
                group.create_task(self._confirm(), name="session: confirmations")
                group.create_task(self._reporter.run(self._send), name="session: reports")
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None
        finally:
            self._call.cancel()

    async def goodbye(self) -> None:
        """The node leaves: its tasks may go elsewhere at once. Raises FlotaError."""
        await _answer(self._stub.EndSession(EndSessionRequest(session_id=self.id), timeout=_GOODBYE_LIMIT))

    async def registry_auth(self, task_id: str) -> str:
        """What managers' helpers say for the registry of a task's image; empty if nothing. Raises FlotaError."""
        request = GetRegistryAuthRequest(session_id=self.id, task_id=task_id)
        return (await _answer(self._stub.GetRegistryAuth(request, timeout=_HELPER_LIMIT))).registry_auth

    async def attach_network(self, request: AttachNetworkRequest) -> str:
        """A place on a network for a container of this node: its task's id. Raises FlotaError."""
        request.session_id = self.id
        return (await _answer(self._stub.AttachNetwork(request, timeout=_REPORT_LIMIT))).task_id

    async def _listen(self, words: AsyncIterator[SessionMessage]) -> None:
        async for message in words:
            self._listener.heard(message)

    async def _beat(self, described: NodeDescription) -> None:
        """Heartbeats; one is sent at once when there is news of the machine, of which managers know `described`."""
        limit = self._patience
        while True:
            request = HeartbeatRequest(session_id=self.id, usage=self._description.usage())
            now = self._description.current
            if now != described:
                request.description.CopyFrom(now)
            answer = await _answer(self._stub.Heartbeat(request, timeout=limit))
            described = now
            period = answer.period.seconds + answer.period.nanos / 1e9
            limit = max(self._patience, period)
            # Not quicker than that, however much happens here.
            await asyncio.sleep(min(_NEWS_PAUSE, period * _EARLY))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, period * _EARLY - _NEWS_PAUSE)):
                    await self._description.changed(described)

    async def _take_assignments(self) -> None:
        while True:
            call = self._stub.Assignments(AssignmentsRequest(session_id=self.id))
            assembly = Assembly()
            try:
                async for message in _messages(call):
                    assigned = assembly.take(message)
                    if assigned is not None:
                        self._listener.assigned(assigned)
                    if message.confirm:
                        self._to_confirm = message.results_in
                        self._confirmable.set()
            except Gap as gap:
                _log.warning("asking for all assignments anew", reason=str(gap))
            finally:
                call.cancel()
            await asyncio.sleep(_GAP_PAUSE)

    async def _confirm(self) -> None:
        while True:
            await self._confirmable.wait()
            self._confirmable.clear()
            sequence = self._to_confirm
            await self._listener.in_force()
            request = ConfirmAssignmentsRequest(session_id=self.id, sequence=sequence)
            await _answer(self._stub.ConfirmAssignments(request, timeout=_REPORT_LIMIT))

    async def _send(self, updates: list[Update]) -> None:
        request = UpdateTaskStatusRequest(session_id=self.id, updates=updates)
        await _answer(self._stub.UpdateTaskStatus(request, timeout=_REPORT_LIMIT))


async def _messages(call: Any) -> AsyncIterator[Any]:
    """A stream's messages. Raises FlotaError, also when it ends without one: here no stream ends by itself."""
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from None
    except asyncio.CancelledError:
        _raise_if_dropped()
        raise
    raise Unavailable("the manager ended the session")


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from None
    except asyncio.CancelledError:
        _raise_if_dropped()
        raise


def _raise_if_dropped() -> None:
    """A call that gRPC gives up looks like our own task's cancellation. Raises Unavailable if it is not."""
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise Unavailable("the connection to the manager was given up") from None


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended all the others; a defect goes before what managers say."""
    flat: list[BaseException] = []
    for one in failures.exceptions:
        flat.append(first_of(one) if isinstance(one, BaseExceptionGroup) else one)
    return next((one for one in flat if not isinstance(one, FlotaError)), flat[0])
