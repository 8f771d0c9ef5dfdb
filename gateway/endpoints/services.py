"""/services"""

from __future__ import annotations

import asyncio

from aiohttp import web

from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import asked, shown
from flota.gateway.translation.keeping import keep_unknown_to_docker
from flota.rpc.errors import InvalidArgument
from flota.v1.control_pb2 import (
    CreateServiceRequest,
    GetServiceRequest,
    ListServicesRequest,
    ListServicesResponse,
    ListServiceStatusesRequest,
    RemoveServiceRequest,
    UpdateServiceRequest,
)
from flota.v1.types_pb2 import Version

_MODES = ("replicated", "global", "replicated-job", "global-job")


async def ls(call: Call) -> web.StreamResponse:
    """All services that fulfil the filters; with status=true how many of their tasks run."""
    wanted = call.filters("id", "label", "mode", "name", "runtime")
    wanted.one_of("mode", _MODES)
    control = call.backend.control
    statuses = {}
    answered: ListServicesResponse
    if call.flag("status"):
        answered, counted = await asyncio.gather(
            control.ListServices(ListServicesRequest()), control.ListServiceStatuses(ListServiceStatusesRequest())
        )
        statuses = {each.service_id: each for each in counted.statuses}
    else:
        answered = await control.ListServices(ListServicesRequest())
    found = []
    for service in answered.services:
        mode = service.spec.WhichOneof("mode") or "replicated"
        if (
            wanted.starts("id", service.id)
            and wanted.starts("name", service.spec.annotations.name)
            and wanted.labels("label", service.spec.annotations.labels)
            and wanted.equals("mode", mode.replace("_", "-"))
            and wanted.equals("runtime", "container")
        ):
            shape = shown.service(service)
            if service.id in statuses:
                shape["ServiceStatus"] = shown.service_status(statuses[service.id])
            found.append(shape)
    return answer(found)


async def inspect(call: Call) -> web.StreamResponse:
    """One service by id or name. Stored specs have their defaults, so insertDefaults changes nothing."""
    request = GetServiceRequest(service_id=call.name())
    return answer(shown.service((await call.backend.control.GetService(request)).service))


async def create(call: Call) -> web.StreamResponse:
    """A new service."""
    spec = asked.service_spec(await call.body())
    spec.task.container.registry_auth = call.registry_auth()
    made = await call.backend.control.CreateService(CreateServiceRequest(spec=spec))
    return answer({"ID": made.service.id, "Warnings": list(made.warnings) or None}, 201)


async def update(call: Call) -> web.StreamResponse:
    """Another spec, or the one before. The credentials stay unless the request has others."""
    rollback = call.query("rollback")
    if rollback not in ("", "none", "previous"):
        raise InvalidArgument.of("rollback", rollback, "previous or none is needed")
    request = UpdateServiceRequest(service_id=call.name(), version=Version(index=call.object_version()))
    if rollback == "previous":
        request.rollback = UpdateServiceRequest.ROLLBACK_PREVIOUS
    else:
        given = await call.body()
        request.spec.CopyFrom(asked.service_spec(given))
        stored = await call.backend.control.GetService(GetServiceRequest(service_id=call.name()))
        keep_unknown_to_docker(request.spec, given, stored.service.spec)
        request.spec.task.container.registry_auth = call.registry_auth()
    done = await call.backend.control.UpdateService(request)
    return answer({"Warnings": list(done.warnings) or None})


async def remove(call: Call) -> web.StreamResponse:
    """End a service."""
    await call.backend.control.RemoveService(RemoveServiceRequest(service_id=call.name()))
    return nothing()


ROUTES: list[Route] = [
    ("GET", "/services", ls),
    ("POST", "/services/create", create),
    ("GET", "/services/{id}", inspect),
    ("DELETE", "/services/{id}", remove),
    ("POST", "/services/{id}/update", update),
]
