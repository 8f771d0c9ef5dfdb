"""Ceasing to be part of a cluster.

A manager first becomes a worker, the way `node demote` does it: out of the Raft group, never below what keeps a
quorum. Then the node's tasks stop, and what makes it a member goes: node.json first, so that a loss of power leaves
either a member or a machine that sweeps up at its next start.
"""

import asyncio
from collections.abc import Iterable

import grpc.aio
import structlog

from flota.node import record as records
from flota.node.node import Node
from flota.rpc.channels import node_channel
from flota.rpc.errors import FailedPrecondition, FlotaError, OutOfSequence, Unavailable, error_from
from flota.v1.control_pb2 import GetNodeRequest, ListNodesRequest, UpdateNodeRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import RemoveAllTasksRequest
from flota.v1.local_pb2_grpc import AgentStub
from flota.v1.objects_pb2 import ManagerStatus
from flota.v1.objects_pb2 import Node as NodeObject
from flota.v1.types_pb2 import NodeRole

_log = structlog.get_logger("node")
# Handing leadership on, one change of the Raft group, and the role manager's look at it.
_DEMOTION_LIMIT = 15.0
_CALL = 5.0
# For killing all tasks; their own grace has no limit.
_KILL_LIMIT = 30.0
_LOOK = 0.05
_ATTEMPTS = 5

# Docker's words.
_MANAGER = "You are attempting to leave the swarm on a node that is participating as a manager. "
_LAST = "Removing the last manager erases all current state of a swarm. Use `--force` to ignore this message."
_QUORUM = (
    "Removing this node leaves {left} managers out of {all}. Without a Raft quorum your swarm will be inaccessible. "
)
_UNSURE = "Doing so may lose the consensus of your cluster ({reason}). "
_FORCE = (
    "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. "
    "Use `--force` to suppress this message."
)


async def leave(node: Node, force: bool) -> None:
    """Leave the cluster; with `force` also when the managers that stay cannot decide anything. Raises a FlotaError."""
    if not node.is_member:
        raise FailedPrecondition("This node is not part of a swarm")
    if node.moving:
        raise FailedPrecondition(f"this node is busy: a {node.moving} is under way")
    async with node.turn:
        if not node.is_member:
            raise FailedPrecondition("This node is not part of a swarm")
        if node.trouble and not force:
            raise FailedPrecondition(node.trouble)
        node.moving = "leave"
        try:
            if node.is_manager:
                await _step_down(node, force)
            # What is done now is done to the end, whoever is waiting for it.
            await node.finish(_leave(node, kill=force))
        finally:
            node.moving = ""
    _log.info("left the swarm")


async def _leave(node: Node, kill: bool) -> None:
    warming = asyncio.create_task(node.worker.warm())
    try:
        await node.manager.stop()
        if node.worker.running:
            limit = _KILL_LIMIT if kill else None
            await AgentStub(node.worker.channel).RemoveAllTasks(RemoveAllTasksRequest(kill=kill), timeout=limit)
    except (grpc.aio.AioRpcError, FlotaError) as error:
        # The next worker, which has no cluster, removes what it finds.
        reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
        _log.warning("the worker did not remove its tasks", reason=reason)
    finally:
        await asyncio.gather(warming, return_exceptions=True)
    await asyncio.to_thread(records.remove, node.places.record)
    node.forget()
    await node.worker.stop()
    await node.forget_files()
    await node.be_nobody()


async def _step_down(node: Node, force: bool) -> None:
    """Be a worker for the rest of the cluster. Raises FailedPrecondition; with `force` only tries."""
    try:
        async with asyncio.timeout(_DEMOTION_LIMIT):
            await _demote(node)
    except TimeoutError:
        await _give_up(force, f"this node was not taken out of the managers within {_DEMOTION_LIMIT:g} s")
    except grpc.aio.AioRpcError as error:
        await _give_up(force, error.details() or error.code().name)
    except Unavailable as error:
        await _give_up(force, str(error))
    except FailedPrecondition as error:
        if not force:
            raise
        _log.warning("leaving without being taken out of the managers", reason=str(error))


async def _give_up(force: bool, reason: str) -> None:
    if not force:
        raise FailedPrecondition(f"{_MANAGER}{_UNSURE.format(reason=reason)}{_FORCE}")
    _log.warning("leaving without being taken out of the managers", reason=reason)


async def _demote(node: Node) -> None:
    identity = node.identity
    assert identity is not None
    control = ControlStub(node.manager.channel)
    nodes = (await control.ListNodes(ListNodesRequest(), timeout=_CALL)).nodes
    refusal = check_departure(identity.node_id, nodes)
    if refusal:
        raise FailedPrecondition(refusal)
    for attempt in range(_ATTEMPTS):
        known = (await control.GetNode(GetNodeRequest(node_id=identity.node_id), timeout=_CALL)).node
        if known.spec.desired_role == NodeRole.NODE_ROLE_WORKER:
            break
        request = UpdateNodeRequest(node_id=known.id, version=known.meta.version, spec=known.spec)
        request.spec.desired_role = NodeRole.NODE_ROLE_WORKER
        try:
            await control.UpdateNode(request, timeout=_CALL)
            break
        except grpc.aio.AioRpcError as error:
            if attempt == _ATTEMPTS - 1 or not isinstance(error_from(error), OutOfSequence):
                raise
    # Our own manager is outside of the group by the time there is something to see.
    others = [peer.manager_status.address for peer in nodes if peer.id != identity.node_id]
    while True:
        if await _is_worker(node, [address for address in others if address]):
            return
        await asyncio.sleep(_LOOK)


async def _is_worker(node: Node, managers: Iterable[str]) -> bool:
    identity = node.identity
    assert identity is not None
    for address in managers:
        async with node_channel(identity, address) as channel:
            try:
                request = GetNodeRequest(node_id=identity.node_id)
                known = (await ControlStub(channel).GetNode(request, timeout=_CALL)).node
                return known.role == NodeRole.NODE_ROLE_WORKER
            except grpc.aio.AioRpcError as error:
                _log.debug("a manager does not say what we are", manager=address, reason=error.details())
    return False


def check_departure(node_id: str, nodes: Iterable[NodeObject]) -> str:
    """Why a manager should not leave, in Docker's words; empty when the others keep a quorum without it. Pure."""
    managers = [one for one in nodes if one.HasField("manager_status") and one.manager_status.raft_id]
    rest = [one for one in managers if one.id != node_id]
    if not rest:
        return f"{_MANAGER}{_LAST}"
    reachable = [one for one in rest if one.manager_status.reachability == ManagerStatus.REACHABILITY_REACHABLE]
    if len(reachable) < len(rest) // 2 + 1:
        return f"{_MANAGER}{_QUORUM.format(left=len(reachable), all=len(managers))}{_FORCE}"
    return ""
