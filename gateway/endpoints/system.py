"""/_ping, /version, /info, /auth; /session and /build are refused."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from typing import Any

import grpc.aio
from aiohttp import web

from flota.gateway import local_containers
from flota.gateway.failures import failure_of
from flota.gateway.http import NEWEST, OLDEST, Call, Route, answer
from flota.gateway.translation import container, image, machine, volume
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1.control_pb2 import GetClusterRequest, ListNodesRequest
from flota.v1.local_pb2 import CheckRegistryAuthRequest, InfoRequest, ListImagesRequest, ListVolumesRequest

# A manager without a leader still says what it is itself.
_CLUSTER_LIMIT = 3.0
# What takes room, by the names of /system/df.
_OBJECTS = ("container", "image", "volume", "build-cache")


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


async def auth(call: Call) -> web.StreamResponse:
    """Whether a registry takes these credentials."""
    given = await call.body()
    credentials = {
        key: given.text(key) for key in ("username", "password", "identitytoken", "serveraddress") if given.text(key)
    }
    address = given.text("serveraddress").removeprefix("https://").removeprefix("http://").partition("/")[0]
    registry = "docker.io" if address in ("", "index.docker.io") else address
    encoded = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
    await call.backend.agent.CheckRegistryAuth(CheckRegistryAuthRequest(registry=registry, registry_auth=encoded))
    return answer({"Status": "Login Succeeded", "IdentityToken": ""})


async def usage(call: Call) -> web.StreamResponse:
    """What takes room on this machine; of the kinds in `type` only, if there are any."""
    wanted = set(call.request.query.getall("type", _OBJECTS))
    if unknown := wanted - set(_OBJECTS):
        raise InvalidArgument.of("type", min(unknown), f"one of {', '.join(_OBJECTS)} is needed")
    agent = call.backend.agent
    shown: dict[str, Any] = {"LayersSize": 0, "BuilderSize": 0}
    if "image" in wanted:
        found = await agent.ListImages(ListImagesRequest())
        used = Counter(one.image_id for one in await local_containers.all_of(call))
        shown["LayersSize"] = found.layers_bytes
        shown["Images"] = [image.listed(each) | {"Containers": used[each.id]} for each in found.images]
    if "container" in wanted:
        networks = await local_containers.networks(call)
        now = time.time()
        there = await local_containers.all_of(call)
        sizes = await local_containers.sizes(call)
        shown["Containers"] = [container.listed(one, networks, now) | sizes(one) for one in there]
    if "volume" in wanted:
        volumes = (await agent.ListVolumes(ListVolumesRequest(sizes=True))).volumes
        shown["Volumes"] = [volume.shown(each, sizes=True) for each in volumes]
    if "build-cache" in wanted:
        shown["BuildCache"] = []
    return answer(shown)


async def refuse_build(call: Call) -> web.StreamResponse:
    """Images are made elsewhere. Raises Unsupported."""
    raise Unsupported("flota builds no images: build them with docker or buildah, then push them or use docker load")


async def plugins(call: Call) -> web.StreamResponse:
    """There are none, which dashboards ask for."""
    return answer([])


async def prune_builds(call: Call) -> web.StreamResponse:
    """Nothing is built, so nothing of it is left: `docker system prune` asks."""
    return answer({"CachesDeleted": None, "SpaceReclaimed": 0})


ROUTES: list[Route] = [
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("POST", "/auth", auth),
    ("GET", "/system/df", usage),
    ("GET", "/plugins", plugins),
    ("POST", "/session", refuse_build),
    ("POST", "/build", refuse_build),
    ("POST", "/build/prune", prune_builds),
    ("POST", "/grpc", refuse_build),
]
