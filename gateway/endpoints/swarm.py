"""/swarm"""

from __future__ import annotations

import asyncio

from aiohttp import web

from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.translation import asked, shown
from flota.gateway.translation.fields import PORTS, UINT32
from flota.gateway.translation.keeping import keep_swarm_unknown_to_docker
from flota.v1.control_pb2 import GetClusterRequest, GetJoinTokensRequest, GetUnlockKeyRequest, UpdateClusterRequest
from flota.v1.local_pb2 import InitRequest, JoinRequest, LeaveRequest, UnlockRequest
from flota.v1.types_pb2 import NodeAvailability, Version


async def inspect(call: Call) -> web.StreamResponse:
    """The cluster, with its join tokens."""
    control = call.backend.control
    cluster, tokens = await asyncio.gather(
        control.GetCluster(GetClusterRequest()), control.GetJoinTokens(GetJoinTokensRequest())
    )
    return answer(
        shown.cluster(cluster.cluster)
        | {"JoinTokens": {"Worker": tokens.tokens.worker, "Manager": tokens.tokens.manager}}
    )


async def init(call: Call) -> web.StreamResponse:
    """Begin a cluster; gives this node's id."""
    given = await call.body()
    spec = asked.cluster_spec(given.part("Spec"))
    if given.flag("AutoLockManagers"):
        spec.encryption.auto_lock_managers = True
    done = await call.backend.local.Init(
        InitRequest(
            advertise_address=given.text("AdvertiseAddr"),
            listen_address=given.text("ListenAddr"),
            data_path_address=given.text("DataPathAddr"),
            data_path_port=given.number("DataPathPort", PORTS),
            availability=given.choice("Availability", NodeAvailability, "NODE_AVAILABILITY_"),
            spec=spec,
            address_pools=given.texts("DefaultAddrPool"),
            subnet_length=given.number("SubnetSize", UINT32),
            force_new_cluster=given.flag("ForceNewCluster"),
        )
    )
    return answer(done.node_id)


async def join(call: Call) -> web.StreamResponse:
    """Become a node of a cluster."""
    given = await call.body()
    await call.backend.local.Join(
        JoinRequest(
            token=given.text("JoinToken"),
            addresses=given.texts("RemoteAddrs"),
            advertise_address=given.text("AdvertiseAddr"),
            listen_address=given.text("ListenAddr"),
            data_path_address=given.text("DataPathAddr"),
            availability=given.choice("Availability", NodeAvailability, "NODE_AVAILABILITY_"),
        )
    )
    return nothing()


async def leave(call: Call) -> web.StreamResponse:
    """Cease to be one."""
    await call.backend.local.Leave(LeaveRequest(force=call.flag("force")))
    return nothing()


async def update(call: Call) -> web.StreamResponse:
    """Another spec, new join tokens, or both."""
    given = await call.body()
    request = UpdateClusterRequest(
        version=Version(index=call.object_version()),
        rotate_worker_token=call.flag("rotateWorkerToken"),
        rotate_manager_token=call.flag("rotateManagerToken"),
        rotate_unlock_key=call.flag("rotateManagerUnlockKey"),
    )
    if given:
        stored = (await call.backend.control.GetCluster(GetClusterRequest())).cluster.spec
        request.spec.CopyFrom(asked.cluster_spec(given))
        keep_swarm_unknown_to_docker(request.spec, given, stored)
        # Docker's clients call every cluster "default".
        request.spec.annotations.name = ""
    await call.backend.control.UpdateCluster(request)
    return nothing()


async def unlock_key(call: Call) -> web.StreamResponse:
    """What a person needs after a restart, with autolock; empty without."""
    return answer({"UnlockKey": (await call.backend.control.GetUnlockKey(GetUnlockKeyRequest())).unlock_key})


async def unlock(call: Call) -> web.StreamResponse:
    """Let a locked manager go on."""
    await call.backend.local.Unlock(UnlockRequest(key=(await call.body()).text("UnlockKey")))
    return nothing()


ROUTES: list[Route] = [
    ("GET", "/swarm", inspect),
    ("POST", "/swarm/init", init),
    ("POST", "/swarm/join", join),
    ("POST", "/swarm/leave", leave),
    ("POST", "/swarm/update", update),
    ("GET", "/swarm/unlockkey", unlock_key),
    ("POST", "/swarm/unlock", unlock),
]
