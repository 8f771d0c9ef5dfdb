"""A Node within this process, in the cluster of a real daemon: what takes too long elsewhere is made short here."""

import asyncio
import datetime
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import grpc.aio
import pytest
from cryptography import x509

from flota.node import entering, following
from flota.node import record as records
from flota.node.following import Follower
from flota.node.node import Node, Programs
from flota.node.options import DaemonOptions
from flota.node.places import Places
from flota.node.serving import state_of
from flota.rpc.channels import node_channel
from flota.rpc.errors import DeadlineExceeded, FailedPrecondition
from flota.v1.control_pb2 import ListNodesRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.dispatcher_pb2 import SessionMessage
from flota.v1.local_pb2 import (
    AgentStatusRequest,
    AgentStatusResponse,
    InfoResponse,
    InitRequest,
    JoinRequest,
    RemoveImageRequest,
)
from flota.v1.local_pb2_grpc import AgentStub
from flota.v1.process_pb2 import NodeRecord
from tests.addresses import free_address
from tests.cluster.daemon.daemons import ROOT, Daemon, eventually, refusal

STAND_IN = [sys.executable, "-m", "tests.cluster.daemon.worker"]
MUTE = [sys.executable, "-S", str(Path(__file__).with_name("child_program.py"))]


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    node = make_node(tmp_path, STAND_IN)
    await node.start()
    following = asyncio.create_task(Follower(node).run())
    yield node
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await node.stop()


def make_node(directory: Path, worker: list[str]) -> Node:
    options = DaemonOptions(directory / "state", directory / "run", manager_metrics="", worker_metrics="")
    places = Places(options.state_directory, options.run_directory)
    for path in (places.state, places.run):
        path.mkdir()
    return Node(options, places, Programs(worker=worker))


def joining(begun: object, token: str, address: str) -> JoinRequest:
    return JoinRequest(token=token, addresses=[address], listen_address=free_address())


async def test_a_certificate_is_renewed_when_its_time_has_come(
    one: Daemon, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await one.init(data_path_port=7789)
    due: list[x509.Certificate] = []

    def soon(certificate: x509.Certificate, random: Random) -> datetime.datetime:
        due.append(certificate)
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=0 if len(due) == 1 else 30)

    monkeypatch.setattr(following, "renewal_time", soon)
    await entering.join(node, joining(begun, begun.tokens.manager, begun.address))
    identity = node.identity
    assert identity is not None

    async def renewed() -> bool:
        return len({certificate.serial_number for certificate in due}) == 2

    # The follower looks at the clock when it hears of something; a renewed certificate is heard of.
    await eventually(renewed)
    assert identity.certificate.serial_number == due[-1].serial_number
    assert identity.is_manager
    assert node.record is not None
    assert node.record.data_path_port == 7789
    # It is good for what the old one was good for, and nothing was started anew.
    async with node_channel(identity, begun.address) as channel:
        nodes = (await ControlStub(channel).ListNodes(ListNodesRequest(), timeout=10)).nodes
    assert {one.id for one in nodes} == {begun.node_id, identity.node_id}
    shown = next(one.certificate.certificate_chain for one in nodes if one.id == identity.node_id)
    assert shown == identity.certificate_pem


async def test_a_join_without_a_session_ends_in_time_and_leaves_nothing(
    one: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await one.init()
    monkeypatch.setattr(entering, "_LIMIT", 2.0)
    (tmp_path / "mute").mkdir()
    node = make_node(tmp_path / "mute", [*MUTE, str(tmp_path)])
    await node.start()
    try:
        for token in (begun.tokens.worker, begun.tokens.manager):
            with pytest.raises(
                DeadlineExceeded,
                # Usually its worker has no session by then; on a busy machine something before that is lacking.
                match=r"^cannot join: this node did not become part of the swarm within 2 s: its? ",
            ):
                await entering.join(node, joining(begun, token, begun.address))
            assert node.record is None
            assert node.identity is None
            assert {path.name for path in node.places.state.iterdir()} == set()
            # Neither a node nor a member of the Raft group is left: one manager alone still decides.
            assert (await one.nodes()).keys() == {begun.node_id}
            assert (await one.tokens()) == begun.tokens
    finally:
        await node.stop()


async def test_one_thing_at_a_time(one: Daemon, node: Node) -> None:
    begun = await one.init()
    first = asyncio.create_task(entering.join(node, joining(begun, begun.tokens.worker, begun.address)))
    await eventually(lambda: is_moving(node))
    with pytest.raises(FailedPrecondition, match="this node is busy: a join is under way"):
        await entering.join(node, joining(begun, begun.tokens.worker, begun.address))
    assert (await first).node_id


async def is_moving(node: Node) -> bool:
    return bool(node.moving)


async def test_calls_are_passed_on_to_the_worker_and_its_refusals_come_back(one: Daemon) -> None:
    async with one.channel() as channel:
        agent = AgentStub(channel)
        assert (await agent.Status(AgentStatusRequest(), timeout=10)).runtime == "none"
        refused = await refusal(agent.RemoveImage(RemoveImageRequest(reference="web:1"), timeout=10))
        assert refused == (grpc.StatusCode.NOT_FOUND, "no such image: web:1")
        before = one.child("worker")
        one.kill_child("worker")

        async def answers() -> bool:
            await agent.Status(AgentStatusRequest(), timeout=10)
            return one.child("worker") != before

        await eventually(answers)


async def test_a_certificate_that_ran_out_is_told(one: Daemon, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = await one.init()
    await entering.join(node, joining(begun, begun.tokens.worker, begun.address))
    assert state_of(node, AgentStatusResponse()) == (InfoResponse.STATE_ACTIVE, "")
    await one.stop()
    monkeypatch.setattr(following, "_now", lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=91))
    assert node.session is not None
    # Any word of a manager makes the follower look at its clock.
    follower = Follower(node)
    renewing = asyncio.create_task(follower._renew())
    await eventually(lambda: is_expired(node))
    renewing.cancel()
    state, error = state_of(node, AgentStatusResponse())
    assert state == InfoResponse.STATE_ERROR
    assert error.startswith("this node's certificate was good until ")
    assert error.endswith("run flota swarm leave --force and join again")


async def is_expired(node: Node) -> bool:
    return bool(node.expired)


async def test_a_machine_whose_worker_does_not_run_becomes_no_node(tmp_path: Path) -> None:
    node = make_node(tmp_path, [str(tmp_path / "nothing")])
    await node.start()
    try:
        words = r"^cannot init: the worker process does not run: the worker process cannot be started: No such file"
        with pytest.raises(FailedPrecondition, match=words):
            await entering.init(node, InitRequest(listen_address=free_address()))
        assert state_of(node, AgentStatusResponse())[0] == InfoResponse.STATE_INACTIVE
    finally:
        await node.stop()


async def test_a_full_disk_does_not_end_the_daemon(one: Daemon, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = await one.init()
    await entering.join(node, joining(begun, begun.tokens.worker, begun.address))

    def full(path: Path, record: NodeRecord) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "store", full)
    session, record = node.session, node.record
    assert session is not None
    assert record is not None
    news = SessionMessage()
    news.CopyFrom(session)
    news.managers.add(node_id="m9", address="192.0.2.9:2377")
    await Follower(node)._hear(news)
    assert record.managers[-1].node_id == "m9"
