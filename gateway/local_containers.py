"""The containers of this machine, tasks' and plain ones, found by the names that Docker's clients have for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from flota.gateway.failures import HttpFailure
from flota.gateway.http import Call
from flota.gateway.translation import container
from flota.gateway.translation.container import Local
from flota.gateway.translation.machine import is_manager
from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.containers_pb2 import (
    ContainerSizesRequest,
    ListBridgesRequest,
    ListContainersRequest,
    PlainContainer,
    WaitContainerRequest,
    WatchContainersRequest,
)
from flota.v1.control_pb2 import ListNetworksRequest
from flota.v1.local_pb2 import (
    InfoRequest,
    InspectImageRequest,
    ListImagesRequest,
    ListLocalTasksRequest,
    LocalContainer,
)
from flota.v1.network_options import HOST, NONE, PREDEFINED
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import ContainerHealth


async def all_of(call: Call) -> list[Local]:
    """Those of tasks that have, or had, a container, and the plain ones."""
    told = await call.backend.agent.ListTasks(ListLocalTasksRequest())
    known = told.containers
    tasks = [_local(task, None, known[task.id]) for task in told.tasks if container.exists(task)]
    return tasks + await plain_ones(call)


async def plain_ones(call: Call) -> list[Local]:
    """Those that belong to no service."""
    found = await call.backend.containers.ListContainers(ListContainersRequest())
    return [_local(plain.task, plain, plain) for plain in found.containers]


def _local(task: Task, plain: PlainContainer | None, known: LocalContainer | PlainContainer) -> Local:
    health: ContainerHealth | None = known.health if known.HasField("health") else None
    return Local(task, plain, known.image_id, known.log_path, health, known.paused)


async def find(call: Call, wanted: str) -> Local:
    """By id, name, or the beginning of an id. Raises NotFound, InvalidArgument (several)."""
    wanted = wanted.removeprefix("/")
    there = await all_of(call)
    exact = [one for one in there if wanted in (container.container_id(one.task), task_name(one.task))]
    found = exact or [one for one in there if wanted and container.container_id(one.task).startswith(wanted)]
    if len(found) > 1:
        raise InvalidArgument(f"Multiple IDs found with provided prefix: {wanted}")
    if not found:
        raise NotFound(f"No such container: {wanted}")
    return found[0]


async def sizes(call: Call) -> Callable[[Local], dict[str, int]]:
    """What each container wrote, and that with its image's files, as bytes."""
    written = (await call.backend.containers.ContainerSizes(ContainerSizesRequest())).written
    images = (await call.backend.agent.ListImages(ListImagesRequest())).images
    of_image = {image.id: image.size_bytes for image in images}

    def of(local: Local) -> dict[str, int]:
        own = written.get(local.task.id, 0)
        return {"SizeRw": own, "SizeRootFs": own + of_image.get(local.image_id, 0)}

    return of


async def image_of(call: Call, local: Local) -> dict[str, Any]:
    """What the configuration of its image says of its process; empty when the image is gone."""
    if not local.image_id:
        return {}
    try:
        found = await call.backend.agent.InspectImage(InspectImageRequest(reference=local.image_id))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return {}
        raise
    return json.loads(found.configuration).get("config") or {}


async def find_plain(call: Call, to_do: str) -> PlainContainer:
    """The plain one in the path. Raises what `find` does, and 501 for a task's: its service says what becomes of it."""
    local = await find(call, call.name())
    if local.plain is None:
        service = local.task.service_annotations.name
        raise HttpFailure(501, f"cannot {to_do} a container of service {service}: docker service update, scale, rm")
    return local.plain


async def bridges(call: Call) -> list[Network]:
    """Networks of this machine alone, also those that are networks in name only."""
    made = list((await call.backend.containers.ListBridges(ListBridgesRequest())).networks)
    for name, driver in ((HOST, "host"), (NONE, "null")):
        other = Network(id=name)
        other.spec.annotations.name, other.spec.driver.name = name, driver
        made.append(other)
    return made


async def bridge(call: Call, wanted: str) -> Network | None:
    """The network of this machine alone of that id, name or beginning of an id. Raises InvalidArgument (several)."""
    there = await bridges(call)
    exact = [each for each in there if wanted in (each.id, each.spec.annotations.name)]
    found = exact or [each for each in there if wanted and each.id.startswith(wanted) and each.id not in PREDEFINED]
    if len(found) > 1:
        raise InvalidArgument(f"network {wanted} is ambiguous: {len(found)} networks match")
    return found[0] if found else None


async def networks(call: Call) -> dict[str, Network]:
    """This machine's networks and the swarm's by id; of the latter none where nobody can be asked."""
    return {each.id: each for each in (*await bridges(call), *await swarm_networks(call))}


async def swarm_networks(call: Call) -> list[Network]:
    """The swarm's; none where nobody can be asked."""
    try:
        if not is_manager(await call.backend.local.Info(InfoRequest())):
            return []
        return list((await call.backend.control.ListNetworks(ListNetworksRequest(), timeout=3)).networks)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return []
        raise


async def ended_by_itself(call: Call, wanted: str, since: float) -> int | None:
    """The exit status of a container that was removed at its end, if that was within `since` seconds, by id or name."""
    request = WatchContainersRequest()
    request.since.FromNanoseconds(int((time.time() - since) * 1e9))
    watch = call.backend.containers.WatchContainers(request)
    found = None
    try:
        async for told in watch:
            if not told.action:
                break
            task = told.container.task
            if (
                told.action == "die"
                and told.container.auto_remove
                and wanted.removeprefix("/") in (container.container_id(task), task_name(task))
            ):
                found = task.status.container.exit_code
    finally:
        watch.cancel()
    return found


async def ended(call: Call, task_id: str, limit: float | None = None) -> bool:
    """Wait until the task has ended, or is not known any longer; false when it has not within `limit` seconds."""
    waiting = call.backend.containers.WaitContainer(WaitContainerRequest(id=task_id))
    try:
        async with asyncio.timeout(limit):
            async for told in waiting:
                if told.ended:
                    return True
    except TimeoutError:
        return False
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
    finally:
        waiting.cancel()
    return True
