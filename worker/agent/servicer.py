"""The Agent service: what the daemon and people on this machine ask of the worker (proto/flota/v1/local.proto)."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from flota.v1.dispatcher_pb2 import SessionMessage
from flota.v1.local_pb2 import (
    AgentStatusRequest,
    AgentStatusResponse,
    ListLocalTasksRequest,
    ListLocalTasksResponse,
    LocalContainer,
    RemoveAllTasksRequest,
    RemoveAllTasksResponse,
    WatchSessionRequest,
)
from flota.v1.local_pb2_grpc import AgentServicer
from flota.v1.objects_pb2 import Task


class Answers(Protocol):
    """The worker as this service needs it."""

    def status(self) -> AgentStatusResponse:
        """How it is."""
        ...

    def words(self) -> AsyncIterator[SessionMessage]:
        """What managers say, the last word first."""
        ...

    def tasks(self) -> list[Task]:
        """Those of this machine, as anybody may see them."""
        ...

    def containers(self) -> dict[str, LocalContainer]:
        """What only this machine knows of their containers, by the task's id."""
        ...

    async def remove_all(self, kill: bool) -> int:
        """Leave the cluster and end all tasks; how many there were."""
        ...


class TaskCalls(AgentServicer):
    """The part of the service that is not about images."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Status(self, request: AgentStatusRequest, context: Any) -> AgentStatusResponse:
        """Never fails."""
        return self._answers.status()

    async def ListTasks(self, request: ListLocalTasksRequest, context: Any) -> ListLocalTasksResponse:
        """Never fails; empty on a machine in no cluster."""
        return ListLocalTasksResponse(tasks=self._answers.tasks(), containers=self._answers.containers())

    async def WatchSession(self, request: WatchSessionRequest, context: Any) -> AsyncIterator[SessionMessage]:
        """Runs until the caller goes; says nothing while the machine is in no cluster."""
        async for message in self._answers.words():
            yield message

    async def RemoveAllTasks(self, request: RemoveAllTasksRequest, context: Any) -> RemoveAllTasksResponse:
        """Answers when nothing of any task is left."""
        return RemoveAllTasksResponse(tasks=await self._answers.remove_all(request.kill))
