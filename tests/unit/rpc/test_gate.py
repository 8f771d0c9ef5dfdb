"""The gate before every call: who may come in, over real TLS on loopback."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.rpc.callers import Trust, current_caller
from flota.rpc.channels import join_channel, local_channel, node_channel
from flota.rpc.contract import service_paths
from flota.rpc.errors import FailedPrecondition, FlotaError, NotFound, Unavailable, error_from
from flota.rpc.forward import Passing
from flota.rpc.identity import Identity
from flota.rpc.servers import local_server, node_server
from flota.rpc.staleness import AS_ASKED, CONSISTENCY_KEY, STALE, stale_reason
from flota.rpc.tokens import JoinToken, _join_key, join_authority, joiner_certificate, key_pem
from flota.v1 import ca_pb2, ca_pb2_grpc, control_pb2, control_pb2_grpc, dispatcher_pb2, dispatcher_pb2_grpc
from flota.v1.types_pb2 import NodeRole
from tests.addresses import free_address

MANAGER, WORKER = NodeRole.NODE_ROLE_MANAGER, NodeRole.NODE_ROLE_WORKER


class Cluster:
    """A root, tokens, and identities made from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root_pem, root_key = create_root()
        self.signer = Signer(self.root_pem, root_key)
        self.worker_token, self.manager_token = JoinToken.make(self.root_pem), JoinToken.make(self.root_pem)
        self.trust = self.make_trust()

    def make_trust(self, removed: frozenset[str] = frozenset()) -> Trust:
        joiners = ((join_authority(self.worker_token), WORKER), (join_authority(self.manager_token), MANAGER))
        return Trust(self.root_pem, joiners, removed)

    def identity(self, node_id: str, role: "NodeRole.ValueType") -> Identity:
        csr, key = create_request()
        folder = self.folder / node_id
        Identity.store(folder, self.signer.sign(csr, node_id, role, "c1"), key, self.root_pem)
        return Identity(folder)


class Control(control_pb2_grpc.ControlServicer):
    async def GetNode(self, request: Any, context: Any) -> control_pb2.GetNodeResponse:
        if request.node_id == "bug":
            raise ZeroDivisionError("a defect")
        raise NotFound(f"node {request.node_id} not found")

    async def GetCluster(self, request: Any, context: Any) -> control_pb2.GetClusterResponse:
        answer = control_pb2.GetClusterResponse()
        answer.cluster.id = f"{current_caller().kind} {current_caller().node_id}".strip()
        return answer

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[control_pb2.WatchMessage]:
        for index in range(3):
            message = control_pb2.WatchMessage()
            message.version.index = index
            yield message
        raise FailedPrecondition("that was all")


class NodeCa(ca_pb2_grpc.NodeCaServicer):
    async def IssueNodeCertificate(self, request: Any, context: Any) -> ca_pb2.IssueNodeCertificateResponse:
        return ca_pb2.IssueNodeCertificateResponse(role=current_caller().role, node_id=current_caller().node_id)


class Dispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    async def Heartbeat(self, request: Any, context: Any) -> dispatcher_pb2.HeartbeatResponse:
        raise NotFound(current_caller().node_id)


def add_all(server: grpc.aio.Server) -> None:
    control_pb2_grpc.add_ControlServicer_to_server(Control(), server)
    ca_pb2_grpc.add_NodeCaServicer_to_server(NodeCa(), server)
    dispatcher_pb2_grpc.add_DispatcherServicer_to_server(Dispatcher(), server)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
async def address(cluster: Cluster) -> AsyncIterator[str]:
    address = free_address()
    server = node_server(cluster.identity("leader", MANAGER), lambda: cluster.trust, address)
    add_all(server)
    await server.start()
    yield address
    await server.stop(0)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_a_manager_may_call_control_and_is_known(cluster: Cluster, address: str) -> None:
    async with node_channel(cluster.identity("m2", MANAGER), address) as channel:
        answer = await control_pb2_grpc.ControlStub(channel).GetCluster(control_pb2.GetClusterRequest())
        assert answer.cluster.id == "1 m2"


async def test_a_worker_may_not_call_control_but_the_dispatcher(cluster: Cluster, address: str) -> None:
    async with node_channel(cluster.identity("w1", WORKER), address) as channel:
        call = control_pb2_grpc.ControlStub(channel).GetCluster(control_pb2.GetClusterRequest())
        assert await status_of(call) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "a worker may not call /flota.v1.Control/GetCluster",
        )
        call = dispatcher_pb2_grpc.DispatcherStub(channel).Heartbeat(dispatcher_pb2.HeartbeatRequest())
        assert await status_of(call) == (grpc.StatusCode.NOT_FOUND, "w1")


