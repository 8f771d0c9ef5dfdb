"""Becoming part of a cluster: beginning one, or joining one with a token. All of it works, or nothing is left of it."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc.aio
import structlog

from flota.manager.allocator.networks import IPV6_LENGTH
from flota.manager.bootstrap import DEFAULT_DATA_PATH_PORT, DEFAULT_SUBNET_LENGTH, first_identity
from flota.manager.ca.join import IssuedIdentity, request_certificate, with_port
from flota.manager.control.cluster_rules import check_cluster_spec
from flota.node import addresses
from flota.node import record as records
from flota.node.node import Founding, Node
from flota.rpc.channels import node_channel
from flota.rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FlotaError,
    InvalidArgument,
    Unsupported,
    error_from,
)
from flota.v1.ca_pb2 import WithdrawNodeRequest
from flota.v1.ca_pb2_grpc import NodeCaStub
from flota.v1.control_pb2 import GetJoinTokensRequest, GetUnlockKeyRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import InitRequest, InitResponse, JoinRequest, JoinResponse
from flota.v1.process_pb2 import NodeRecord
from flota.v1.raft_pb2 import RaftLeaveRequest
from flota.v1.raft_pb2_grpc import RaftMembershipStub
from flota.v1.types_pb2 import NodeAvailability, NodeRole, Peer

T = TypeVar("T")
_log = structlog.get_logger("node")
ALREADY = 'This node is already part of a swarm. Use "flota swarm leave" to leave this swarm and join another one.'
# Docker waits for 20 s; a manager may have to wait for an election on its way in.
_LIMIT = 30.0
# For telling others that we are not coming after all.
_UNDO_LIMIT = 5.0


async def init(node: Node, request: InitRequest) -> InitResponse:
    """Begin a cluster with this node. Raises a FlotaError."""
    check_init(request)
    if request.force_new_cluster and node.is_member:
        return await _begin_anew(node, request)
    async with entering(node, "init"):
        listen = await addresses.listen_address(request.listen_address, addresses.machine_interfaces)
        advertise = await addresses.advertise_address(
            request.advertise_address, listen, "", addresses.machine_interfaces
        )
        data_path = await addresses.data_path_address(
            request.data_path_address, advertise, addresses.machine_interfaces
        )
        issued, root_key = await asyncio.to_thread(first_identity)
        await node.take_identity(issued)
        node.record = NodeRecord(
            listen_address=listen,
            advertise_address=advertise,
            data_path_address=data_path,
            data_path_port=request.data_path_port or DEFAULT_DATA_PATH_PORT,
            managers=[Peer(node_id=issued.node_id, address=advertise)],
            advertise_interface=await addresses.interface_with(advertise, addresses.machine_interfaces),
        )
        node.founding = Founding(request, root_key)
        await node.manager.start(node.manager_config)
        await node.worker.become(node.worker_config)
        await node.until_in_session()
        if request.spec.encryption.auto_lock_managers:
            await node.until_kept_locked()
        answer = await introduction(node)
        await node.save_record()
        node.founding = None
    _log.info("a swarm has begun", node_id=answer.node_id, address=answer.address)
    return answer


async def join(node: Node, request: JoinRequest) -> JoinResponse:
    """Make this node part of a cluster. Raises a FlotaError."""
    if not request.addresses:
        raise InvalidArgument("no manager's address was given: name one to join through, host[:port]")
    _check_availability(request.availability)
    async with entering(node, "join"):
        managers = [with_port(address) for address in request.addresses]
        listen = await addresses.listen_address(request.listen_address, addresses.machine_interfaces)
        advertise = await addresses.advertise_address(
            request.advertise_address, listen, managers[0], addresses.machine_interfaces
        )
        data_path = await addresses.data_path_address(
            request.data_path_address, advertise, addresses.machine_interfaces
        )
        record = NodeRecord(
            listen_address=listen,
            advertise_address=advertise,
            data_path_address=data_path,
            advertise_interface=await addresses.interface_with(advertise, addresses.machine_interfaces),
        )
        record.managers.extend(Peer(address=address) for address in managers)
        record.join_addresses.extend(managers)
        issued = await _to_the_end(_enrol(node, request, record))
        async with asyncio.TaskGroup() as group:
            if issued.role == NodeRole.NODE_ROLE_MANAGER:
                group.create_task(node.manager.start(node.manager_config))
            group.create_task(_enter_session(node))
        await node.save_record()
    if issued.role != NodeRole.NODE_ROLE_MANAGER:
        await node.manager.cool()
    role = NodeRole.Name(issued.role).removeprefix("NODE_ROLE_").lower()
    _log.info("joined a swarm", node_id=issued.node_id, role=role, address=advertise)
    return JoinResponse(node_id=issued.node_id, role=issued.role)


async def _enrol(node: Node, request: JoinRequest, record: NodeRecord) -> IssuedIdentity:
    """Get a certificate, which makes us a node of the cluster, and keep it. Raises a FlotaError."""
    managers = [peer.address for peer in record.managers]
    issued = await request_certificate(request.token, managers, request.availability)
    await node.take_identity(issued)
    record.data_path_port = issued.data_path_port
    node.record = record
    # Before our manager can become a voter: one that knew nothing of it after a loss of power would be missed.
    await asyncio.to_thread(records.store_joining, node.places.record, record)
    return issued


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for the end of `work` even when our caller gives up, so that what it did can be taken back."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def _enter_session(node: Node) -> None:
    await node.worker.become(node.worker_config)
    session = await node.until_in_session()
    if session.managers and node.record is not None:
        del node.record.managers[:]
        node.record.managers.extend(session.managers)


async def _begin_anew(node: Node, request: InitRequest) -> InitResponse:
    """Make a cluster of this one manager, from what it has on its disk: the way out when the others are gone for good.

    Raises a FlotaError.
    """
    if node.moving:
        raise _busy(node)
    # What the daemon may be doing by itself, such as renewing a certificate, is waited for.
    async with node.turn:
        node.require_manager()
        record, identity = node.record, node.identity
        assert record is not None
        assert identity is not None
        before = NodeRecord()
        before.CopyFrom(record)
        if request.listen_address:
            record.listen_address = await addresses.listen_address(request.listen_address, addresses.machine_interfaces)
        if request.advertise_address:
            record.advertise_address = await addresses.advertise_address(
                request.advertise_address, record.listen_address, "", addresses.machine_interfaces
            )
        del record.managers[:]
        record.managers.add(node_id=identity.node_id, address=record.advertise_address)
        # Those managers are of another cluster from now on.
        del record.join_addresses[:]
        node.moving = "force-new-cluster"
        node.founding = Founding(request, b"")
        try:
            await node.manager.start(node.manager_config)
        except BaseException:
            node.founding = None
            record.CopyFrom(before)
            await node.manager.insist(node.manager_config)
            raise
        finally:
            node.founding = None
            node.moving = ""
        await node.save_record()
        return await introduction(node)


async def introduction(node: Node) -> InitResponse:
    """What the person who began the cluster is told."""
    assert node.record is not None
    assert node.identity is not None
    try:
        control = ControlStub(node.manager.channel)
        answer = await control.GetJoinTokens(GetJoinTokensRequest(), timeout=_LIMIT)
        locking = await control.GetUnlockKey(GetUnlockKeyRequest(), timeout=_LIMIT)
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from None
    return InitResponse(
        node_id=node.identity.node_id,
        tokens=answer.tokens,
        address=node.record.advertise_address,
        unlock_key=locking.unlock_key,
    )


def check_init(request: InitRequest) -> None:
    """Raises InvalidArgument, Unsupported."""
    check_cluster_spec(request.spec)
    if request.spec.ca.signing_certificate or request.spec.ca.signing_key:
        raise Unsupported("a swarm begins with a root certificate of its own: swarm ca --rotate --ca-cert replaces it")
    _check_availability(request.availability)
    port, length = request.data_path_port, request.subnet_length
    if port and not 1024 <= port <= 49151:
        raise InvalidArgument.of("data path port", port, "1024 to 49151 is allowed, or 0 for 4789")
    if length and not 8 <= length <= 29:
        raise InvalidArgument.of("subnet length", length, "8 to 29 is allowed, or 0 for 24")
    pools: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for text in request.address_pools:
        try:
            pool = ipaddress.ip_network(text)
        except ValueError:
            allowed = "a network such as 10.20.0.0/16 or fd00:20::/48 is needed"
            raise InvalidArgument.of("address pool", text, allowed) from None
        longest = (length or DEFAULT_SUBNET_LENGTH) if pool.version == 4 else IPV6_LENGTH
        if pool.prefixlen > longest:
            raise InvalidArgument.of("address pool", text, f"it is smaller than one subnet of /{longest}")
        overlap = next((other for other in pools if other.overlaps(pool)), None)
        if overlap is not None:
            raise InvalidArgument.of("address pool", text, f"it overlaps the pool {overlap}")
        pools.append(pool)


def _check_availability(availability: int) -> None:
    if availability not in NodeAvailability.values():
        raise InvalidArgument.of("availability", availability, "allowed are active, pause and drain")


def _busy(node: Node) -> FailedPrecondition:
    return FailedPrecondition(f"this node is busy: a {node.moving or 'change of its role'} is under way")


@asynccontextmanager
async def entering(node: Node, what: str) -> AsyncIterator[None]:
    """One at a time, within the limit; whatever goes wrong inside, the machine is as it was before."""
    if node.turn.locked():
        raise FailedPrecondition(ALREADY) if node.is_member and not node.moving else _busy(node)
    async with node.turn:
        if node.is_member:
            raise FailedPrecondition(ALREADY)
        node.moving = what
        try:
            async with asyncio.timeout(_LIMIT):
                await node.worker.until_tried()
                if not node.worker.running:
                    raise FailedPrecondition(f"cannot {what}: the worker process does not run: {node.worker.error}")
                yield
        except BaseException as failure:  # noqa: BLE001 - raised again, in words for people
            reason = _reason(node, what, failure)
            await node.finish(_undo(node))
            raise reason from None
        finally:
            node.moving = ""


def _reason(node: Node, what: str, failure: BaseException) -> BaseException:
    """What the caller is told; asked before anything is undone."""
    if isinstance(failure, BaseExceptionGroup):
        found = next((one for one in failure.exceptions if isinstance(one, FlotaError | OSError)), None)
        failure = found or failure.exceptions[0]
    if isinstance(failure, TimeoutError):
        words = f"cannot {what}: this node did not become part of the swarm within {_LIMIT:g} s"
        if node.identity is None:
            lacking = "it has no certificate yet"
        elif node.is_manager and (node.manager.error or not node.manager.running):
            lacking = node.manager.error or "its manager process is still starting"
        elif not node.worker.running:
            lacking = node.worker.error or "its worker process is still starting"
        else:
            lacking = "its worker has no session with a manager"
        return DeadlineExceeded(f"{words}: {lacking}")
    if isinstance(failure, OSError):
        return FailedPrecondition(f"cannot {what}: {failure}")
    return failure


async def _undo(node: Node) -> None:
    """Take back what was done of an init or join, here and in the cluster."""
    was_known = node.identity is not None
    founding, node.founding = node.founding, None
    if was_known and founding is None:
        await _withdraw(node, from_cluster=False)
    await node.manager.stop()
    if was_known and founding is None:
        await _withdraw(node, from_cluster=True)
    if was_known:
        await node.worker.stop()
    node.forget()
    await asyncio.to_thread(records.remove, node.places.record)
    await node.forget_files()
    if was_known:
        await node.be_nobody()


async def _withdraw(node: Node, from_cluster: bool) -> None:
    """Leave the Raft group, which must be before our manager ends: two of two may be needed to let one go.

    And with `from_cluster`, the cluster, once nothing of us can enter the group any more.
    """
    identity = node.identity
    assert identity is not None
    with suppress(TimeoutError):
        async with asyncio.timeout(_UNDO_LIMIT):
            for address in node.other_managers():
                try:
                    async with node_channel(identity, address) as channel:
                        if identity.is_manager:
                            await RaftMembershipStub(channel).Leave(RaftLeaveRequest(node_id=identity.node_id))
                        if from_cluster:
                            await NodeCaStub(channel).WithdrawNode(WithdrawNodeRequest())
                    return
                except grpc.aio.AioRpcError as error:
                    _log.info("cannot take back a join", manager=address, reason=error.details())
