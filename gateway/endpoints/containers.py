"""/containers: those of this machine's tasks. They are made and removed by their services."""

from __future__ import annotations

import shlex
import time

from aiohttp import web

from flota.gateway import local_tasks
from flota.gateway.endpoints import logs as log_lines
from flota.gateway.failures import HttpFailure
from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.streams import Streaming
from flota.gateway.translation import container
from flota.gateway.translation.events import container_labels
from flota.rpc.errors import Unsupported
from flota.v1.logs_pb2 import LogSelector
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal, task_name
from flota.v1.tasks_pb2 import SignalTaskRequest, TopRequest

_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
    "publish", "since", "status", "volume",
)  # fmt: skip
_GRACE = 10


async def ls(call: Call) -> web.StreamResponse:
    """Those that run; with all=1 those that have ended, too."""
    wanted = call.filters(*_FILTERS)
    wanted.one_of("status", container.STATUSES)
    everything = call.flag("all") or "status" in wanted or "exited" in wanted
    networks = await local_tasks.networks(call)
    tasks = [task for task in await local_tasks.all_of(call) if everything or container.status(task) == "running"]
    tasks.sort(key=lambda task: -task.meta.created_at.ToNanoseconds())
    found = [task for task in tasks if _passes(task, wanted, networks)]
    limit = call.number("limit")
    now = time.time()
    return answer([container.listed(task, networks, now) for task in (found[:limit] if limit > 0 else found)])


def _passes(task: Task, wanted: Filters, networks: dict[str, Network]) -> bool:
    on = [each.network_id for each in task.networks]
    on += [networks[id].spec.annotations.name for id in on if id in networks]
    is_task = wanted.flag("is-task")
    return (
        wanted.starts("id", container.container_id(task))
        and wanted.within("name", f"/{task_name(task)}")
        and wanted.labels("label", container_labels(task))
        and wanted.equals("status", container.status(task))
        and wanted.equals("health", container.health(task))
        and wanted.equals("exited", str(task.status.container.exit_code) if is_terminal(task) else "")
        and wanted.starts("ancestor", task.spec.container.image)
        and wanted.equals("network", *on)
        and is_task is not False
    )


async def inspect(call: Call) -> web.StreamResponse:
    """One of them."""
    task = await local_tasks.find(call, call.name())
    return answer(container.inspected(task, await local_tasks.networks(call)))


async def logs(call: Call) -> web.StreamResponse:
    """Its output. Managers pass logs on, so on a worker they are asked for there."""
    task = await local_tasks.find(call, call.name())
    return await log_lines.lines(call, LogSelector(task_ids=[task.id]), task.spec.container.tty)


async def top(call: Call) -> web.StreamResponse:
    """Its processes."""
    task = await local_tasks.find(call, call.name())
    request = TopRequest(task=task.id, ps_arguments=shlex.split(call.query("ps_args")))
    shown = await call.backend.tasks.Top(request)
    return answer({"Titles": list(shown.titles), "Processes": [list(each.values) for each in shown.processes]})


async def kill(call: Call) -> web.StreamResponse:
    """A signal for its program. What ends by it is replaced by its service."""
    task = await _running(call)
    await call.backend.tasks.SignalTask(SignalTaskRequest(task=task.id, signal=call.query("signal")))
    return nothing(204)


async def stop(call: Call) -> web.StreamResponse:
    """Its stop signal, and SIGKILL after t seconds. Its service replaces it."""
    task = await local_tasks.find(call, call.name())
    if is_terminal(task):
        return nothing(304)
    spec = task.spec.container
    first = call.query("signal") or spec.stop_signal or "TERM"
    grace = call.number("t") if call.query("t") else (spec.stop_grace_period.seconds or _GRACE)
    await call.backend.tasks.SignalTask(SignalTaskRequest(task=task.id, signal=first))
    if await local_tasks.ended(call, task.id, None if grace < 0 else grace) is None:
        tasks = {each.id for each in await local_tasks.all_of(call) if not is_terminal(each)}
        if task.id in tasks:
            await call.backend.tasks.SignalTask(SignalTaskRequest(task=task.id, signal="KILL"))
            await local_tasks.ended(call, task.id)
    return nothing(204)


async def _running(call: Call) -> Task:
    task = await local_tasks.find(call, call.name())
    if container.status(task) != "running":
        raise HttpFailure(409, f"container {container.container_id(task)} is not running")
    return task


async def wait(call: Call) -> web.StreamResponse:
    """Its exit status, once it has one. Clients wait for the answer's head before they go on."""
    task = await local_tasks.find(call, call.name())
    async with Streaming(call, "application/json") as out:
        end = await local_tasks.ended(call, task.id) or task
        await out.line({"StatusCode": end.status.container.exit_code})
    return out.response


async def remove(call: Call) -> web.StreamResponse:
    """Only a running one, by force: its service replaces it. What has ended goes with its task."""
    task = await local_tasks.find(call, call.name())
    if not is_terminal(task):
        if not call.flag("force"):
            raise HttpFailure(
                409,
                f'cannot remove container "/{task_name(task)}": container is running: it belongs to service '
                f"{task.service_annotations.name}, remove that one, or kill the container with force",
            )
        await call.backend.tasks.SignalTask(SignalTaskRequest(task=task.id, signal="KILL"))
        await local_tasks.ended(call, task.id)
    return nothing(204)


async def refuse(call: Call) -> web.StreamResponse:
    """Raises Unsupported."""
    raise Unsupported(
        "flota runs containers of services only, and their services say what becomes of them: docker service create, "
        "update, scale, rm"
    )


ROUTES: list[Route] = [
    ("GET", "/containers/json", ls),
    ("GET", "/containers/{id}/json", inspect),
    ("GET", "/containers/{id}/logs", logs),
    ("GET", "/containers/{id}/top", top),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
    ("POST", "/containers/create", refuse),
    *[
        ("POST", f"/containers/{{id}}/{verb}", refuse)
        for verb in ("start", "restart", "pause", "unpause", "rename", "update")
    ],
    ("POST", "/containers/prune", refuse),
    ("POST", "/commit", refuse),
    ("GET", "/containers/{id}/export", refuse),
    ("GET", "/containers/{id}/changes", refuse),
    *[(method, "/containers/{id}/archive", refuse) for method in ("GET", "HEAD", "PUT")],
]
