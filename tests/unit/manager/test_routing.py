"""Calls that go to the leader, over real TLS on loopback."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from weakref import ref

import grpc.aio
import pytest

from flota.manager.ca import rotation
from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.raft.node import RaftNode
from flota.manager.routing import LeaderRouter
from flota.rpc.callers import Trust, current_caller
from flota.rpc.channels import local_channel
from flota.rpc.identity import Identity
from flota.rpc.servers import local_server, node_server
from flota.v1 import control_pb2, control_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from flota.v1.objects_pb2 import RootCa
from flota.v1.specs_pb2 import CaConfig
from flota.v1.types_pb2 import NodeRole
from tests.addresses import free_address


class Follower:
    """A Raft member that knows who leads."""

    def __init__(self, leader: str) -> None:
        self.leader = leader
        self.removed = asyncio.Event()

    async def wait_for_leader(self) -> str:
        return self.leader


class Control(control_pb2_grpc.ControlServicer):
    """Says who asks; a watch has one message more whenever something happened."""

    def __init__(self) -> None:
        self.happened = asyncio.Semaphore(0)

    async def GetCluster(self, request: Any, context: Any) -> control_pb2.GetClusterResponse:
        answer = control_pb2.GetClusterResponse()
        answer.cluster.id = current_caller().node_id
        return answer

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[control_pb2.WatchMessage]:
        for _ in range(2):
            await self.happened.acquire()
            yield control_pb2.WatchMessage()


class Swarm:
    """A leader with a server, and the files of another manager."""

    def __init__(self, folder: Path) -> None:
        certificate, key = create_root()
        self.folder = folder
        self.root = RootCa(certificate=certificate, private_key=key)
        self.root.join_tokens.worker = self.root.join_tokens.manager = ""
        self.certify("m1")
        self.certify("m2")
        self.trust = Trust(certificate)
        self.control = Control()
        self.address = free_address()
        self.server = node_server(Identity(folder / "m1"), lambda: self.trust, self.address)
        self.serve(self.server)

    def serve(self, server: grpc.aio.Server) -> None:
        """Have it answer, or pass on to who leads."""
        control_pb2_grpc.add_ControlServicer_to_server(self.control, server)
        tasks_pb2_grpc.add_TasksServicer_to_server(tasks_pb2_grpc.TasksServicer(), server)

    def certify(self, name: str) -> None:
        """A new certificate, of the root that signs at the moment."""
        request, key = create_request()
        chain = Signer.of(self.root).sign(request, name, NodeRole.NODE_ROLE_MANAGER, "c1")
        Identity.store(self.folder / name, chain, key, self.root.certificate)

    def replace_root(self) -> None:
        """A rotation from its beginning to its end."""
        rotation.begin(self.root, CaConfig(), datetime.datetime.now(datetime.UTC))
        self.certify("m1")
        self.certify("m2")
        rotation.finish(self.root)
        self.trust = Trust(self.root.certificate)

    def router(self) -> LeaderRouter:
        router = LeaderRouter(Identity(self.folder / "m2"))
        router.use(cast(RaftNode, Follower(self.address)))
        return router


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    swarm = Swarm(tmp_path)
    await swarm.server.start()
    yield swarm
    await swarm.server.stop(0)


async def who_asks(router: LeaderRouter) -> str:
    """Who the leader says asks it through the router."""
    channel = await router.leader_channel()
    assert channel is not None
    answer = await control_pb2_grpc.ControlStub(channel).GetCluster(control_pb2.GetClusterRequest(), timeout=60)
    return answer.cluster.id


async def test_a_leader_that_trusts_another_root_is_asked_with_a_certificate_of_that(swarm: Swarm) -> None:
    router = swarm.router()
    assert await who_asks(router) == "m2"
    swarm.replace_root()
    assert await who_asks(router) == "m2"


async def test_the_connection_stays_while_the_certificate_does(swarm: Swarm) -> None:
    router = swarm.router()
    assert await router.leader_channel() is await router.leader_channel()


async def test_a_call_that_lasts_is_not_cut_off_by_a_new_certificate(swarm: Swarm) -> None:
    router = swarm.router()
    channel = await router.leader_channel()
    assert channel is not None
    former = ref(channel)
    watching = control_pb2_grpc.ControlStub(channel).Watch(control_pb2.WatchRequest(), timeout=60)
    swarm.control.happened.release()
    messages = aiter(watching)
    await anext(messages)
    swarm.replace_root()
    assert await who_asks(router) == "m2"
    swarm.control.happened.release()
    assert [message async for message in messages] == [control_pb2.WatchMessage()]

    # Nobody needs the connection any more.
    del watching, messages, channel
    assert former() is None


class Overtaken:
    """A router whose first answer is of before a rotation that has come to its end since."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._router = swarm.router()
        self._is_first = True

    def check_ready(self) -> None:
        pass

    def trouble(self) -> None:
        return None

    async def leader_channel(self) -> grpc.aio.Channel | None:
        channel = await self._router.leader_channel()
        if self._is_first and channel is not None:
            self._is_first = False
            await channel.channel_ready()
            self._swarm.replace_root()
        return channel


@asynccontextmanager
async def follower(swarm: Swarm, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a manager that passes calls on."""
    server = local_server(folder / "socket", Overtaken(swarm))
    swarm.serve(server)
    await server.start()
    async with local_channel(f"unix://{folder}/socket") as channel:
        yield channel
    await server.stop(0)


async def test_a_stream_that_the_end_of_a_rotation_overtook_is_asked_for_once_more(
    swarm: Swarm, tmp_path: Path
) -> None:
    async with follower(swarm, tmp_path) as channel:
        swarm.control.happened.release()
        swarm.control.happened.release()
        watching = control_pb2_grpc.ControlStub(channel).Watch(control_pb2.WatchRequest(), timeout=60)
        assert len([message async for message in watching]) == 2


async def test_who_has_sent_something_already_is_told_to_try_again(swarm: Swarm, tmp_path: Path) -> None:
    async with follower(swarm, tmp_path) as channel:
        talking = tasks_pb2_grpc.TasksStub(channel).Exec(iter([tasks_pb2.ExecRequest()]), timeout=60)
        with pytest.raises(grpc.aio.AioRpcError, match=r"certificate was replaced .* try again") as caught:
            await anext(aiter(talking))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
