"""/_ping, /version, /info, /auth; /session and /build are refused."""

from __future__ import annotations

import grpc.aio
from aiohttp import web

from flota.gateway.failures import failure_of
from flota.gateway.http import NEWEST, OLDEST, Call, Route, answer
from flota.gateway.translation import machine
from flota.rpc.errors import Unsupported
from flota.v1.control_pb2 import GetClusterRequest, ListNodesRequest
from flota.v1.local_pb2 import InfoRequest

# A manager without a leader still says what it is itself.
_CLUSTER_LIMIT = 3.0


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


async def ping(call: Call) -> web.StreamResponse:
    """OK, and what kind of node this is."""
    info = await call.backend.local.Info(InfoRequest())
    headers = {"Swarm": machine.swarm_header(info), "Cache-Control": "no-cache, no-store, must-revalidate"}
    headers["Pragma"] = "no-cache"
    body = b"" if call.request.method == "HEAD" else b"OK"
    return web.Response(body=body, headers=headers, content_type="text/plain", charset="utf-8")


async def version(call: Call) -> web.StreamResponse:
    """Who answers."""
    info = await call.backend.local.Info(InfoRequest())
    return answer(machine.version_of(info, _text(NEWEST), _text(OLDEST)))


async def info(call: Call) -> web.StreamResponse:
    """This machine, and of the cluster what it knows."""
    told = await call.backend.local.Info(InfoRequest())
    swarm = machine.swarm_of(told)
    if machine.is_manager(told):
        try:
            cluster = await call.backend.control.GetCluster(GetClusterRequest(), timeout=_CLUSTER_LIMIT)
            nodes = await call.backend.control.ListNodes(ListNodesRequest(), timeout=_CLUSTER_LIMIT)
            swarm = machine.with_cluster(swarm, cluster.cluster, list(nodes.nodes))
        except grpc.aio.AioRpcError as error:
            swarm["Error"] = swarm["Error"] or str(failure_of(error))
    return answer(machine.info_of(told, swarm))


async def refuse_build(call: Call) -> web.StreamResponse:
    """Images are made elsewhere. Raises Unsupported."""
    raise Unsupported("flota builds no images: build them with docker or buildah, then push them or use docker load")


ROUTES: list[Route] = [
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("POST", "/session", refuse_build),
    ("POST", "/build", refuse_build),
    ("POST", "/grpc", refuse_build),
]
