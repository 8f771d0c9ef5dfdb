"""Nodes: look, update (role, availability, labels), remove. Their standing in the Raft group is filled in on answers.

A manager is demoted before it is removed, and never when the rest could not decide anything any more. Semantics:
SwarmKit's manager/controlapi/node.go.
"""

from collections.abc import Iterable
from typing import Any

from cryptography import x509

from flota.manager.ca.service import certificate_life
from flota.manager.clock import seconds, timestamp
from flota.manager.control.base import ControlBase, check_version
from flota.manager.control.lookup import find, matching, name_of
from flota.manager.control.names import check_annotations
from flota.manager.raft.interface import MemberStatus
from flota.manager.store import Transaction
from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.v1.control_pb2 import (
    GetNodeRequest,
    GetNodeResponse,
    ListNodesRequest,
    ListNodesResponse,
    RemoveNodeRequest,
    RemoveNodeResponse,
    UpdateNodeRequest,
    UpdateNodeResponse,
)
from flota.v1.objects_pb2 import Cluster, ManagerStatus, Node
from flota.v1.specs_pb2 import NodeSpec
from flota.v1.types_pb2 import NodeAvailability, NodeRole, NodeState


class Nodes(ControlBase):
    """The calls about nodes."""

    async def GetNode(self, request: GetNodeRequest, context: Any) -> GetNodeResponse:
        """One node by id or hostname."""
        store = await self._fresh()
        node = self._shown_node(find(store.nodes, "node", request.node_id))
        usage = self._usage(node.id)
        if usage is not None and node.status.state == NodeState.NODE_STATE_READY:
            shown = Node()
            shown.CopyFrom(node)
            shown.usage.CopyFrom(usage)
            return GetNodeResponse(node=shown)
        return GetNodeResponse(node=node)

    async def ListNodes(self, request: ListNodesRequest, context: Any) -> ListNodesResponse:
        """All nodes that fulfil the filters."""
        store = await self._fresh()
        nodes: Iterable[Node] = store.nodes
        if request.filters.roles:
            roles = set(request.filters.roles)
            nodes = [node for node in nodes if node.role in roles]
        members = self._members()
        return ListNodesResponse(nodes=[with_member(node, members) for node in matching(nodes, request.filters)])

    async def UpdateNode(self, request: UpdateNodeRequest, context: Any) -> UpdateNodeResponse:
        """Another spec for a node. Raises OutOfSequence, NotFound, InvalidArgument, FailedPrecondition (the role)."""
        if not request.HasField("spec"):
            raise InvalidArgument("the request has no node spec")
        check_node_spec(request.spec)

        def change(tx: Transaction) -> str:
            stored = find(tx.nodes, "node", request.node_id)
            check_version(f"node {name_of(stored) or stored.id}", request.version, stored.meta.version)
            if stored.spec.desired_role != request.spec.desired_role == NodeRole.NODE_ROLE_WORKER:
                check_demotion(stored, tx.nodes, self._members())
            if stored.spec != request.spec:
                changed = Node()
                changed.CopyFrom(stored)
                changed.spec.CopyFrom(request.spec)
                tx.update(changed)
            return stored.id

        id = await self._commit(change)
        return UpdateNodeResponse(node=self._shown_node(find(self._store.nodes, "node", id)))

    async def RemoveNode(self, request: RemoveNodeRequest, context: Any) -> RemoveNodeResponse:
        """Forget a node and refuse its certificate. Raises NotFound, FailedPrecondition (still a manager, still up)."""

        def change(tx: Transaction) -> None:
            node = find(tx.nodes, "node", request.node_id)
            check_removal(node, self._members(), request.force)
            cluster = next(iter(tx.clusters), None)
            if cluster is not None:
                tx.update(refusing(cluster, node, self._clock.now()))
            tx.remove(node)

        await self._commit(change)
        return RemoveNodeResponse()

    def _shown_node(self, node: Node) -> Node:
        return with_member(node, self._members())


def refusing(cluster: Cluster, node: Node, now: float) -> Cluster:
    """The cluster with the node among the removed ones, for as long as its certificate would be good."""
    changed = Cluster()
    changed.CopyFrom(cluster)
    for id in [id for id, until in changed.removed_nodes.items() if seconds(until) < now]:
        del changed.removed_nodes[id]
    until = now + certificate_life(cluster).total_seconds()
    if node.certificate.certificate_chain:
        certificate = x509.load_pem_x509_certificate(node.certificate.certificate_chain)
        until = max(until, certificate.not_valid_after_utc.timestamp())
    changed.removed_nodes[node.id].CopyFrom(timestamp(until))
    return changed


def check_node_spec(spec: NodeSpec) -> None:
    """Raises InvalidArgument."""
    check_annotations(spec.annotations)
    if spec.availability not in NodeAvailability.values():
        raise InvalidArgument.of("availability", spec.availability, "allowed are active, pause and drain")
    if spec.desired_role not in NodeRole.values():
        raise InvalidArgument.of("role", spec.desired_role, "allowed are worker and manager")


def check_demotion(node: Node, nodes: Iterable[Node], members: list[MemberStatus]) -> None:
    """Refuse to demote the last manager, and one without which the rest has no quorum. Raises FailedPrecondition."""
    managers = [one for one in nodes if one.spec.desired_role == NodeRole.NODE_ROLE_MANAGER and one.id != node.id]
    if not managers:
        raise FailedPrecondition(f"node {name_of(node)} is the last manager of the swarm: it cannot be demoted")
    if not any(member.node_id == node.id and member.voter for member in members):
        return
    rest = [member for member in members if member.voter and member.node_id != node.id]
    reachable = sum(1 for member in rest if member.reachable or member.leader)
    needed = len(rest) // 2 + 1
    if reachable < needed:
        raise FailedPrecondition(
            f"demoting node {name_of(node)} would leave {reachable} reachable of {len(rest)} managers, "
            f"and {needed} are needed to decide anything: bring managers back first"
        )


def check_removal(node: Node, members: list[MemberStatus], force: bool) -> None:
    """Refuse to remove managers, and nodes that are up unless forced. Raises FailedPrecondition."""
    member = any(member.node_id == node.id for member in members)
    if member or NodeRole.NODE_ROLE_MANAGER in (node.spec.desired_role, node.role):
        raise FailedPrecondition(
            f"node {name_of(node) or node.id} is a manager and a member of the Raft group: demote it to worker first"
        )
    if node.status.state != NodeState.NODE_STATE_DOWN and not force:
        state = NodeState.Name(node.status.state).removeprefix("NODE_STATE_").lower()
        raise FailedPrecondition(
            f"node {name_of(node) or node.id} is {state}, not down: stop flota on it first, or use force"
        )


def with_member(node: Node, members: Iterable[MemberStatus]) -> Node:
    """The node with what Raft knows of it now."""
    member = next((member for member in members if member.node_id == node.id), None)
    if member is None and not node.HasField("manager_status"):
        return node
    copy = Node()
    copy.CopyFrom(node)
    status = copy.manager_status
    if member is None:
        status.leader, status.reachability = False, ManagerStatus.REACHABILITY_UNKNOWN
        return copy
    status.raft_id, status.address, status.leader = member.raft_id, member.address, member.leader
    status.trouble = member.trouble
    status.reachability = (
        ManagerStatus.REACHABILITY_REACHABLE
        if member.reachable or member.leader
        else ManagerStatus.REACHABILITY_UNREACHABLE
    )
    return copy