@pytest.mark.parametrize("role", [WORKER, MANAGER])
async def test_a_joiner_has_its_tokens_role_and_may_only_join(
    cluster: Cluster, address: str, role: "NodeRole.ValueType"
) -> None:
    token = cluster.worker_token if role == WORKER else cluster.manager_token
    async with join_channel(cluster.root_pem, *joiner_certificate(token), address) as channel:
        answer = await ca_pb2_grpc.NodeCaStub(channel).IssueNodeCertificate(ca_pb2.IssueNodeCertificateRequest())
        assert (answer.role, answer.node_id) == (role, "")
        call = dispatcher_pb2_grpc.DispatcherStub(channel).Heartbeat(dispatcher_pb2.HeartbeatRequest())
        assert (await status_of(call))[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_what_a_joiners_certificate_claims_is_not_believed(cluster: Cluster, address: str) -> None:
    key = key_pem(_join_key(cluster.worker_token))
    forger = Signer(join_authority(cluster.worker_token), key)
    csr, forged_key = create_request()
    forged = forger.sign(csr, "leader", MANAGER, "c1")
    async with join_channel(cluster.root_pem, forged, forged_key, address) as channel:
        call = control_pb2_grpc.ControlStub(channel).GetCluster(control_pb2.GetClusterRequest())
        assert await status_of(call) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "a joiner may not call /flota.v1.Control/GetCluster",
        )
        answer = await ca_pb2_grpc.NodeCaStub(channel).IssueNodeCertificate(ca_pb2.IssueNodeCertificateRequest())
        assert answer.role == WORKER


async def test_a_rotated_token_and_a_strangers_certificate_are_refused(cluster: Cluster, address: str) -> None:
    old = cluster.worker_token
    cluster.worker_token = JoinToken.make(cluster.root_pem)
    cluster.trust = cluster.make_trust()
    async with join_channel(cluster.root_pem, *joiner_certificate(old), address) as channel:
        call = ca_pb2_grpc.NodeCaStub(channel).IssueNodeCertificate(ca_pb2.IssueNodeCertificateRequest(), timeout=60)
        assert (await status_of(call))[0] == grpc.StatusCode.UNAVAILABLE
    async with join_channel(cluster.root_pem, *joiner_certificate(cluster.worker_token), address) as channel:
        await ca_pb2_grpc.NodeCaStub(channel).IssueNodeCertificate(ca_pb2.IssueNodeCertificateRequest())


async def test_a_removed_node_is_refused_on_an_open_connection(cluster: Cluster, address: str) -> None:
    async with node_channel(cluster.identity("w1", WORKER), address) as channel:
        stub = dispatcher_pb2_grpc.DispatcherStub(channel)
        assert (await status_of(stub.Heartbeat(dispatcher_pb2.HeartbeatRequest())))[0] == grpc.StatusCode.NOT_FOUND
        cluster.trust = cluster.make_trust(removed=frozenset({"w1"}))
        assert (await status_of(stub.Heartbeat(dispatcher_pb2.HeartbeatRequest()))) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "node w1 was removed from this cluster",
        )


async def test_a_worker_cannot_be_mistaken_for_a_manager_by_clients(cluster: Cluster) -> None:
    address = free_address()
    server = node_server(cluster.identity("w9", WORKER), lambda: cluster.trust, address)
    add_all(server)
    await server.start()
    async with node_channel(cluster.identity("w1", WORKER), address) as channel:
        call = dispatcher_pb2_grpc.DispatcherStub(channel).Heartbeat(dispatcher_pb2.HeartbeatRequest(), timeout=60)
        assert (await status_of(call))[0] == grpc.StatusCode.UNAVAILABLE
    await server.stop(0)


class ToLeader:
    """A router with a fixed answer."""

    def __init__(self, channel: grpc.aio.Channel | None) -> None:
        self.channel = channel

    def check_ready(self) -> None:
        """Always."""

    def trouble(self) -> FlotaError | None:
        return None

    async def leader_channel(self) -> grpc.aio.Channel | None:
        if self.channel is None:
            raise Unavailable("the swarm does not have a leader")
        return self.channel


