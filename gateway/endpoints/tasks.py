"""/tasks"""

from __future__ import annotations

import grpc
import grpc.aio
from aiohttp import web

from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer
from flota.gateway.translation import shown
from flota.v1.control_pb2 import (
    GetNodeRequest,
    GetServiceRequest,
    GetTaskRequest,
    ListNetworksRequest,
    ListServicesRequest,
    ListTasksRequest,
)
from flota.v1.objects_pb2 import Service, Task
from flota.v1.task_states import short_name, task_name

_STATES = ("running", "shutdown", "accepted", "ready", "complete", "remove")


async def ls(call: Call) -> web.StreamResponse:
    """All tasks that fulfil the filters."""
    wanted = call.filters("_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service")
    wanted.one_of("desired-state", _STATES)
    control = call.backend.control
    request = ListTasksRequest()
    for key, ids in (("service", request.filters.service_ids), ("node", request.filters.node_ids)):
        ids.extend([await _id_of(call, key, word) for word in wanted.get(key)])
        if wanted.get(key) and not ids:
            return answer([])
    tasks = [task for task in (await control.ListTasks(request)).tasks if _passes(task, wanted)]
    up_to_date = wanted.flag("_up-to-date")
    if up_to_date is not None:
        services = {each.id: each for each in (await control.ListServices(ListServicesRequest())).services}
        tasks = [task for task in tasks if is_up_to_date(task, services.get(task.service_id)) == up_to_date]
    networks = await _networks(call, tasks)
    return answer([shown.task(task, networks) for task in tasks])


async def _id_of(call: Call, kind: str, wanted: str) -> str:
    """The id that a name in a filter stands for. Itself when there is no such thing: nothing has that id."""
    try:
        if kind == "service":
            return (await call.backend.control.GetService(GetServiceRequest(service_id=wanted))).service.id
        return (await call.backend.control.GetNode(GetNodeRequest(node_id=wanted))).node.id
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return wanted
        raise


async def _networks(call: Call, tasks: list[Task]) -> shown.Networks:
    """The networks the tasks are on, by id: Docker shows them within each task."""
    if not any(task.networks for task in tasks):
        return {}
    return {each.id: each for each in (await call.backend.control.ListNetworks(ListNetworksRequest())).networks}


def _passes(task: Task, wanted: Filters) -> bool:
    place = f"{task.service_annotations.name}.{task.slot or task.node_id}"
    return (
        wanted.starts("id", task.id)
        and wanted.starts("name", place, task_name(task))
        and wanted.labels("label", task.service_annotations.labels)
        and wanted.equals("desired-state", short_name(task.desired_state).lower())
        and wanted.equals("runtime", "container")
    )


def is_up_to_date(task: Task, service: Service | None) -> bool:
    """Whether a task is what its service wants now; a change that leaves its spec alone does not make it old."""
    if service is None:
        return False
    if service.HasField("job_status"):
        return task.job_iteration.index == service.job_status.iteration.index
    return task.spec_version.index == service.spec_version.index or task.spec == service.spec.task


async def inspect(call: Call) -> web.StreamResponse:
    """One task."""
    task = (await call.backend.control.GetTask(GetTaskRequest(task_id=call.name()))).task
    return answer(shown.task(task, await _networks(call, [task])))


ROUTES: list[Route] = [("GET", "/tasks", ls), ("GET", "/tasks/{id}", inspect)]
