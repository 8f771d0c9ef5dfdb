"""How the group grows and shrinks: joining as a learner, promotion when caught up, removal that keeps a quorum.

Runs on the leader; `MembershipServicer` is what others call.
"""

from __future__ import annotations

import asyncio
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import structlog

from flota.manager.raft import core
from flota.manager.raft.core import Role
from flota.manager.raft.interface import MembershipRefused, NotLeader, RaftError
from flota.manager.raft.progress import ProgressState
from flota.manager.raft.quorum import has_quorum
from flota.rpc.callers import current_caller
from flota.rpc.errors import FlotaError, InvalidArgument, Unavailable
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.raft_pb2 import (
    ConfChange,
    ConfState,
    Member,
    RaftJoinRequest,
    RaftJoinResponse,
    RaftLeaveRequest,
    RaftLeaveResponse,
)
from flota.v1.raft_pb2_grpc import RaftMembershipServicer

if TYPE_CHECKING:
    from flota.manager.raft.node import RaftNode

_log = structlog.get_logger("raft.membership")
_LOOK = 0.1
# While somebody waits to become a voter.
_LOOK_OFTEN = 0.01
# A learner this close to the leader's log is caught up.
_CLOSE = 100
_ATTEMPTS = 20


class GroupChanges:
    """Changes of one node's group."""

    def __init__(self, node: RaftNode) -> None:
        self._node = node
        # One change at a time from here; the core refuses a second one anyway.
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Make voters of learners that have caught up, for ever; keep our address in the group true."""
        while True:
            await asyncio.sleep(_LOOK_OFTEN if self._node.raft.conf.learners else _LOOK)
            try:
                if self._node.is_leader:
                    await self._promote()
                    await self._announce_here()
                else:
                    await self._announce_there()
            except FlotaError as error:
                _log.debug("a change of the group has to wait", reason=str(error))
                await asyncio.sleep(_LOOK * 5)

    def refusal(self, error: Exception) -> Exception:
        """What a caller gets for a change that the core does not take."""
        if isinstance(error, core.NotLeader):
            return NotLeader(self._node.leader_address)
        return MembershipRefused(str(error) or type(error).__name__)

    async def _change(self, kind: ConfChange.Type.ValueType, member: Member) -> ConfState:
        change = ConfChange(changes=[ConfChange.Change(type=kind, member=member)])
        for attempt in range(_ATTEMPTS):
            try:
                return await self._node.propose_conf_change(change)
            except MembershipRefused:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_LOOK / 2)
        raise AssertionError

    async def _promote(self) -> None:
        raft = self._node.raft
        for raft_id in list(raft.conf.learners):
            progress = raft.progress.get(raft_id)
            if progress is None or progress.state is not ProgressState.REPLICATE or not progress.active:
                continue
            if progress.match + _CLOSE < raft.log.committed:
                continue
            member = self._known(raft_id)
            if member is not None:
                async with self._turn:
                    await self._change(ConfChange.TYPE_ADD_VOTER, member)
                _log.info("a learner became a voter", node_id=member.node_id)

    async def _announce_here(self) -> None:
        known = self._known(self._node.raft_id)
        if known is not None and known.address != self._node.member.address:
            async with self._turn:
                await self._change(ConfChange.TYPE_UPDATE, self._node.member)

    async def _announce_there(self) -> None:
        node = self._node
        known = self._known(node.raft_id)
        if known is None or known.address == node.member.address:
            return
        # The leader cannot reach us, so we may not know who leads; any other manager passes the word on.
        others = [member.address for member in node.raft.conf.members if member.raft_id != node.raft_id]
        for through in dict.fromkeys(address for address in (node.leader_address, *others) if address):
            try:
                await node.transport.join(through, node.member.address, node.raft_id)
                break
            except Unavailable as error:
                _log.debug("a manager cannot be told of our address", manager=through, reason=str(error))
        await asyncio.sleep(_LOOK * 5)

    def _known(self, raft_id: int) -> Member | None:
        return next((member for member in self._node.raft.conf.members if member.raft_id == raft_id), None)

    def transferee(self, node_id: str | None) -> int:
        """Raft id of the voter to hand leadership to. Raises RaftError."""
        raft = self._node.raft
        voters = [id for id in raft.conf.voters if id != raft.id]
        if node_id is not None:
            voters = [id for id in voters if (known := self._known(id)) is not None and known.node_id == node_id]
            if not voters:
                raise RaftError(f"{node_id} is not a manager that could lead")
        best = max(voters, key=lambda id: (self._node.takes_part(id), raft.progress[id].match), default=0)
        if not best:
            raise RaftError("there is no other manager that could lead")
        return best

    async def join(self, node_id: str, address: str, raft_id: int) -> RaftJoinResponse:
        """Add a member as a learner, after calling it back. Raises a FlotaError."""
        node = self._node
        if node.raft.role is not Role.LEADER:
            raise NotLeader(node.leader_address)
        answered = await node.transport.check(address)
        if node_id and answered != node_id:
            raise InvalidArgument.of("address", address, f"another node ({answered}) answers there")
        async with self._turn:
            known = self._known(raft_id) if raft_id else None
            if known is not None:
                if known.node_id != answered:
                    raise InvalidArgument.of("raft_id", f"{raft_id:x}", f"it belongs to {known.node_id}")
                await self._change(ConfChange.TYPE_UPDATE, Member(raft_id=raft_id, node_id=answered, address=address))
            else:
                # The same node with an empty disk: what its old self promised is lost, so that one must go.
                for old in [member for member in node.raft.conf.members if member.node_id == answered]:
                    self._check_removal(old)
                    await self._change(ConfChange.TYPE_REMOVE, old)
                raft_id = SystemRandom().getrandbits(63) | 1
                await self._change(
                    ConfChange.TYPE_ADD_LEARNER, Member(raft_id=raft_id, node_id=answered, address=address)
                )
                _log.info("a manager joins", node_id=answered, address=address)
        return RaftJoinResponse(raft_id=raft_id, members=node.raft.conf.members)

    async def remove(self, node_id: str) -> None:
        """Take a node out. Raises MembershipRefused when the rest would have no quorum, NotLeader, NoQuorum."""
        node = self._node
        if node.raft.role is not Role.LEADER:
            raise NotLeader(node.leader_address)
        async with self._turn:
            for member in [member for member in node.raft.conf.members if member.node_id == node_id]:
                self._check_removal(member)
                await self._change(ConfChange.TYPE_REMOVE, member)
                _log.info("a manager was removed", node_id=node_id)

    def _check_removal(self, member: Member) -> None:
        node = self._node
        if member.raft_id not in node.raft.conf.voters:
            return
        rest = [id for id in node.raft.conf.voters if id != member.raft_id]
        if not rest:
            raise MembershipRefused("the last manager cannot be removed: the swarm would be lost")
        here = [id for id in rest if node.takes_part(id)]
        if not has_quorum(ConfState(voters=rest), here):
            names = [known.node_id for id in rest if id not in here and (known := self._known(id)) is not None]
            raise MembershipRefused(
                f"removing {member.node_id} would leave {len(rest)} managers of which only {len(here)} can be reached, "
                f"which is no quorum: bring {', '.join(names)} back first"
            )


class MembershipServicer(RaftMembershipServicer):
    """RaftMembership; may be added to a server before there is a node."""

    def __init__(self) -> None:
        self._changes: GroupChanges | None = None

    def attach(self, changes: GroupChanges) -> None:
        """Say who carries changes out."""
        self._changes = changes

    def _ready(self) -> GroupChanges:
        if self._changes is None:
            raise Unavailable("this manager is starting")
        return self._changes

    async def Join(self, request: RaftJoinRequest, context: Any) -> RaftJoinResponse:
        """Add the caller."""
        host, colon, port = request.address.rpartition(":")
        if not colon or not port.isdigit():
            raise InvalidArgument.of("address", request.address, "host:port is needed")
        address = request.address
        if host.strip("[]") in ("", "0.0.0.0", "::"):
            address = f"{_peer_host(context.peer())}:{port}"
        return await self._ready().join(current_caller().node_id, address, request.raft_id)

    async def Leave(self, request: RaftLeaveRequest, context: Any) -> RaftLeaveResponse:
        """Remove the caller, or whom a manager names."""
        caller = current_caller()
        node_id = request.node_id or caller.node_id
        if not node_id and caller.kind != Kind.CALLER_MANAGER:
            raise InvalidArgument.of("node_id", node_id, "the id of a manager is needed")
        await self._ready().remove(node_id)
        return RaftLeaveResponse()


def _peer_host(peer: str) -> str:
    """`ipv4:10.0.0.1:5000` or `ipv6:%5B::1%5D:5000` to the host, as an address has it."""
    _, _, rest = peer.partition(":")
    return rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]")
