"""/volumes: named volumes of this machine."""

from __future__ import annotations

from aiohttp import web

from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import volume as shapes
from flota.rpc.errors import NotFound, Unsupported
from flota.v1.local_pb2 import (
    CreateVolumeRequest,
    ListVolumesRequest,
    PruneVolumesRequest,
    RemoveVolumeRequest,
)
from flota.v1.types_pb2 import Driver, Volume

_ANONYMOUS_ONLY = (1, 42)


async def _all(call: Call) -> list[Volume]:
    return list((await call.backend.agent.ListVolumes(ListVolumesRequest())).volumes)


def _passes(volume: Volume, wanted: Filters) -> bool:
    dangling = wanted.flag("dangling")
    return (
        wanted.within("name", volume.name)
        and wanted.labels("label", volume.labels)
        and wanted.equals("driver", volume.driver or "local")
        and (dangling is None or dangling == (not volume.task_ids))
    )


async def ls(call: Call) -> web.StreamResponse:
    """All volumes that fulfil the filters."""
    wanted = call.filters("dangling", "driver", "label", "name")
    volumes = [shapes.shown(volume) for volume in await _all(call) if _passes(volume, wanted)]
    return answer({"Volumes": volumes, "Warnings": None})


async def inspect(call: Call) -> web.StreamResponse:
    """One volume."""
    for volume in await _all(call):
        if volume.name == call.name():
            return answer(shapes.shown(volume))
    raise NotFound(f"get {call.name()}: no such volume")


async def create(call: Call) -> web.StreamResponse:
    """A new one, or the one of that name."""
    given = await call.body()
    if given.has("ClusterVolumeSpec"):
        raise Unsupported("cluster volumes (CSI) are not supported")
    driver = Driver(name=given.text("Driver"), options=given.labels("DriverOpts"))
    request = CreateVolumeRequest(name=given.text("Name"), driver=driver, labels=given.labels("Labels"))
    return answer(shapes.shown((await call.backend.agent.CreateVolume(request)).volume), 201)


async def remove(call: Call) -> web.StreamResponse:
    """Forget one, and what is in it."""
    await call.backend.agent.RemoveVolume(RemoveVolumeRequest(name=call.name(), force=call.flag("force")))
    return nothing(204)


async def prune(call: Call) -> web.StreamResponse:
    """Those that no task uses."""
    wanted = call.filters("all", "label", "label!")
    if "label!" in wanted:
        raise Unsupported("the filter label! is not supported for volumes")
    labels = {key: value for key, _, value in (text.partition("=") for text in wanted.get("label"))}
    # Since 1.42 those with a name only if the client asks for them.
    everything = call.version < _ANONYMOUS_ONLY or bool(wanted.flag("all"))
    done = await call.backend.agent.PruneVolumes(PruneVolumesRequest(labels=labels, all=everything))
    return answer({"VolumesDeleted": list(done.names) or None, "SpaceReclaimed": done.reclaimed_bytes})


ROUTES: list[Route] = [
    ("GET", "/volumes", ls),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{id}", inspect),
    ("DELETE", "/volumes/{id}", remove),
]
