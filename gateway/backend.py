"""What the gateway stands on: the calls of this machine's flota daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any

import grpc.aio

from flota.rpc.channels import local_channel
from flota.v1.containers_pb2_grpc import ContainersStub
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2_grpc import AgentStub, LocalStub
from flota.v1.logs_pb2_grpc import LogsStub
from flota.v1.tasks_pb2_grpc import TasksStub

if TYPE_CHECKING:
    from flota.v1.containers_pb2_grpc import ContainersAsyncStub
    from flota.v1.control_pb2_grpc import ControlAsyncStub
    from flota.v1.local_pb2_grpc import AgentAsyncStub, LocalAsyncStub
    from flota.v1.logs_pb2_grpc import LogsAsyncStub
    from flota.v1.tasks_pb2_grpc import TasksAsyncStub


class Backend:
    """Stubs over one channel to the daemon's socket. Close it at the end."""

    def __init__(self, host: str) -> None:
        self.channel: grpc.aio.Channel = local_channel(host)
        self._kept: set[asyncio.Task[None]] = set()

    @cached_property
    def control(self) -> ControlAsyncStub:
        """The cluster."""
        return ControlStub(self.channel)

    @cached_property
    def logs(self) -> LogsAsyncStub:
        """Logs of tasks."""
        return LogsStub(self.channel)

    @cached_property
    def tasks(self) -> TasksAsyncStub:
        """Commands in tasks, their terminals and figures."""
        return TasksStub(self.channel)

    @cached_property
    def containers(self) -> ContainersAsyncStub:
        """Any container of this machine, with or without managers."""
        return ContainersStub(self.channel)

    @cached_property
    def local(self) -> LocalAsyncStub:
        """This machine's daemon."""
        return LocalStub(self.channel)

    @cached_property
    def agent(self) -> AgentAsyncStub:
        """This machine's worker."""
        return AgentStub(self.channel)

    def keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Work that goes on after the answer that began it, at most until `close`."""
        task = asyncio.create_task(work, name=name)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def close(self) -> None:
        """End what goes on, close the channel."""
        for task in self._kept:
            task.cancel()
        await asyncio.gather(*self._kept, return_exceptions=True)
        await self.channel.close()
