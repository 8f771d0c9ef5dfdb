"""/containers: making, starting and naming those that belong to no service (`docker run`)."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import grpc.aio
from aiohttp import web

from flota.gateway import local_containers
from flota.gateway.endpoints.containers import stop_request
from flota.gateway.failures import HttpFailure, failure_of
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import container, shown
from flota.gateway.translation.events import container_labels
from flota.gateway.translation.machine import is_manager
from flota.gateway.translation.plain import attachment, gateway_priority, plain_container, update_of
from flota.gateway.translation.words import parse_time
from flota.rpc.errors import InvalidArgument, NotFound, Unsupported
from flota.v1.containers_pb2 import (
    ConnectContainerRequest,
    CreateContainerRequest,
    PlainContainer,
    RemoveContainerRequest,
    RenameContainerRequest,
    StartContainerRequest,
)
from flota.v1.control_pb2 import GetNetworkRequest
from flota.v1.local_pb2 import InfoRequest, InspectImageRequest
from flota.v1.objects_pb2 import Network
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import NetworkAttachmentConfig

# What Docker answers 403 to.
_FORBIDDEN = re.compile("already exists in network|Address already in use|not manually attachable")
# What the command line makes exit status 127 of.
_NOT_FOUND = "executable file not found in $PATH"


async def create(call: Call) -> web.StreamResponse:
    """A container; nothing runs. The image must be here: clients pull it when they hear that it is not."""
    given = await call.body()
    if not given.text("Image"):
        raise InvalidArgument("Config cannot be empty in order to create a container: Image is needed")
    image = await _image(call, given.text("Image"))
    wanted = plain_container(call.query("name"), given, image.get("config") or {})
    for network in wanted.task.spec.networks:
        name = network.target
        await resolve(call, network)
        if name in wanted.gateway_priorities:
            wanted.gateway_priorities[network.target] = wanted.gateway_priorities.pop(name)
    for link in given.part("HostConfig").texts("Links"):
        wanted.task.spec.container.hosts.append(await _linked(call, link, wanted))
    made = await call.backend.containers.CreateContainer(CreateContainerRequest(container=wanted))
    return answer({"Id": made.container.task.id, "Warnings": []}, 201)


async def _linked(call: Call, link: str, wanted: PlainContainer) -> str:
    """NAME[:ALIAS] as a line of /etc/hosts: the linked container's address as it is now, on a network of both."""
    name, _, alias = link.partition(":")
    local = await local_containers.find(call, name)
    alias = alias.rpartition("/")[2] or task_name(local.task)
    if container.status(local) not in ("running", "paused"):
        raise HttpFailure(400, f"Cannot link to a non running container: /{name} AS {alias}")
    common = {network.target for network in wanted.task.spec.networks}
    for place in local.task.networks:
        if place.network_id in common and place.addresses:
            return f"{place.addresses[0].partition('/')[0]} {alias} {task_name(local.task)}"
    raise HttpFailure(400, f"Cannot link to /{name} AS {alias}: they are on no network together")


async def _image(call: Call, name: str) -> dict[str, Any]:
    try:
        found = await call.backend.agent.InspectImage(InspectImageRequest(reference=name))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise HttpFailure(404, f"No such image: {name}") from None
        raise
    configuration: dict[str, Any] = json.loads(found.configuration)
    return configuration


async def resolve(call: Call, wanted: NetworkAttachmentConfig) -> None:
    """Put the network's id into the place of its name. Raises 400: to 404 clients would answer with a pull."""
    name = wanted.target
    network = await _network(call, name)
    if network is not None:
        if shown.network_scope(network) == "swarm" and not network.spec.attachable:
            raise HttpFailure(403, f"Could not attach to network {name}: network {name} not manually attachable")
        wanted.target = network.id
    elif not await _managers_know_more(call):
        raise HttpFailure(400, f"network {name} not found")


async def _network(call: Call, wanted: str) -> Network | None:
    """The network of that id, name or beginning of an id: this machine's, or on managers the swarm's.

    Raises InvalidArgument (several), and what managers answer that cannot say.
    """
    if (local := await local_containers.bridge(call, wanted)) is not None:
        return local
    if not is_manager(await call.backend.local.Info(InfoRequest())):
        return None
    try:
        return (await call.backend.control.GetNetwork(GetNetworkRequest(network_id=wanted))).network
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return None
        raise


async def _managers_know_more(call: Call) -> bool:
    """Whether this machine is a worker: only managers know the swarm's networks, and whether there is one of a name."""
    info = await call.backend.local.Info(InfoRequest())
    return bool(info.node_id) and not is_manager(info)


