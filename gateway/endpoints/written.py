"""/containers/{id}/changes and export, /commit: what containers wrote, and images of it."""

from __future__ import annotations

import json

from aiohttp import web

from flota.gateway import local_containers
from flota.gateway.endpoints.images import reference_of
from flota.gateway.failures import HttpFailure
from flota.gateway.http import Call, Route, answer
from flota.gateway.streams import passed_on
from flota.gateway.translation.container import Local, status
from flota.gateway.translation.container_inspected import image_config
from flota.v1.containers_pb2 import (
    CommitContainerRequest,
    ContainerChangesRequest,
    ExportContainerRequest,
)


async def changes(call: Call) -> web.StreamResponse:
    """Paths that are not as in the image: modified 0, added 1, deleted 2."""
    local = await _with_files(call, call.name())
    told = await call.backend.containers.ContainerChanges(ContainerChangesRequest(id=local.task.id))
    return answer([{"Path": each.path, "Kind": int(each.kind)} for each in told.changes])


async def export(call: Call) -> web.StreamResponse:
    """A tar of all its files, without those in volumes."""
    local = await _with_files(call, call.name())
    going = call.backend.containers.ExportContainer(ExportContainerRequest(id=local.task.id))
    return await passed_on(call, going, "application/x-tar")


async def commit(call: Call) -> web.StreamResponse:
    """An image of what it wrote. It says of containers what this one was told, and the query's and body's changes."""
    local = await _with_files(call, call.query("container"))
    given = await call.body()
    image = await local_containers.image_of(call, local)
    config = image_config(local.task, image) | {name: given.raw(name) for name in given.names() if given.has(name)}
    request = CommitContainerRequest(
        id=local.task.id,
        reference=reference_of(call.query("repo"), call.query("tag")) if call.query("repo") else "",
        comment=call.query("comment"),
        author=call.query("author"),
        config=json.dumps(config).encode(),
        pause=call.flag("pause", default=True),
    )
    # One query field may hold several lines.
    for text in call.request.query.getall("changes", []):
        request.changes.extend(line for line in text.splitlines() if line.strip())
    made = await call.backend.containers.CommitContainer(request)
    return answer({"Id": made.image_id}, 201)


async def _with_files(call: Call, name: str) -> Local:
    """A container whose files are there. Raises HttpFailure: a task's go with its end."""
    local = await local_containers.find(call, name)
    if local.plain is None and status(local) not in ("running", "paused"):
        raise HttpFailure(409, f"container {name} has ended: of a service's tasks only the log is kept then")
    return local


ROUTES: list[Route] = [
    ("GET", "/containers/{id}/changes", changes),
    ("GET", "/containers/{id}/export", export),
    ("POST", "/commit", commit),
]
