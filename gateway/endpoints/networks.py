"""/networks: those of the swarm. There are no others: flota has no containers on networks of one machine."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio
from aiohttp import web

from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import asked, shown
from flota.gateway.translation.machine import is_manager
from flota.rpc.errors import NotFound, Unsupported
from flota.v1.control_pb2 import (
    CreateNetworkRequest,
    GetNetworkRequest,
    ListFilters,
    ListNetworksRequest,
    ListServicesRequest,
    ListTasksRequest,
    RemoveNetworkRequest,
)
from flota.v1.local_pb2 import InfoRequest
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskState

# A task's grace is 10 s unless the service says another.
_PATIENCE, _PAUSE = 60.0, 0.2
_NOT_ATTACHABLE = "attachable is ignored: flota runs containers of services only"
_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


async def _all(call: Call) -> list[Network]:
    """The swarm's networks. None on a worker, where Docker shows those of the machine."""
    if not is_manager(await call.backend.local.Info(InfoRequest())):
        return []
    return list((await call.backend.control.ListNetworks(ListNetworksRequest())).networks)


async def _used(call: Call) -> set[str]:
    """Ids of networks that services are on."""
    services = (await call.backend.control.ListServices(ListServicesRequest())).services
    attached = {each.target for service in services for each in service.spec.task.networks}
    return attached | {each.network_id for service in services for each in service.endpoint.virtual_ips}


def _passes(network: Network, wanted: Filters) -> bool:
    name = network.spec.annotations.name
    return (
        wanted.starts("id", network.id)
        and wanted.within("name", name)
        and wanted.labels("label", network.spec.annotations.labels)
        and wanted.equals("driver", network.spec.driver.name or "overlay")
        and wanted.equals("scope", "swarm", "global")
        and wanted.equals("type", "builtin" if network.spec.ingress else "custom")
    )


async def ls(call: Call) -> web.StreamResponse:
    """All networks that fulfil the filters."""
    wanted = call.filters(*_FILTERS)
    wanted.one_of("type", ("custom", "builtin"))
    networks = [network for network in await _all(call) if _passes(network, wanted)]
    dangling = wanted.flag("dangling")
    if dangling is not None:
        used = await _used(call)
        networks = [each for each in networks if (each.id not in used and not each.spec.ingress) == dangling]
    return answer([shown.network(network) for network in networks])


async def inspect(call: Call) -> web.StreamResponse:
    """One network by id or name, with the tasks of this node that are on it."""
    scope = call.query("scope")
    if scope not in ("", "swarm", "global"):
        raise NotFound(f"network {call.name()} not found")
    control = call.backend.control
    try:
        network = (await control.GetNetwork(GetNetworkRequest(network_id=call.name()))).network
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            raise NotFound(f"network {call.name()} not found") from None
        raise
    here = (await call.backend.local.Info(InfoRequest())).node_id
    states = [TaskState.TASK_STATE_RUNNING]
    tasks = (
        await control.ListTasks(ListTasksRequest(filters=ListFilters(node_ids=[here], desired_states=states)))
    ).tasks
    return answer(shown.network(network) | {"Containers": shown.endpoints(network, tasks)})


async def create(call: Call) -> web.StreamResponse:
    """A new overlay network."""
    given = await call.body()
    driver = given.text("Driver") or "overlay"
    if driver != "overlay":
        raise Unsupported(f"network driver {driver!r} is not supported: only overlay is (-d overlay)")
    request = CreateNetworkRequest(spec=asked.network_spec(given))
    warning = _NOT_ATTACHABLE if request.spec.attachable else ""
    # Nothing could attach to it: it is as good without.
    request.spec.attachable = False
    made = await call.backend.control.CreateNetwork(request)
    return answer({"Id": made.network.id, "Warning": warning}, 201)


async def remove(call: Call) -> web.StreamResponse:
    """Forget a network that nothing is on.

    `docker stack rm` removes services and, in the same breath, their networks: tasks that are still stopping are
    waited for, services that are on the network are not.
    """
    request = RemoveNetworkRequest(network_id=call.name())
    patience = time.monotonic() + _PATIENCE
    unused = False
    while True:
        try:
            await call.backend.control.RemoveNetwork(request)
            return nothing(204)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION or time.monotonic() > patience:
                raise
            found = await call.backend.control.GetNetwork(GetNetworkRequest(network_id=call.name()))
            if found.network.spec.ingress or found.network.id in await _used(call):
                raise
            if unused:
                raise
            # They may have ended since the refusal: then it is asked once more.
            tasks = (await call.backend.control.ListTasks(ListTasksRequest())).tasks
            unused = not any(_is_on(task, found.network) for task in tasks)
        await asyncio.sleep(_PAUSE)


def _is_on(task: Task, network: Network) -> bool:
    return any(each.network_id == network.id for each in task.networks) and not is_terminal(task)


async def prune(call: Call) -> web.StreamResponse:
    """Forget every network that no service is on."""
    wanted = call.filters("label", "label!", "until")
    deleted = []
    used = await _used(call)
    for network in await _all(call):
        labels = network.spec.annotations.labels
        unwanted = "label!" in wanted and wanted.labels("label!", labels)
        if network.id in used or network.spec.ingress or not wanted.labels("label", labels) or unwanted:
            continue
        try:
            await call.backend.control.RemoveNetwork(RemoveNetworkRequest(network_id=network.id))
            deleted.append(network.spec.annotations.name)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                raise
    return answer({"NetworksDeleted": deleted or None})


async def refuse_connect(call: Call) -> web.StreamResponse:
    """Raises Unsupported."""
    raise Unsupported(
        "containers are on the networks of their service: docker service update --network-add or --network-rm"
    )


ROUTES: list[Route] = [
    ("GET", "/networks", ls),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{id}", inspect),
    ("DELETE", "/networks/{id}", remove),
    ("POST", "/networks/{id}/connect", refuse_connect),
    ("POST", "/networks/{id}/disconnect", refuse_connect),
]
