"""/nodes"""

from __future__ import annotations

from aiohttp import web

from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import asked, shown
from flota.v1.control_pb2 import GetNodeRequest, ListNodesRequest, RemoveNodeRequest, UpdateNodeRequest
from flota.v1.types_pb2 import Version


async def ls(call: Call) -> web.StreamResponse:
    """All nodes that fulfil the filters."""
    wanted = call.filters("id", "label", "node.label", "membership", "name", "role")
    wanted.one_of("role", ("manager", "worker"))
    wanted.one_of("membership", ("accepted", "pending"))
    nodes = (await call.backend.control.ListNodes(ListNodesRequest())).nodes
    return answer(
        [
            shown.node(node)
            for node in nodes
            if wanted.starts("id", node.id)
            and wanted.starts("name", node.description.hostname)
            and wanted.labels("node.label", node.spec.annotations.labels)
            and wanted.labels("label", node.description.engine.labels)
            and wanted.equals("role", shown.role(node.spec.desired_role))
            and wanted.equals("membership", "accepted")
        ]
    )


async def inspect(call: Call) -> web.StreamResponse:
    """One node by id or hostname."""
    return answer(shown.node((await call.backend.control.GetNode(GetNodeRequest(node_id=call.name()))).node))


async def update(call: Call) -> web.StreamResponse:
    """Role, availability, labels."""
    spec = asked.node_spec(await call.body())
    request = UpdateNodeRequest(node_id=call.name(), version=Version(index=call.object_version()), spec=spec)
    await call.backend.control.UpdateNode(request)
    return nothing()


async def remove(call: Call) -> web.StreamResponse:
    """Forget a node."""
    await call.backend.control.RemoveNode(RemoveNodeRequest(node_id=call.name(), force=call.flag("force")))
    return nothing()


ROUTES: list[Route] = [
    ("GET", "/nodes", ls),
    ("GET", "/nodes/{id}", inspect),
    ("DELETE", "/nodes/{id}", remove),
    ("POST", "/nodes/{id}/update", update),
]
