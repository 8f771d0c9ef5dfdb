"""RUN/flota.sock: Local is answered here, the rest is passed on to the child that answers it."""

import platform
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import grpc.aio

from flota.node.entering import init, join
from flota.node.leaving import leave
from flota.node.node import Node
from flota.node.restoring import restore
from flota.node.unlocking import unlock
from flota.rpc.contract import service_paths
from flota.rpc.errors import Unavailable
from flota.rpc.forward import Passing
from flota.rpc.servers import local_server
from flota.v1 import local_pb2_grpc
from flota.v1.local_pb2 import (
    AgentStatusRequest,
    AgentStatusResponse,
    InfoRequest,
    InfoResponse,
    InitRequest,
    InitResponse,
    JoinRequest,
    JoinResponse,
    LeaveRequest,
    LeaveResponse,
    RestoreRequest,
    RestoreResponse,
    UnlockRequest,
    UnlockResponse,
)

# A worker that is busy is not waited for: the rest of the answer is worth having.
_STATUS_LIMIT = 2.0
# A manager that is starting is waited for: whoever restarted flota goes on with the next command.
_START_LIMIT = 5.0
_GONE = "this node's {} process ended while it was asked: try again in a moment"


class Local(local_pb2_grpc.LocalServicer):
    """The calls about this machine."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def Init(self, request: InitRequest, context: Any) -> InitResponse:
        """Begin a cluster."""
        return await init(self._node, request)

    async def Join(self, request: JoinRequest, context: Any) -> JoinResponse:
        """Join one."""
        return await join(self._node, request)

    async def Leave(self, request: LeaveRequest, context: Any) -> LeaveResponse:
        """Leave it."""
        await leave(self._node, request.force)
        return LeaveResponse()

    async def Unlock(self, request: UnlockRequest, context: Any) -> UnlockResponse:
        """Open what autolock keeps closed."""
        await unlock(self._node, request.key)
        return UnlockResponse()

    async def Restore(self, request_iterator: AsyncIterator[RestoreRequest], context: Any) -> RestoreResponse:
        """Begin a swarm with what a backup holds."""
        return await restore(self._node, request_iterator)

    async def Info(self, request: InfoRequest, context: Any) -> InfoResponse:
        """What this machine is, as far as is known without asking the cluster."""
        node = self._node
        answer = InfoResponse(version=version("flota"), state_directory=str(node.places.state))
        answer.description.hostname = node.hostname
        answer.description.platform.os = platform.system().lower()
        answer.description.platform.architecture = platform.machine()
        status = await self._ask_worker()
        if status.HasField("description"):
            answer.description.CopyFrom(status.description)
        answer.runtime, answer.runtime_version = status.runtime, status.runtime_version
        answer.containers_running, answer.images = status.containers_running, status.images
        answer.state, answer.error = state_of(node, status)
        record, identity = node.record, node.identity
        if record is not None and identity is not None:
            answer.node_id, answer.cluster_id, answer.role = identity.node_id, identity.cluster_id, identity.role
            answer.node_address = record.advertise_address.rpartition(":")[0].strip("[]")
            answer.managers.extend(record.managers)
        metrics = [node.options.worker_metrics, node.options.manager_metrics if node.is_manager else ""]
        answer.metrics_addresses.extend(address for address in metrics if address)
        return answer

    async def _ask_worker(self) -> AgentStatusResponse:
        try:
            agent = local_pb2_grpc.AgentStub(self._node.worker.channel)
            return await agent.Status(AgentStatusRequest(), timeout=_STATUS_LIMIT)
        except (Unavailable, grpc.aio.AioRpcError):
            return AgentStatusResponse()


def state_of(node: Node, status: AgentStatusResponse) -> tuple["InfoResponse.State.ValueType", str]:
    """The node's state in one word, and what is wrong with it; `status` is what its worker says."""
    if node.locked:
        return InfoResponse.STATE_LOCKED, node.trouble
    if node.trouble or node.expired:
        return InfoResponse.STATE_ERROR, node.trouble or node.expired
    if node.moving in ("init", "join"):
        return InfoResponse.STATE_PENDING, ""
    if node.record is None:
        return InfoResponse.STATE_INACTIVE, node.worker.error
    for child in (node.manager, node.worker):
        if child.wanted and child.error:
            return InfoResponse.STATE_ERROR, f"the {child.name} process is not running: {child.error}"
    if status.removed:
        return InfoResponse.STATE_ERROR, f"{status.session_error}: run flota swarm leave, then join again"
    if node.manager_trouble:
        return InfoResponse.STATE_ERROR, f"this manager takes no part: {node.manager_trouble}"
    error = f"no session with a manager: {status.session_error}" if status.session_error else ""
    known = node.session is not None or node.manager.running
    return (InfoResponse.STATE_ACTIVE if known else InfoResponse.STATE_PENDING), error


def socket_server(node: Node) -> grpc.aio.Server:
    """The server on RUN/flota.sock, to be started."""
    server = local_server(node.places.socket)
    local_pb2_grpc.add_LocalServicer_to_server(Local(node), server)
    server.add_generic_rpc_handlers(
        (
            Passing(
                service_paths("Agent", "Containers"), lambda: node.require_worker().channel, _GONE.format("worker")
            ),
            # On a worker, its own tasks only: those of other nodes are a manager's business.
            Passing(service_paths("Tasks"), lambda: _for_tasks(node), _GONE.format("manager or worker")),
            Passing(
                service_paths("Control", "Logs", "NetworkChecks", "NodeVolumes"),
                lambda: node.require_manager().channel,
                _GONE.format("manager"),
                lambda: node.require_manager().soon(_START_LIMIT),
            ),
        )
    )
    return server


def _for_tasks(node: Node) -> grpc.aio.Channel:
    return node.require_manager().channel if node.is_manager else node.require_worker().channel
