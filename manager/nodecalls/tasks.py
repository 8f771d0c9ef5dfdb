"""The Tasks service on the leader: find the task that is meant, and have its node answer."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from flota.manager.nodecalls.calls import NodeCalls
from flota.manager.nodecalls.finding import running_task
from flota.manager.nodecalls.rounds import Rounds
from flota.manager.store import Store
from flota.rpc.errors import InvalidArgument
from flota.v1 import tasks_pb2_grpc
from flota.v1.objects_pb2 import Task
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachResponse,
    ExecRequest,
    ExecResponse,
    SignalTaskRequest,
    SignalTaskResponse,
    StatsRequest,
    StatsResponse,
    TopRequest,
    TopResponse,
)

M = TypeVar("M", bound=Message)
_SERVICE = "/flota.v1.Tasks/"


class _Names(Protocol):
    """A message that names a task."""

    task: str


class TaskCalls(tasks_pb2_grpc.TasksServicer):
    """Register it on a manager's servers."""

    def __init__(self, store: Store, nodes: NodeCalls) -> None:
        self._store = store
        self._nodes = nodes

    async def Exec(self, requests: AsyncIterator[ExecRequest], context: Any) -> AsyncIterator[ExecResponse]:
        """Raises InvalidArgument, NotFound, FailedPrecondition (it does not run), Unavailable (its node)."""
        async with aclosing(self._converse("Exec", "an exec", requests, ExecResponse)) as answers:
            async for answer in answers:
                yield answer

    async def Attach(self, requests: AsyncIterator[AttachRequest], context: Any) -> AsyncIterator[AttachResponse]:
        """Raises InvalidArgument, NotFound, FailedPrecondition (it does not run), Unavailable (its node)."""
        async with aclosing(self._converse("Attach", "an attach", requests, AttachResponse)) as answers:
            async for answer in answers:
                yield answer

    async def SignalTask(self, request: SignalTaskRequest, context: Any) -> SignalTaskResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition (it does not run), Unavailable (its node)."""
        task = self._named(request)
        return await self._nodes.ask(task.node_id, f"{_SERVICE}SignalTask", request, SignalTaskResponse)

    async def Top(self, request: TopRequest, context: Any) -> TopResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition (it does not run), Unavailable (its node)."""
        task = self._named(request)
        return await self._nodes.ask(task.node_id, f"{_SERVICE}Top", request, TopResponse)

    async def Stats(self, request: StatsRequest, context: Any) -> AsyncIterator[StatsResponse]:
        """Raises InvalidArgument, NotFound, FailedPrecondition (a named task does not run)."""
        tasks = [running_task(self._store, wanted) for wanted in request.tasks]
        rounds = Rounds(self._store, self._nodes, f"{_SERVICE}Stats", request, tasks)
        async with aclosing(rounds.all()) as answers:
            async for answer in answers:
                yield answer

    def _named(self, request: _Names) -> Task:
        """The task that a request means, which is told its id."""
        task = running_task(self._store, request.task)
        request.task = task.id
        return task

    async def _converse(
        self, method: str, what: str, requests: AsyncIterator[ExecRequest] | AsyncIterator[AttachRequest], kind: type[M]
    ) -> AsyncGenerator[M, None]:
        """Have the node answer, whose task the first message names."""
        first: ExecRequest | AttachRequest | None = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidArgument(f"the first message of {what} must be its start")
        task = self._named(first.start)
        calling = self._nodes.call(task.node_id, _SERVICE + method, _serialized(first, requests))
        async with aclosing(calling) as answers:
            async for answer in answers:
                yield kind.FromString(answer)


async def _serialized(
    first: Message, rest: AsyncIterator[ExecRequest] | AsyncIterator[AttachRequest]
) -> AsyncIterator[bytes]:
    yield first.SerializeToString()
    async for message in rest:
        yield message.SerializeToString()
