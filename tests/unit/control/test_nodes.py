"""Nodes: their standing in the Raft group, roles and who may not lose one, removal and what becomes of certificates."""

import datetime

import pytest
from cryptography import x509

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.clock import seconds
from flota.manager.raft.interface import MemberStatus
from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, OutOfSequence
from flota.v1.control_pb2 import (
    GetNodeRequest,
    ListFilters,
    ListNodesRequest,
    RemoveNodeRequest,
    UpdateNodeRequest,
)
from flota.v1.objects_pb2 import ManagerStatus, Node
from flota.v1.specs_pb2 import NodeSpec
from flota.v1.types_pb2 import NodeAvailability, NodeRole
from tests.unit.control.cluster import DOWN, MANAGER, WORKER, Cluster
from tests.unit.control.specs import refused


async def update(cluster: Cluster, hostname: str, **fields: object) -> Node:
    """Another spec for a node, resting on its newest version."""
    node = cluster.node(hostname)
    spec = NodeSpec.FromString(node.spec.SerializeToString())
    for name, value in fields.items():
        setattr(spec, name, value)
    request = UpdateNodeRequest(node_id=node.id, version=node.meta.version, spec=spec)
    return (await cluster.control.UpdateNode(request, None)).node


async def test_answers_say_how_raft_sees_a_manager(cluster: Cluster) -> None:
    await cluster.add_node("m2", MANAGER)
    await cluster.add_node("w1")
    cluster.members[1] = MemberStatus(2, cluster.node("m2").id, "10.0.0.2:2377", True, False, reachable=False)
    answer = await cluster.control.ListNodes(ListNodesRequest(), None)
    nodes = {node.description.hostname: node for node in answer.nodes}
    assert nodes["m1"].manager_status.leader
    assert nodes["m1"].manager_status.reachability == ManagerStatus.REACHABILITY_REACHABLE
    assert nodes["m2"].manager_status.reachability == ManagerStatus.REACHABILITY_UNREACHABLE
    assert nodes["m2"].manager_status.address == "10.0.0.2:2377"
    assert not nodes["w1"].HasField("manager_status")
    # What only the answer says was not stored.
    assert not cluster.node("m1").manager_status.leader


async def test_a_manager_that_raft_does_not_know_is_of_unknown_standing(cluster: Cluster) -> None:
    await cluster.add_node("m2", MANAGER)
    cluster.members.pop()
    answer = await cluster.control.GetNode(GetNodeRequest(node_id="m2"), None)
    assert answer.node.manager_status.reachability == ManagerStatus.REACHABILITY_UNKNOWN


async def test_nodes_are_found_by_hostname_and_listed_by_role(cluster: Cluster) -> None:
    await cluster.add_node("w1")
    node = (await cluster.control.GetNode(GetNodeRequest(node_id="w1"), None)).node
    assert node.id == cluster.node("w1").id
    request = ListNodesRequest(filters=ListFilters(roles=[NodeRole.NODE_ROLE_WORKER]))
    answer = await cluster.control.ListNodes(request, None)
    assert [node.description.hostname for node in answer.nodes] == ["w1"]
    await cluster.add_node("w1")
    with refused(InvalidArgument, "node 'w1' is ambiguous: 2 nodes match, for example …"):
        await cluster.control.GetNode(GetNodeRequest(node_id="w1"), None)


async def test_an_update_is_stored_and_an_equal_spec_is_none(cluster: Cluster) -> None:
    await cluster.add_node("w1")
    after = await update(cluster, "w1", availability=NodeAvailability.NODE_AVAILABILITY_DRAIN)
    assert after.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    assert (await update(cluster, "w1")).meta.version == after.meta.version


async def test_an_update_rests_on_the_newest_version(cluster: Cluster) -> None:
    old = await cluster.add_node("w1")
    stale = cluster.node("w1").meta.version.index
    await update(cluster, "w1", availability=NodeAvailability.NODE_AVAILABILITY_PAUSE)
    newest = cluster.node("w1").meta.version.index
    request = UpdateNodeRequest(node_id=old.id, spec=old.spec)
    request.version.index = stale
    said = f"update out of sequence: node w1 is at version {newest}, the request rests on version {stale}"
    with refused(OutOfSequence, said):
        await cluster.control.UpdateNode(request, None)


