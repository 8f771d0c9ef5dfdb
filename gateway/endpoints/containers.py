"""/containers: looking at those of this machine, and ending them. Tasks' are made and replaced by their services."""

from __future__ import annotations

import shlex
import time

from aiohttp import web
from google.protobuf.duration_pb2 import Duration

from flota.gateway import local_containers
from flota.gateway.endpoints import logs as log_lines
from flota.gateway.failures import HttpFailure
from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.streams import Streaming
from flota.gateway.translation import container
from flota.gateway.translation.container_inspected import inspected
from flota.gateway.translation.events import container_labels
from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.containers_pb2 import (
    ContainerLogsRequest,
    PauseContainerRequest,
    RemoveContainerRequest,
    StopContainerRequest,
    WaitContainerRequest,
)
from flota.v1.local_pb2 import ListVolumesRequest
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal, task_name
from flota.v1.tasks_pb2 import SignalTaskRequest, TopRequest
from flota.v1.types_pb2 import Mount

_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
    "publish", "since", "status", "volume",
)  # fmt: skip
# Those that `docker ps` lists.
_ALIVE = ("running", "paused", "restarting")
_GRACE = 10
# `docker stop -t -1`: as long as it takes.
_FOR_EVER = 10 * 365 * 86400
# Clients that wait for a container only after they have started it (dockerode, scripts): one that is removed at its end
# may be gone by then. Seconds.
_REMEMBERED = 60.0
_UNTIL = {
    "": WaitContainerRequest.UNTIL_STOPPED,
    "not-running": WaitContainerRequest.UNTIL_STOPPED,
    "next-exit": WaitContainerRequest.UNTIL_NEXT_EXIT,
    "removed": WaitContainerRequest.UNTIL_REMOVED,
}


async def ls(call: Call) -> web.StreamResponse:
    """Those that run; with all=1 those that have ended, too."""
    wanted = call.filters(*_FILTERS)
    wanted.one_of("status", container.STATUSES)
    limit = call.number("limit")
    everything = call.flag("all") or limit > 0 or any(key in wanted for key in ("status", "exited"))
    networks = await local_containers.networks(call)
    there = [one for one in await local_containers.all_of(call) if everything or container.status(one) in _ALIVE]
    there.sort(key=lambda one: -one.task.meta.created_at.ToNanoseconds())
    found = [one for one in there if _passes(one, wanted, networks)]
    now = time.time()
    found = found[:limit] if limit > 0 else found
    sizes = await local_containers.sizes(call) if call.flag("size") else lambda one: {}
    return answer([container.listed(one, networks, now) | sizes(one) for one in found])


def _passes(local: container.Local, wanted: Filters, networks: dict[str, Network]) -> bool:
    task = local.task
    on = [each.network_id for each in task.networks]
    on += [networks[id].spec.annotations.name for id in on if id in networks]
    is_task = wanted.flag("is-task")
    return (
        wanted.starts("id", container.container_id(task))
        and wanted.within("name", f"/{task_name(task)}")
        and wanted.labels("label", container_labels(task))
        and wanted.equals("status", container.status(local))
        and wanted.equals("health", container.health(local))
        and wanted.equals("exited", str(task.status.container.exit_code) if is_terminal(task) else "")
        and wanted.starts("ancestor", task.spec.container.image)
        and wanted.equals("network", *on)
        and wanted.equals("volume", *(each for mount in task.spec.container.mounts for each in _ends(mount)))
        and is_task in (None, local.plain is None)
    )


def _ends(mount: Mount) -> tuple[str, str]:
    return mount.source, mount.target


async def inspect(call: Call) -> web.StreamResponse:
    """One of them."""
    local = await local_containers.find(call, call.name())
    image = await local_containers.image_of(call, local)
    volumes = (await call.backend.agent.ListVolumes(ListVolumesRequest())).volumes
    places = {volume.name: volume.mountpoint for volume in volumes}
    sizes = (await local_containers.sizes(call))(local) if call.flag("size") else {}
    return answer(inspected(local, await local_containers.networks(call), image, places) | sizes)


async def logs(call: Call) -> web.StreamResponse:
    """Its output, as this machine has it."""
    task = (await local_containers.find(call, call.name())).task
    if task.log_driver.name == "none":
        raise HttpFailure(501, "configured logging driver does not support reading")
    request = ContainerLogsRequest(id=task.id, options=log_lines.options(call))
    return await log_lines.lines(
        call, call.backend.containers.ContainerLogs(request), task.spec.container.tty, of_task=False
    )


async def top(call: Call) -> web.StreamResponse:
    """Its processes."""
    task = await _running(call)
    request = TopRequest(task=task.id, ps_arguments=shlex.split(call.query("ps_args")))
    shown = await call.backend.containers.TopOf(request)
    return answer({"Titles": list(shown.titles), "Processes": [list(each.values) for each in shown.processes]})


