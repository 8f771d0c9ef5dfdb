"""The cluster object: its spec, its tokens, and that nothing secret leaves."""

import pytest
from google.protobuf import text_format

from flota.manager.control.cluster_rules import check_cluster_spec
from flota.manager.raft.interface import MemberStatus
from flota.rpc.errors import FailedPrecondition, InvalidArgument, OutOfSequence, Unsupported
from flota.rpc.tokens import JoinToken
from flota.v1.control_pb2 import GetClusterRequest, GetJoinTokensRequest, UpdateClusterRequest
from flota.v1.objects_pb2 import Cluster as ClusterObject
from flota.v1.specs_pb2 import ClusterSpec
from tests.unit.control.cluster import Cluster
from tests.unit.control.specs import refused


async def get(cluster: Cluster) -> ClusterObject:
    return (await cluster.control.GetCluster(GetClusterRequest(), None)).cluster


async def test_nothing_secret_leaves(cluster: Cluster) -> None:
    stored = cluster.store.cluster
    assert stored is not None
    assert stored.root_ca.private_key
    assert stored.root_ca.join_tokens.worker
    shown = await get(cluster)
    assert shown.root_ca.certificate == stored.root_ca.certificate
    assert shown.root_ca.private_key == b""
    assert not shown.root_ca.HasField("join_tokens")
    request = UpdateClusterRequest(version=shown.meta.version, spec=shown.spec, rotate_worker_token=True)
    updated = (await cluster.control.UpdateCluster(request, None)).cluster
    assert updated.root_ca.private_key == b""
    assert not updated.root_ca.HasField("join_tokens")
    # The spec came back without them, and they are still there.
    after = cluster.store.cluster
    assert after is not None
    assert after.root_ca.private_key == stored.root_ca.private_key


async def test_tokens_are_rotated_one_by_one(cluster: Cluster) -> None:
    def tokens() -> tuple[str, str]:
        stored = cluster.store.cluster
        assert stored is not None
        return stored.root_ca.join_tokens.worker, stored.root_ca.join_tokens.manager

    before = tokens()
    version = (await get(cluster)).meta.version
    await cluster.control.UpdateCluster(UpdateClusterRequest(version=version, rotate_manager_token=True), None)
    after = tokens()
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert JoinToken.parse(after[1]).digest == JoinToken.parse(before[1]).digest


async def test_where_to_join_begins_with_the_leader(cluster: Cluster) -> None:
    cluster.members = [
        MemberStatus(1, "a", "10.0.0.1:2377", True, False, reachable=False),
        MemberStatus(2, "b", "10.0.0.2:2377", True, False, reachable=True),
        MemberStatus(3, "c", "10.0.0.3:2377", True, True, reachable=True),
        MemberStatus(4, "d", "", False, False, reachable=True),
    ]
    answer = await cluster.control.GetJoinTokens(GetJoinTokensRequest(), None)
    assert list(answer.addresses) == ["10.0.0.3:2377", "10.0.0.2:2377", "10.0.0.1:2377"]
    assert answer.tokens.worker.startswith("SWMTKN-1-")


async def test_an_update_writes_defaults_out_and_rests_on_the_newest_version(cluster: Cluster) -> None:
    old = await get(cluster)
    spec = ClusterSpec()
    spec.orchestration.task_history_retention_limit = 0
    answer = await cluster.control.UpdateCluster(UpdateClusterRequest(version=old.meta.version, spec=spec), None)
    assert answer.cluster.spec.orchestration.task_history_retention_limit == 0
    assert answer.cluster.spec.raft.snapshot_interval == 10_000
    assert answer.cluster.spec.annotations.name == "default"
    with pytest.raises(OutOfSequence):
        await cluster.control.UpdateCluster(UpdateClusterRequest(version=old.meta.version, spec=spec), None)


async def test_a_lease_is_shorter_than_what_the_others_promise(cluster: Cluster) -> None:
    old = await get(cluster)
    old.spec.raft.read_lease.FromMilliseconds(500)
    await cluster.control.UpdateCluster(UpdateClusterRequest(version=old.meta.version, spec=old.spec), None)
    old = await get(cluster)
    old.spec.raft.read_lease.FromMilliseconds(501)
    with refused(InvalidArgument, "invalid read lease '0.501s': allowed is 0 (off) to 0.5s"):
        await cluster.control.UpdateCluster(UpdateClusterRequest(version=old.meta.version, spec=old.spec), None)


async def test_requests_that_are_none(cluster: Cluster) -> None:
    with refused(InvalidArgument, "the request has neither a cluster spec nor a token or key to rotate"):
        await cluster.control.UpdateCluster(UpdateClusterRequest(), None)
    old = await get(cluster)
    old.spec.annotations.name = "other"
    with refused(Unsupported, "the cluster cannot be renamed to 'other'"):
        await cluster.control.UpdateCluster(UpdateClusterRequest(version=old.meta.version, spec=old.spec), None)


async def test_before_the_swarm_has_begun_there_is_nothing_to_ask() -> None:
    empty = Cluster()
    for call in (
        empty.control.GetCluster(GetClusterRequest(), None),
        empty.control.GetJoinTokens(GetJoinTokensRequest(), None),
        empty.control.UpdateCluster(UpdateClusterRequest(rotate_worker_token=True), None),
    ):
        with refused(FailedPrecondition, "this swarm is not set up yet"):
            await call


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dispatcher { heartbeat_period { nanos: 50000000 } }", "invalid dispatcher heartbeat '0.05s': allowed is …"),
        (
            "dispatcher { heartbeat_period { seconds: 3601 } }",
            "invalid dispatcher heartbeat '3601s': allowed is 100 ms …",
        ),
        ("dispatcher { heartbeat_period { seconds: -1 } }", "invalid dispatcher heartbeat '-1s': a duration of zero …"),
        ("ca { node_cert_expiry { seconds: 60 } }", "invalid certificate expiry '60s': at least 1 hour is needed"),
        (
            'annotations { labels { key: " a" value: "" } }',
            "invalid label key ' a': it must not be empty, nor contain …",
        ),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    spec = ClusterSpec()
    text_format.Merge(text, spec)
    with refused(InvalidArgument, said):
        check_cluster_spec(spec)
