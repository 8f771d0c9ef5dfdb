"""/networks: those of the swarm, and those of this machine alone (bridge, host, none and what people make)."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio
from aiohttp import web

from flota.gateway import local_containers
from flota.gateway.failures import HttpFailure
from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import asked, container, shown
from flota.gateway.translation.machine import is_manager
from flota.rpc.errors import NotFound, Unsupported
from flota.v1.containers_pb2 import CreateBridgeRequest, RemoveBridgeRequest
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
from flota.v1.network_options import BRIDGE, PREDEFINED
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import PortConfig, TaskState

# A task's grace is 10 s unless the service says another.
_PATIENCE, _PAUSE = 60.0, 0.2
_THERE = ("running", "paused")
_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


async def _of_swarm(call: Call) -> list[Network]:
    """The swarm's networks; none on a worker."""
    if not is_manager(await call.backend.local.Info(InfoRequest())):
        return []
    return list((await call.backend.control.ListNetworks(ListNetworksRequest())).networks)


async def _used(call: Call) -> set[str]:
    """Ids of networks that services are on."""
    services = (await call.backend.control.ListServices(ListServicesRequest())).services
    attached = {each.target for service in services for each in service.spec.task.networks}
    return attached | {each.network_id for service in services for each in service.endpoint.virtual_ips}


def _passes(network: Network, wanted: Filters) -> bool:
    name, scope = network.spec.annotations.name, shown.network_scope(network)
    return (
        wanted.starts("id", network.id)
        and wanted.within("name", name)
        and wanted.labels("label", network.spec.annotations.labels)
        and wanted.equals("driver", network.spec.driver.name or "overlay")
        and wanted.equals("scope", *(("swarm", "global") if scope == "swarm" else (scope,)))
        and wanted.equals("type", "builtin" if network.spec.ingress or network.id in PREDEFINED else "custom")
    )


async def ls(call: Call) -> web.StreamResponse:
    """All networks that fulfil the filters."""
    wanted = call.filters(*_FILTERS)
    wanted.one_of("type", ("custom", "builtin"))
    there = [*await local_containers.bridges(call), *await _of_swarm(call)]
    networks = [network for network in there if _passes(network, wanted)]
    dangling = wanted.flag("dangling")
    if dangling is not None:
        used = {*PREDEFINED, *await _used_here(call)}
        if any(shown.network_scope(network) == "swarm" for network in networks):
            used |= await _used(call)
        networks = [each for each in networks if (each.id not in used and not each.spec.ingress) == dangling]
    return answer([shown.network(network) for network in networks])


async def inspect(call: Call) -> web.StreamResponse:
    """One network by id or name, with the containers of this node that are on it."""
    scope = call.query("scope")
    # Services ask for the predefined ones as for networks of the swarm.
    if (scope in ("", "local") or call.name() in PREDEFINED) and (
        local := await local_containers.bridge(call, call.name())
    ) is not None:
        tasks = [one.task for one in await local_containers.all_of(call) if container.status(one) in _THERE]
        return answer(shown.network(local) | {"Containers": shown.endpoints(local, tasks)})
    if scope not in ("", "swarm", "global"):
        raise NotFound(f"network {call.name()} not found")
    return await _inspect_of_swarm(call)


async def _used_here(call: Call) -> set[str]:
    """Ids of networks that containers of this machine are on."""
    containers = await local_containers.all_of(call)
    return {each.network_id for one in containers for each in one.task.networks if each.addresses}


async def _inspect_of_swarm(call: Call) -> web.StreamResponse:
    control = call.backend.control
    try:
        network = (await control.GetNetwork(GetNetworkRequest(network_id=call.name()))).network
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            raise NotFound(f"network {call.name()} not found") from None
        raise
    tasks = [one.task for one in await local_containers.plain_ones(call)]
    here = (await call.backend.local.Info(InfoRequest())).node_id
    states = [TaskState.TASK_STATE_RUNNING]
    request = ListTasksRequest(filters=ListFilters(node_ids=[here], desired_states=states))
    tasks += (await control.ListTasks(request)).tasks
    return answer(shown.network(network) | {"Containers": shown.endpoints(network, tasks)})


async def create(call: Call) -> web.StreamResponse:
    """A new network: of this machine (driver bridge, which is meant when none is said), or of the swarm (overlay)."""
    given = await call.body()
    spec = asked.network_spec(given)
    name = spec.annotations.name
    if name in PREDEFINED:
        raise HttpFailure(403, f"operation is not permitted on predefined {name} network")
    match given.text("Driver") or BRIDGE:
        case "bridge":
            spec.driver.name = BRIDGE
            made = (await call.backend.containers.CreateBridge(CreateBridgeRequest(spec=spec))).network
        case "overlay":
            made = (await call.backend.control.CreateNetwork(CreateNetworkRequest(spec=spec))).network
        case driver:
            raise Unsupported(f"network driver {driver!r} is not supported: only overlay and bridge are")
    return answer({"Id": made.id, "Warning": ""}, 201)


async def remove(call: Call) -> web.StreamResponse:
    """Forget a network that nothing is on, of this machine or of the swarm."""
    local = await local_containers.bridge(call, call.name())
    if local is None:
        return await _remove_from_swarm(call)
    name = local.spec.annotations.name
    if local.id in PREDEFINED:
        raise HttpFailure(403, f"{name} is a pre-defined network and cannot be removed")
    try:
        await call.backend.containers.RemoveBridge(RemoveBridgeRequest(id=local.id))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            raise HttpFailure(403, error.details() or "") from None
        raise
    return nothing(204)


async def _remove_from_swarm(call: Call) -> web.StreamResponse:
    """One of the swarm.

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
            if await _has_users(call, found.network):
                raise
            if unused:
                raise
            # They may have ended since the refusal: then it is asked once more.
            tasks = (await call.backend.control.ListTasks(ListTasksRequest())).tasks
            unused = not any(_is_on(task, found.network) for task in tasks)
        await asyncio.sleep(_PAUSE)


async def _has_users(call: Call, network: Network) -> bool:
    """Whether services are on it; on the ingress network, by publishing ports."""
    if not network.spec.ingress:
        return network.id in await _used(call)
    services = (await call.backend.control.ListServices(ListServicesRequest())).services
    ports = (port for service in services for port in service.spec.endpoint.ports)
    return any(port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS for port in ports)


def _is_on(task: Task, network: Network) -> bool:
    return any(each.network_id == network.id for each in task.networks) and not is_terminal(task)


async def prune(call: Call) -> web.StreamResponse:
    """Forget every network that nothing is on."""
    wanted = call.filters("label", "label!", "until")
    deleted = []
    of_swarm = await _of_swarm(call)
    used = {*PREDEFINED, *await _used_here(call), *(await _used(call) if of_swarm else ())}
    for network in [*await local_containers.bridges(call), *of_swarm]:
        labels = network.spec.annotations.labels
        unwanted = "label!" in wanted and wanted.labels("label!", labels)
        if network.id in used or network.spec.ingress or not wanted.labels("label", labels) or unwanted:
            continue
        try:
            if shown.network_scope(network) == "local":
                await call.backend.containers.RemoveBridge(RemoveBridgeRequest(id=network.id))
            else:
                await call.backend.control.RemoveNetwork(RemoveNetworkRequest(network_id=network.id))
            deleted.append(network.spec.annotations.name)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                raise
    return answer({"NetworksDeleted": deleted or None})


ROUTES: list[Route] = [
    ("GET", "/networks", ls),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{id}", inspect),
    ("DELETE", "/networks/{id}", remove),
]