async def start(call: Call) -> web.StreamResponse:
    """Let it run."""
    plain = await local_containers.find_plain(call, "start")
    if plain.paused:
        raise HttpFailure(409, "cannot start a paused container, try unpause instead")
    try:
        told = await call.backend.containers.StartContainer(StartContainerRequest(id=plain.task.id))
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        if "is not in the image" in str(failure):
            raise HttpFailure(failure.status, f"{failure}: {_NOT_FOUND}") from None
        raise failure from None
    return nothing(304 if told.unchanged else 204)


async def restart(call: Call) -> web.StreamResponse:
    """Stop it if it runs, and let it run again."""
    plain = await local_containers.find_plain(call, "restart")
    request = stop_request(call, plain.task.id)
    request.restart = True
    await call.backend.containers.StopContainer(request)
    return nothing(204)


async def rename(call: Call) -> web.StreamResponse:
    """Another name for it."""
    plain = await local_containers.find_plain(call, "rename")
    name = call.query("name").removeprefix("/")
    await call.backend.containers.RenameContainer(RenameContainerRequest(id=plain.task.id, name=name))
    return nothing(204)


async def update(call: Call) -> web.StreamResponse:
    """Other limits, another restart policy; what is not said stays."""
    plain = await local_containers.find_plain(call, "update")
    await call.backend.containers.UpdateContainer(update_of(plain, await call.body()))
    return answer({"Warnings": []})


async def connect(call: Call) -> web.StreamResponse:
    """One more network for it: at once if it runs, else from its next start on."""
    given = await call.body()
    local = await _to_be_wired(call, given.text("Container"))
    endpoint, name = given.part("EndpointConfig"), call.name()
    request = ConnectContainerRequest(id=local.task.id, gateway_priority=gateway_priority(endpoint))
    request.attachment.CopyFrom(attachment(name, endpoint))
    try:
        await resolve(call, request.attachment)
        await call.backend.containers.ConnectContainer(request)
    except HttpFailure as error:
        if "not found" in str(error):
            raise HttpFailure(404, f"Could not attach to network {name}: {error}") from None
        raise
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise HttpFailure(404, f"Could not attach to network {name}: {failure}") from None
        raise HttpFailure(403 if _FORBIDDEN.search(str(failure)) else failure.status, str(failure)) from None
    return nothing(200)


async def disconnect(call: Call) -> web.StreamResponse:
    """One network less for it: at once if it runs, else from its next start on."""
    given = await call.body()
    local = await _to_be_wired(call, given.text("Container"))
    network = await _network(call, call.name())
    is_there = any(call.name() in (each.network_id, each.target) for each in local.task.networks)
    if network is None and not is_there and not await _managers_know_more(call):
        raise NotFound(f"network {call.name()} not found")
    request = ConnectContainerRequest(id=local.task.id, disconnect=True)
    request.attachment.target = network.id if network is not None else call.name()
    await call.backend.containers.ConnectContainer(request)
    return nothing(200)


async def _to_be_wired(call: Call, name: str) -> container.Local:
    """The container whose networks are to be changed. Raises NotFound, Unsupported."""
    local = await local_containers.find(call, name)
    if local.plain is None:
        service = local.task.service_annotations.name
        raise Unsupported(
            f"a container of service {service} is on the networks of its service: docker service update --network-add "
            "or --network-rm"
        )
    return local


async def prune(call: Call) -> web.StreamResponse:
    """Remove those that do not run."""
    wanted = call.filters("label", "label!", "until")
    before = None
    if "until" in wanted:
        try:
            before = parse_time(wanted.get("until")[0]).seconds
        except ValueError:
            raise InvalidArgument.of("until", wanted.get("until")[0], "Unix seconds or RFC 3339 are needed") from None
    deleted: list[str] = []
    reclaimed = 0
    sizes = await local_containers.sizes(call)
    for local in await local_containers.plain_ones(call):
        labels = container_labels(local.task)
        if container.status(local) in ("running", "paused", "restarting") or not wanted.labels("label", labels):
            continue
        if "label!" in wanted and wanted.labels("label!", labels):
            continue
        if before is not None and local.task.meta.created_at.seconds > before:
            continue
        if removed := await _removed(call, local.plain):
            deleted.append(removed)
            reclaimed += sizes(local)["SizeRw"]
    return answer({"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed})


async def _removed(call: Call, plain: PlainContainer | None) -> str:
    """Its id; empty if somebody else was quicker, or started it."""
    assert plain is not None
    try:
        await call.backend.containers.RemoveContainer(RemoveContainerRequest(id=plain.task.id))
    except grpc.aio.AioRpcError as error:
        if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            raise
        return ""
    return plain.task.id


ROUTES: list[Route] = [
    ("POST", "/containers/create", create),
    ("POST", "/containers/prune", prune),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/update", update),
]