async def test_specs_that_are_none(cluster: Cluster) -> None:
    with refused(InvalidArgument, "invalid availability 7: allowed are active, pause and drain"):
        await update(cluster, "m1", availability=7)
    with refused(InvalidArgument, "invalid role 7: allowed are worker and manager"):
        await update(cluster, "m1", desired_role=7)
    with refused(InvalidArgument, "the request has no node spec"):
        await cluster.control.UpdateNode(UpdateNodeRequest(node_id="m1"), None)
    with refused(NotFound, "node nope not found"):
        await cluster.control.UpdateNode(UpdateNodeRequest(node_id="nope", spec=NodeSpec()), None)


async def test_the_last_manager_stays_one(cluster: Cluster) -> None:
    await cluster.add_node("w1")
    with refused(FailedPrecondition, "node m1 is the last manager of the swarm: it cannot be demoted"):
        await update(cluster, "m1", desired_role=WORKER)


async def test_a_demotion_must_leave_a_quorum(cluster: Cluster) -> None:
    await cluster.add_node("m2", MANAGER)
    await cluster.add_node("m3", MANAGER, DOWN)
    # Without m2 the group would be m1 and m3, and both would be needed.
    with refused(FailedPrecondition, "demoting node m2 would leave 1 reachable of 2 managers, and 2 are needed …"):
        await update(cluster, "m2", desired_role=WORKER)
    assert (await update(cluster, "m3", desired_role=WORKER)).spec.desired_role == WORKER


async def test_a_node_may_be_promoted_and_a_promotion_taken_back(cluster: Cluster) -> None:
    await cluster.add_node("w1")
    assert (await update(cluster, "w1", desired_role=MANAGER)).role == WORKER
    # It is no member of the Raft group yet: nothing can be lost.
    assert (await update(cluster, "w1", desired_role=WORKER)).spec.desired_role == WORKER


async def test_removal_wants_a_worker_that_is_down(cluster: Cluster) -> None:
    await cluster.add_node("m2", MANAGER)
    await cluster.add_node("w1")
    manager = "node m2 is a manager and a member of the Raft group: demote it to worker first"
    for force in (False, True):
        with refused(FailedPrecondition, manager):
            await cluster.control.RemoveNode(RemoveNodeRequest(node_id="m2", force=force), None)
    with refused(FailedPrecondition, "node w1 is ready, not down: stop flota on it first, or use force"):
        await cluster.control.RemoveNode(RemoveNodeRequest(node_id="w1"), None)
    await cluster.control.RemoveNode(RemoveNodeRequest(node_id="w1", force=True), None)
    with refused(NotFound, "node w1 not found"):
        await cluster.control.RemoveNode(RemoveNodeRequest(node_id="w1", force=True), None)


async def test_a_removed_nodes_certificate_is_refused_for_as_long_as_it_would_be_good(cluster: Cluster) -> None:
    root_pem, root_key = create_root()
    csr, _ = create_request()
    signer = Signer(root_pem, root_key)
    node = await cluster.add_node("w1", state=DOWN)
    signed = Node.FromString(cluster.node("w1").SerializeToString())
    life = datetime.timedelta(days=400)
    signed.certificate.certificate_chain = signer.sign(csr, node.id, WORKER, "c1", life)
    await cluster.put(signed)
    old = cluster.store.cluster
    assert old is not None
    long_gone = type(old).FromString(old.SerializeToString())
    long_gone.removed_nodes["ancient"].FromSeconds(1)
    await cluster.put(long_gone)
    await cluster.control.RemoveNode(RemoveNodeRequest(node_id="w1"), None)
    after = cluster.store.cluster
    assert after is not None
    assert list(after.removed_nodes) == [node.id]
    ends = x509.load_pem_x509_certificate(signed.certificate.certificate_chain).not_valid_after_utc
    assert seconds(after.removed_nodes[node.id]) == pytest.approx(ends.timestamp(), abs=1)
