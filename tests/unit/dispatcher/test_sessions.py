"""Who is there: sessions, heartbeats, and what becomes of nodes that go; with a real server over mutual TLS."""

import asyncio
from pathlib import Path

import pytest

from flota.rpc.callers import Caller
from flota.rpc.channels import node_channel
from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from flota.rpc.forward import CALLER_KEY
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.dispatcher_pb2 import AttachNetworkRequest, SessionRequest
from flota.v1.dispatcher_pb2_grpc import DispatcherStub
from flota.v1.objects_pb2 import Certificate, NodeDescription
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import NodeAvailability, NodeRole, Peer, Volume
from tests.unit.dispatcher.swarm import DISCONNECTED, DOWN, MANAGER, READY, RUNNING, UNKNOWN, Swarm, network, task


async def test_a_session_makes_the_node_ready_and_tells_what_the_worker_needs(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await agent.connect(NodeDescription(hostname="one", data_path_address="10.1.0.1"))
    first = agent.sessions[0]
    assert first.session_id
    assert first.node.id == "w1"
    assert list(first.managers) == swarm.managers
    assert first.root_ca == swarm.root_pem
    node = swarm.store.nodes.get("w1")
    assert (node.status.state, node.status.address, node.description.hostname) == (READY, "127.0.0.1", "one")
    assert 27 <= await agent.heartbeat() <= 33


async def test_a_session_begins_with_the_managers_there_are_now(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    for count in range(2, 5):
        swarm.managers.append(Peer(node_id=f"m{count}", address=f"10.0.0.{count}:2377"))
        await agent.connect()
        assert len(agent.sessions[-1].managers) == count


async def test_liveness_is_not_written(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await agent.connect(NodeDescription(hostname="one"))
    entries = swarm.proposer.entries
    for _ in range(5):
        await agent.heartbeat()
    assert swarm.proposer.entries == entries
    # Nor is a description that says nothing new.
    await agent.connect(NodeDescription(hostname="one"))
    assert swarm.proposer.entries == entries


async def test_news_of_a_machine_come_with_a_heartbeat(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await agent.connect(NodeDescription(hostname="one"))
    await agent.heartbeat(NodeDescription(hostname="one", volumes=[Volume(name="data")]))
    await swarm.until(lambda: [one.name for one in swarm.store.nodes.get("w1").description.volumes] == ["data"])
    assert swarm.state("w1") == READY
    # To whom that is of no use is not told of it.
    await agent.heartbeat()
    assert len(agent.sessions) == 1


async def test_registry_credentials_are_for_the_nodes_own_tasks(swarm: Swarm) -> None:
    agent, other = await swarm.node("w1"), await swarm.node("w2")
    await agent.connect()
    await other.connect()
    await swarm.create(task("t1", "w1"))
    # Nobody gave this manager a helper.
    assert await agent.registry_auth("t1") == ""
    for asking, task_id in ((other, "t1"), (agent, "none")):
        with pytest.raises(NotFound, match=f"has no task {task_id}"):
            await asking.registry_auth(task_id)


async def test_a_container_without_a_service_gets_a_place_on_an_attachable_network_only(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await agent.connect()
    open_to_all, closed = network("open"), network("closed")
    open_to_all.spec.attachable = True
    open_to_all.ipam.add(subnet="10.0.7.0/24", gateway="10.0.7.1")
    await swarm.create(open_to_all, closed)
    used = task("t1", "w1")
    used.networks.add(network_id="open", addresses=["10.0.7.5/24"])
    await swarm.create(used)

    async def attach(target: str, *addresses: str) -> str:
        request = AttachNetworkRequest(session_id=agent.session_id, container_id="c1", container_name="db")
        request.attachment.target = target
        request.attachment.aliases.append("store")
        request.attachment.addresses.extend(addresses)
        return (await agent.call(agent.stub.AttachNetwork(request))).task_id

    place = swarm.store.tasks.get(await attach("open"))
    assert place is not None
    assert (place.node_id, place.attachment_of, task_name(place), place.service_id) == ("w1", "c1", "db", "")
    assert [(one.target, list(one.aliases)) for one in place.spec.networks] == [("open", ["store"])]
    with pytest.raises(FailedPrecondition, match="not manually attachable"):
        await attach("closed")
    with pytest.raises(NotFound, match="network missing not found"):
        await attach("missing")
    # What the allocator will never give nobody waits for.
    for address in ("10.0.7.1", "10.0.7.5"):
        with pytest.raises(FailedPrecondition, match="Address already in use"):
            await attach("open", address)
    for address in ("10.0.8.5", "nonsense"):
        with pytest.raises(InvalidArgument, match=f"Invalid address {address}"):
            await attach("open", address)
    await attach("open", "10.0.7.6")


async def test_what_matters_to_the_worker_is_pushed_and_nothing_else(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await agent.connect()
    await swarm.change("w1", lambda node: setattr(node.description, "hostname", "echo"), "nodes")
    await swarm.change(
        "w1", lambda node: setattr(node.spec, "availability", NodeAvailability.NODE_AVAILABILITY_DRAIN), "nodes"
    )
    await agent.until(lambda: len(agent.sessions) == 2)
    assert agent.sessions[1].node.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    await swarm.change("w1", lambda node: setattr(node.certificate, "state", Certificate.STATE_ROTATE), "nodes")
    await agent.until(lambda: len(agent.sessions) == 3)
    assert agent.sessions[2].node.certificate.state == Certificate.STATE_ROTATE
    swarm.managers.append(Peer(node_id="m2", address="10.0.0.2:2377"))
    await agent.until(lambda: len(agent.sessions) == 4)
    assert [peer.node_id for peer in agent.sessions[3].managers] == ["m1", "m2"]


async def test_a_second_session_takes_the_firsts_place(swarm: Swarm) -> None:
    first = await (await swarm.node("w1")).join()
    second = await swarm.agent("w1").connect()
    assert isinstance(await first.ending(first.session_stream), FailedPrecondition)
    assert isinstance(await first.ending(first.assignments_stream), FailedPrecondition)
    with pytest.raises(FailedPrecondition, match="over: open a new one"):
        await first.heartbeat()
    await second.heartbeat()
    assert swarm.state("w1") == READY


async def test_a_broken_session_is_disconnected_and_can_be_resumed(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).join()
    id = agent.session_id
    await agent.drop()
    await swarm.until(lambda: swarm.state("w1") == DISCONNECTED)
    with pytest.raises(FailedPrecondition, match="lost its stream"):
        await agent.heartbeat()
    await agent.connect(session_id=id)
    assert agent.session_id == id
    assert swarm.state("w1") == READY
    await agent.heartbeat()
    await agent.listen()


async def test_a_node_that_says_goodbye_is_down_at_once(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).join()
    await agent.goodbye()
    assert await agent.ending(agent.session_stream) is None
    assert await agent.ending(agent.assignments_stream) is None
    await swarm.until(lambda: swarm.state("w1") == DOWN)
    status = swarm.store.nodes.get("w1").status
    assert status.message == "it said goodbye"
    assert status.HasField("since")
    with pytest.raises(FailedPrecondition):
        await agent.goodbye()


async def test_a_node_without_heartbeats_is_down_and_may_come_back(tmp_path: Path) -> None:
    async with Swarm(tmp_path, period=0.1).serving() as swarm:
        agent = await (await swarm.node("w1")).join()
        await swarm.until(lambda: swarm.state("w1") == DOWN)
        assert isinstance(await agent.ending(agent.session_stream), FailedPrecondition)
        await agent.connect()
        assert swarm.state("w1") == READY


async def test_a_node_that_never_came_is_down_in_the_end(tmp_path: Path) -> None:
    async with Swarm(tmp_path, period=0.1).serving() as swarm:
        await swarm.node("w1")
        assert swarm.state("w1") == UNKNOWN
        await swarm.until(lambda: swarm.state("w1") == DOWN)


async def test_a_new_leader_knows_nobody_and_workers_come_back(swarm: Swarm) -> None:
    agents = [await (await swarm.node(f"w{n}")).join() for n in (1, 2)]
    gone = await swarm.node("w3")
    await gone.connect()
    await gone.goodbye()
    await swarm.until(lambda: swarm.state("w3") == DOWN)
    await swarm.lose()
    for agent in agents:
        assert isinstance(await agent.ending(agent.session_stream), Unavailable)
        assert isinstance(await agent.ending(agent.assignments_stream), Unavailable)
        with pytest.raises(Unavailable, match="does not lead"):
            await agent.heartbeat()
        with pytest.raises(Unavailable, match="does not lead"):
            await agent.report({"t1": RUNNING})
    await swarm.lead()
    await swarm.until(lambda: swarm.state("w1") == swarm.state("w2") == UNKNOWN)
    assert swarm.state("w3") == DOWN
    await agents[0].connect(session_id=agents[0].session_id)
    assert swarm.state("w1") == READY
    assert swarm.state("w2") == UNKNOWN


async def test_the_end_of_leadership_ends_what_waits_for_consensus(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).join()
    await swarm.create(task("t1", "w1"))
    swarm.proposer.open.clear()
    report = asyncio.create_task(agent.report({"t1": RUNNING}))
    await swarm.proposer.held_up.wait()
    other = asyncio.create_task(swarm.agent("w1").connect(NodeDescription(hostname="new")))
    await agent.ending(agent.session_stream)
    await swarm.lose()
    for waiting in (report, other):
        with pytest.raises(Unavailable):
            await waiting
    swarm.proposer.open.set()


async def test_a_removed_node_is_told_and_not_taken_back(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).join()
    await swarm.remove("w1", "nodes")
    assert isinstance(await agent.ending(agent.session_stream), NotFound)
    with pytest.raises(NotFound, match="node w1 is not part of this cluster"):
        await agent.connect()


async def test_who_registers_too_often_has_to_wait(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    for _ in range(10):
        await agent.connect()
    with pytest.raises(ResourceExhausted, match="10 sessions within 8 s"):
        await agent.connect()
    await (await swarm.node("w2")).connect()


async def test_a_change_that_consensus_refuses_is_written_when_it_can_be(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).connect()
    swarm.proposer.refuses = True
    await agent.goodbye()
    await swarm.proposer.refused.wait()
    assert swarm.state("w1") == READY
    swarm.proposer.refuses = False
    await swarm.until(lambda: swarm.state("w1") == DOWN)


async def test_the_address_is_that_of_the_node_also_behind_a_follower(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await swarm.change("w1", lambda node: setattr(node.manager_status, "address", "10.0.0.7:2377"), "nodes")
    # A manager's own worker comes in over loopback.
    await agent.connect()
    assert swarm.store.nodes.get("w1").status.address == "10.0.0.7"
    far = Caller(Kind.CALLER_WORKER, "w2", NodeRole.NODE_ROLE_WORKER, "192.0.2.9")
    await swarm.node("w2")
    async with node_channel(swarm.identity("m2", MANAGER), swarm.address) as follower:
        call = DispatcherStub(follower).Session(
            SessionRequest(), metadata=((CALLER_KEY, far.to_metadata()),), wait_for_ready=True
        )
        assert (await call.read()).node.id == "w2"
        call.cancel()
    assert swarm.store.nodes.get("w2").status.address == "192.0.2.9"