async def kill(call: Call) -> web.StreamResponse:
    """A signal for its program. What ends by it is replaced by its service, if it has one."""
    task = await _running(call)
    await call.backend.containers.SignalContainer(SignalTaskRequest(task=task.id, signal=call.query("signal")))
    return nothing(204)


async def stop(call: Call) -> web.StreamResponse:
    """Its stop signal, and SIGKILL after t seconds. Its service, if it has one, replaces it."""
    local = await local_containers.find(call, call.name())
    if local.plain is not None:
        told = await call.backend.containers.StopContainer(stop_request(call, local.task.id))
        return nothing(304 if told.unchanged else 204)
    return await _stop_task(call, local.task)


def stop_request(call: Call, container_id: str) -> StopContainerRequest:
    """What the query of `stop` and `restart` says. Raises InvalidArgument."""
    request = StopContainerRequest(id=container_id, signal=call.query("signal"))
    if call.query("t"):
        seconds = call.number("t")
        request.grace.CopyFrom(Duration(seconds=_FOR_EVER if seconds < 0 else seconds))
    return request


async def _stop_task(call: Call, task: Task) -> web.StreamResponse:
    if is_terminal(task):
        return nothing(304)
    spec = task.spec.container
    first = call.query("signal") or spec.stop_signal or "TERM"
    grace = call.number("t") if call.query("t") else (spec.stop_grace_period.seconds or _GRACE)
    await call.backend.containers.SignalContainer(SignalTaskRequest(task=task.id, signal=first))
    if not await local_containers.ended(call, task.id, None if grace < 0 else grace):
        await call.backend.containers.SignalContainer(SignalTaskRequest(task=task.id, signal="KILL"))
        await local_containers.ended(call, task.id)
    return nothing(204)


async def pause(call: Call) -> web.StreamResponse:
    """Let nothing in it run."""
    return await _pause(call, resume=False)


async def unpause(call: Call) -> web.StreamResponse:
    """Let it go on."""
    return await _pause(call, resume=True)


async def _pause(call: Call, *, resume: bool) -> web.StreamResponse:
    local = await local_containers.find(call, call.name())
    state, id = container.status(local), container.container_id(local.task)
    if state == "paused" and not resume:
        raise HttpFailure(409, f"Container {id} is already paused")
    if state != "paused" and (resume or state != "running"):
        raise HttpFailure(409, f"Container {id} is not {'paused' if resume else 'running'}")
    await call.backend.containers.PauseContainer(PauseContainerRequest(id=local.task.id, resume=resume))
    return nothing(204)


async def _running(call: Call) -> Task:
    local = await local_containers.find(call, call.name())
    if container.status(local) not in ("running", "paused"):
        raise HttpFailure(409, f"Container {container.container_id(local.task)} is not running")
    return local.task


async def wait(call: Call) -> web.StreamResponse:
    """Its exit status, once it has one. Clients wait for the answer's head before they go on."""
    condition = call.query("condition")
    if condition not in _UNTIL:
        raise InvalidArgument.of("condition", condition, f"one of {', '.join(filter(None, _UNTIL))} is needed")
    try:
        container_id = (await local_containers.find(call, call.name())).task.id
    except NotFound:
        if (code := await local_containers.ended_by_itself(call, call.name(), _REMEMBERED)) is None:
            raise
        return answer({"StatusCode": code})
    waiting = call.backend.containers.WaitContainer(WaitContainerRequest(id=container_id, until=_UNTIL[condition]))
    out: Streaming | None = None
    try:
        async for told in waiting:
            if not told.ended:
                out = await Streaming(call, "application/json").__aenter__()
            elif out is not None:
                await out.line({"StatusCode": told.exit_code})
    finally:
        waiting.cancel()
    assert out is not None
    return out.response


async def remove(call: Call) -> web.StreamResponse:
    """One that runs only by force; a task's is then replaced by its service, and what has ended goes with its task."""
    local = await local_containers.find(call, call.name())
    task = local.task
    force = call.flag("force")
    if local.plain is not None:
        if (state := container.status(local)) in ("running", "paused") and not force:
            first = "stop" if state == "running" else "unpause"
            raise HttpFailure(
                409,
                f'cannot remove container "/{task_name(task)}": container is {state}: {first} the container before '
                "removing or force remove",
            )
        await call.backend.containers.RemoveContainer(RemoveContainerRequest(id=task.id, force=force))
    elif not is_terminal(task):
        if not force:
            raise HttpFailure(
                409,
                f'cannot remove container "/{task_name(task)}": container is running: it belongs to service '
                f"{task.service_annotations.name}, remove that one, or kill the container with force",
            )
        await call.backend.containers.SignalContainer(SignalTaskRequest(task=task.id, signal="KILL"))
        await local_containers.ended(call, task.id)
    return nothing(204)


ROUTES: list[Route] = [
    ("GET", "/containers/json", ls),
    ("GET", "/containers/{id}/json", inspect),
    ("GET", "/containers/{id}/logs", logs),
    ("GET", "/containers/{id}/top", top),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
]
