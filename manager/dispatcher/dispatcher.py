"""The Dispatcher service on the leader: calls, passed to the state of the term (term.py)."""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from random import Random
from typing import Any

from google.protobuf.duration_pb2 import Duration

from flota.manager.clock import Clock
from flota.manager.dispatcher.registry_auth import Helpers
from flota.manager.dispatcher.term import Term
from flota.manager.store import Store
from flota.rpc.callers import current_caller
from flota.rpc.errors import Unavailable
from flota.v1 import dispatcher_pb2_grpc
from flota.v1.dispatcher_pb2 import (
    AssignmentsMessage,
    AssignmentsRequest,
    AttachNetworkRequest,
    AttachNetworkResponse,
    ConfirmAssignmentsRequest,
    ConfirmAssignmentsResponse,
    EndSessionRequest,
    EndSessionResponse,
    GetRegistryAuthRequest,
    GetRegistryAuthResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatusRequest,
    UpdateTaskStatusResponse,
)
from flota.v1.objects_pb2 import NodeUsage
from flota.v1.types_pb2 import Peer


class Dispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    """Register it with a gRPC server; run `run` while this manager leads: calls outside of that get Unavailable."""

    name = "dispatcher"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        rng: Random,
        managers: Callable[[], list[Peer]],
        root_ca: Callable[[], bytes],
        own_node_id: str = "",
        credential_helpers: Mapping[str, str] | None = None,
    ) -> None:
        """`managers` are the addresses workers may turn to, `root_ca` PEM of the roots they shall trust,
        `credential_helpers` see registry_auth.py."""
        self._helpers = Helpers(credential_helpers or {})
        self._make_term = partial(Term, store, clock, rng, managers, root_ca, own_node_id)
        self._term: Term | None = None

    async def run(self) -> None:
        """Runs until cancelled; then all sessions end with Unavailable."""
        self._term = term = self._make_term()
        try:
            await term.run()
        finally:
            self._term = None
            term.end(Unavailable("this manager does not lead any longer: try again"))
            await self._helpers.close()

    def knows_managers(self, node_id: str) -> bool:
        """Whether the node's worker was told of the managers there are now; False while nobody can tell."""
        return self._term is not None and self._term.knows_managers(node_id)

    def usage(self, node_id: str) -> NodeUsage | None:
        """How full a node is, as far as this leader was told."""
        return self._term.usage.get(node_id) if self._term is not None else None

    def _now(self) -> Term:
        if self._term is None:
            raise Unavailable("this manager does not lead: try again")
        return self._term

    async def Session(self, request: SessionRequest, context: Any) -> AsyncIterator[SessionMessage]:
        """Raises Unavailable, NotFound (the node was removed), ResourceExhausted, FailedPrecondition (it is over)."""
        term = self._now()
        session = term.open_session(current_caller(), request)
        try:
            async for message in term.session_messages(session):
                yield message
        finally:
            term.close_session(session)

    async def EndSession(self, request: EndSessionRequest, context: Any) -> EndSessionResponse:
        """Raises Unavailable, FailedPrecondition (it is over)."""
        self._now().end_session(current_caller().node_id, request.session_id)
        return EndSessionResponse()

    async def Heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        """Raises Unavailable, FailedPrecondition (the session is over)."""
        description = request.description if request.HasField("description") else None
        usage = request.usage if request.HasField("usage") else None
        period = self._now().heartbeat(current_caller().node_id, request.session_id, description, usage)
        return HeartbeatResponse(period=Duration(seconds=int(period), nanos=int(period % 1 * 1e9)))

    async def UpdateTaskStatus(self, request: UpdateTaskStatusRequest, context: Any) -> UpdateTaskStatusResponse:
        """Raises Unavailable, FailedPrecondition (the session is over), PermissionDenied, InvalidArgument."""
        await self._now().update_status(current_caller().node_id, request.session_id, request.updates)
        return UpdateTaskStatusResponse()

    async def Assignments(self, request: AssignmentsRequest, context: Any) -> AsyncIterator[AssignmentsMessage]:
        """Raises Unavailable, FailedPrecondition (the session is over)."""
        async for message in self._now().assignment_messages(current_caller().node_id, request.session_id):
            yield message

    async def ConfirmAssignments(self, request: ConfirmAssignmentsRequest, context: Any) -> ConfirmAssignmentsResponse:
        """Raises Unavailable, FailedPrecondition (the session is over)."""
        self._now().confirm_assignments(current_caller().node_id, request.session_id, request.sequence)
        return ConfirmAssignmentsResponse()

    async def AttachNetwork(self, request: AttachNetworkRequest, context: Any) -> AttachNetworkResponse:
        """Raises Unavailable, FailedPrecondition (the session is over, not attachable), NotFound (no such network)."""
        task = await self._now().take_place(current_caller().node_id, request)
        return AttachNetworkResponse(task_id=task.id)

    async def GetRegistryAuth(self, request: GetRegistryAuthRequest, context: Any) -> GetRegistryAuthResponse:
        """Raises Unavailable, FailedPrecondition (the session is over), NotFound (no such task of this node)."""
        task = self._now().own_task(current_caller().node_id, request.session_id, request.task_id)
        return GetRegistryAuthResponse(registry_auth=await self._helpers.credentials(task.spec.container.image))
