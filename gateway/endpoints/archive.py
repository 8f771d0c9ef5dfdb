"""/containers/{id}/archive: files of containers, as `docker cp` copies them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

from aiohttp import web

from flota.gateway import local_containers
from flota.gateway.http import Call, Route, nothing
from flota.gateway.streams import Streaming
from flota.gateway.translation.words import time_of
from flota.rpc.errors import InvalidArgument
from flota.v1.containers_pb2 import ReadArchiveMessage, ReadArchiveRequest, WriteArchiveRequest

_STAT = "X-Docker-Container-Path-Stat"
_CHUNK = 256 << 10


async def _id_and_path(call: Call) -> tuple[str, str]:
    task = (await local_containers.find(call, call.name())).task
    if not call.query("path"):
        raise InvalidArgument("bad parameter: path cannot be empty")
    return task.id, call.query("path")


def _header(stat: ReadArchiveMessage.Stat) -> str:
    shape = {
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": time_of(stat, "modified_at"),
        "linkTarget": stat.link_target,
    }
    return base64.b64encode(json.dumps(shape).encode()).decode()


async def look(call: Call) -> web.StreamResponse:
    """What there is at a path."""
    id, path = await _id_and_path(call)
    async for told in call.backend.containers.ReadArchive(ReadArchiveRequest(id=id, path=path, only_stat=True)):
        return web.Response(headers={_STAT: _header(told.stat)})
    raise InvalidArgument.of("path", path, "a path in the container is needed")


async def read(call: Call) -> web.StreamResponse:
    """A tar of what is there."""
    id, path = await _id_and_path(call)
    reading = call.backend.containers.ReadArchive(ReadArchiveRequest(id=id, path=path))
    out: Streaming | None = None
    try:
        async for told in reading:
            if out is None:
                out = Streaming(call, "application/x-tar")
                out.response.headers[_STAT] = _header(told.stat)
                await out.response.prepare(call.request)
            else:
                await out.write(told.data)
    finally:
        reading.cancel()
    if out is None:
        raise InvalidArgument.of("path", path, "a path in the container is needed")
    return out.response


async def write(call: Call) -> web.StreamResponse:
    """Unpack the tar in the body into a directory."""
    id, path = await _id_and_path(call)
    keep_kinds = call.flag("noOverwriteDirNonDir")

    async def parts() -> AsyncIterator[WriteArchiveRequest]:
        yield WriteArchiveRequest(start=WriteArchiveRequest.Start(id=id, path=path, keep_kinds=keep_kinds))
        async for data in call.request.content.iter_chunked(_CHUNK):
            yield WriteArchiveRequest(data=data)

    await call.backend.containers.WriteArchive(parts())
    return nothing()


ROUTES: list[Route] = [
    ("HEAD", "/containers/{id}/archive", look),
    ("GET", "/containers/{id}/archive", read),
    ("PUT", "/containers/{id}/archive", write),
]
