"""The tasks of this machine, found by the names that Docker's clients have for containers."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio

from flota.gateway.http import Call
from flota.gateway.translation import container
from flota.gateway.translation.machine import is_manager
from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.control_pb2 import ListNetworksRequest
from flota.v1.local_pb2 import InfoRequest, ListLocalTasksRequest
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal, task_name

_PAUSE = 0.1


async def all_of(call: Call) -> list[Task]:
    """Those that have, or had, a container."""
    tasks = (await call.backend.agent.ListTasks(ListLocalTasksRequest())).tasks
    return [task for task in tasks if container.exists(task)]


async def find(call: Call, wanted: str) -> Task:
    """By id, name, or the beginning of an id. Raises NotFound, InvalidArgument (several)."""
    wanted = wanted.removeprefix("/")
    tasks = await all_of(call)
    exact = [task for task in tasks if wanted in (container.container_id(task), task_name(task))]
    found = exact or [task for task in tasks if wanted and container.container_id(task).startswith(wanted)]
    if len(found) > 1:
        raise InvalidArgument(f"Multiple IDs found with provided prefix: {wanted}")
    if not found:
        raise NotFound(f"No such container: {wanted}")
    return found[0]


async def networks(call: Call) -> dict[str, Network]:
    """The swarm's networks by id; empty where nobody can be asked."""
    try:
        if not is_manager(await call.backend.local.Info(InfoRequest())):
            return {}
        listed = await call.backend.control.ListNetworks(ListNetworksRequest(), timeout=3)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return {}
        raise
    return {each.id: each for each in listed.networks}


async def ended(call: Call, task_id: str, limit: float | None = None) -> Task | None:
    """The task once it has ended; None when it has not within `limit` seconds, or is not known any longer."""
    deadline = None if limit is None else time.monotonic() + limit
    while True:
        tasks = (await call.backend.agent.ListTasks(ListLocalTasksRequest())).tasks
        task = next((task for task in tasks if task.id == task_id), None)
        if task is None or is_terminal(task):
            return task
        if deadline is not None and time.monotonic() > deadline:
            return None
        await asyncio.sleep(_PAUSE)