async def test_a_follower_passes_calls_on_in_the_callers_name(cluster: Cluster, address: str) -> None:
    follower = free_address()
    identity = cluster.identity("m2", MANAGER)
    async with node_channel(identity, address) as upstream:
        server = node_server(identity, lambda: cluster.trust, follower, ToLeader(upstream))
        add_all(server)
        await server.start()
        async with node_channel(cluster.identity("w1", WORKER), follower) as channel:
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Heartbeat(dispatcher_pb2.HeartbeatRequest())
            assert await status_of(call) == (grpc.StatusCode.NOT_FOUND, "w1")
            call = control_pb2_grpc.ControlStub(channel).GetCluster(control_pb2.GetClusterRequest())
            assert (await status_of(call))[0] == grpc.StatusCode.PERMISSION_DENIED
        async with node_channel(cluster.identity("m3", MANAGER), follower) as channel:
            seen = []

            async def read() -> None:
                async for message in control_pb2_grpc.ControlStub(channel).Watch(control_pb2.WatchRequest()):
                    seen.append(message.version.index)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read()
            assert seen == [0, 1, 2]
            assert isinstance(error_from(caught.value), FailedPrecondition)
        await server.stop(0)


async def test_a_forwarded_name_is_not_believed_from_a_worker(cluster: Cluster, address: str) -> None:
    async with node_channel(cluster.identity("w1", WORKER), address) as channel:
        call = control_pb2_grpc.ControlStub(channel).GetCluster(
            control_pb2.GetClusterRequest(), metadata=[("flota-caller", "4 0 ")]
        )
        assert await status_of(call) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "only managers may pass calls on for others",
        )


async def test_without_a_leader_the_error_says_so(cluster: Cluster, tmp_path: Path) -> None:
    server = local_server(tmp_path / "s.sock", ToLeader(None))
    add_all(server)
    await server.start()
    async with local_channel(f"unix://{tmp_path}/s.sock") as channel:
        call = control_pb2_grpc.ControlStub(channel).GetCluster(control_pb2.GetClusterRequest())
        assert await status_of(call) == (grpc.StatusCode.UNAVAILABLE, "the swarm does not have a leader")
    await server.stop(0)


async def test_who_is_content_with_an_old_answer_gets_it_without_a_leader(cluster: Cluster, tmp_path: Path) -> None:
    """Through a socket that passes calls on, as the daemon's; writes need a leader all the same."""
    inner = local_server(tmp_path / "inner.sock", ToLeader(None))
    add_all(inner)
    await inner.start()
    outer = local_server(tmp_path / "outer.sock")
    async with local_channel(f"unix://{tmp_path}/inner.sock") as upstream:
        outer.add_generic_rpc_handlers((Passing(service_paths("Control"), lambda: upstream),))
        await outer.start()
        async with local_channel(f"unix://{tmp_path}/outer.sock") as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            content = [(CONSISTENCY_KEY, STALE)]
            call = stub.GetCluster(control_pb2.GetClusterRequest(), metadata=content)
            assert (await call).cluster.id == "4"
            assert stale_reason(await call.trailing_metadata()) == AS_ASKED
            refused = stub.RemoveService(control_pb2.RemoveServiceRequest(service_id="x"), metadata=content)
            assert await status_of(refused) == (grpc.StatusCode.UNAVAILABLE, "the swarm does not have a leader")
    await outer.stop(0)
    await inner.stop(0)


async def test_a_socket_passes_calls_on_and_a_defect_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    inner = local_server(tmp_path / "inner.sock")
    add_all(inner)
    await inner.start()
    outer = local_server(tmp_path / "outer.sock")
    async with local_channel(f"unix://{tmp_path}/inner.sock") as upstream:
        outer.add_generic_rpc_handlers((Passing(service_paths("Control"), lambda: upstream),))
        await outer.start()
        async with local_channel(f"unix://{tmp_path}/outer.sock") as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            assert (await stub.GetCluster(control_pb2.GetClusterRequest())).cluster.id == "4"
            assert await status_of(stub.GetNode(control_pb2.GetNodeRequest(node_id="x"))) == (
                grpc.StatusCode.NOT_FOUND,
                "node x not found",
            )
            assert await status_of(stub.GetNode(control_pb2.GetNodeRequest(node_id="bug"))) == (
                grpc.StatusCode.INTERNAL,
                "ZeroDivisionError: a defect",
            )
    await outer.stop(0)
    await inner.stop(0)
