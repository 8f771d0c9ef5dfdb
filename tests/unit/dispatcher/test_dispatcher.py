"""The dispatcher between a real store and simulated workers, over gRPC with mutual TLS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flota.manager.dispatcher import withdrawals
from flota.rpc.callers import Caller
from flota.rpc.channels import node_channel
from flota.rpc.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from flota.rpc.forward import CALLER_KEY
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.dispatcher_pb2 import AssignmentsMessage, AttachNetworkRequest, SessionRequest, UpdateTaskStatusRequest
from flota.v1.dispatcher_pb2_grpc import DispatcherStub
from flota.v1.objects_pb2 import Certificate, Config, NodeDescription, Secret
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import NodeAvailability, NodeRole, Peer, TaskState, TaskStatus, TunnelKey, Volume
from tests.unit.dispatcher.swarm import (
    DISCONNECTED,
    DOWN,
    MANAGER,
    READY,
    RUNNING,
    UNKNOWN,
    Agent,
    Swarm,
    network,
    service,
    set_desired,
    task,
)

SHUTDOWN = TaskState.TASK_STATE_SHUTDOWN


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    async with Swarm(tmp_path).serving() as swarm:
        yield swarm


def secret(id: str) -> Secret:
    made = Secret(id=id)
    made.spec.annotations.name = id
    made.spec.data = b"hidden"
    return made


def config(id: str) -> Config:
    made = Config(id=id)
    made.spec.annotations.name = id
    return made


# Sessions.


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
    await swarm.create(open_to_all, closed)

    async def attach(target: str) -> str:
        request = AttachNetworkRequest(session_id=agent.session_id, container_id="c1", container_name="db")
        request.attachment.target = target
        request.attachment.aliases.append("store")
        return (await agent.call(agent.stub.AttachNetwork(request))).task_id

    place = swarm.store.tasks.get(await attach("open"))
    assert place is not None
    assert (place.node_id, place.attachment_of, task_name(place), place.service_id) == ("w1", "c1", "db", "")
    assert [(one.target, list(one.aliases)) for one in place.spec.networks] == [("open", ["store"])]
    with pytest.raises(FailedPrecondition, match="not manually attachable"):
        await attach("closed")
    with pytest.raises(NotFound, match="network missing not found"):
        await attach("missing")


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


# Assignments.


async def test_a_store_that_is_replaced_is_told_anew(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).join()
    snapshot = swarm.store.snapshot()()
    await swarm.create(task("t2", "w1"))
    await agent.until(lambda: agent.held.ids("task") == {"t1", "t2"})
    swarm.store.restore(snapshot, swarm.store.index)
    assert isinstance(await agent.ending(agent.assignments_stream), Unavailable)
    await agent.listen()
    assert agent.held.ids("task") == {"t1"}
    await swarm.create(task("t3", "w1"))
    await agent.until(lambda: agent.held.ids("task") == {"t1", "t3"})
    assert swarm.state("w1") == READY


async def test_first_everything_then_changes(swarm: Swarm) -> None:
    await swarm.create(network("n1"), service("web", "n1"), task("t1", "w1", "n1"), task("t2", "w2", "n1"))
    agent = await (await swarm.node("w1")).join()
    await (await swarm.node("w2")).connect()
    first = agent.messages[0]
    assert (first.type, first.applies_to, first.results_in) == (AssignmentsMessage.TYPE_COMPLETE, 0, 1)
    assert agent.held.ids("task") == {"t1"}
    assert agent.held.ids("network") == {"n1"}
    assert agent.held.ids("service") == {"web"}
    await swarm.create(task("t3", "w1", "n1"))
    await agent.until(lambda: "t3" in agent.held.ids("task"))
    await swarm.change("t3", set_desired(SHUTDOWN))
    await agent.until(lambda: agent.held["task", "t3"].desired_state == SHUTDOWN)
    await swarm.remove("t3")
    await agent.until(lambda: agent.held.ids("task") == {"t1"})
    assert all(message.type == AssignmentsMessage.TYPE_INCREMENTAL for message in agent.messages[1:])


async def test_a_worker_that_asks_again_gets_everything_anew(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).join()
    await swarm.create(task("t2", "w1"))
    await agent.until(lambda: len(agent.held) == 2)
    stream = agent.assignments_stream
    await agent.listen()
    assert agent.messages[-1].type == AssignmentsMessage.TYPE_COMPLETE
    assert agent.held.ids("task") == {"t1", "t2"}
    assert isinstance(await agent.ending(stream), FailedPrecondition)


async def stopping(swarm: Swarm) -> list[Agent]:
    """A task on w1 that three nodes can send to was just told to stop; w3 has not let go of it."""
    agents = [await (await swarm.node(f"w{n}")).join() for n in (1, 2, 3)]
    await swarm.create(network("n1"), service("web", "n1"), *(task(f"t{n}", f"w{n}", "n1") for n in (1, 2, 3)))
    for agent in agents:
        await agent.until(lambda agent=agent: agent.held.ids("peer") == {"t1", "t2", "t3"})
    await agents[0].report({"t1": RUNNING})
    for agent in agents:
        await agent.until(lambda agent=agent: agent.held["peer", "n1", "t1"].ready)
    agents[2].confirms = False
    await swarm.change("t1", set_desired(SHUTDOWN))
    for agent in agents:
        await agent.until(lambda agent=agent: not agent.held["peer", "n1", "t1"].ready)
    return agents


async def test_a_task_hears_of_its_end_when_nobody_sends_to_it_any_longer(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "LIMIT", 10_000)
    own, other, slow = await stopping(swarm)
    # More goes through its own stream meanwhile, but not that.
    await swarm.create(task("t4", "w1", "n1"))
    await own.until(lambda: "t4" in own.held.ids("task"))
    assert own.held["task", "t1"].desired_state == RUNNING
    await slow.confirm(slow.messages[-1].results_in)
    await own.until(lambda: own.held["task", "t1"].desired_state == SHUTDOWN)
    assert not any(message.confirm for message in other.messages[:2])


async def test_a_node_that_goes_or_says_nothing_keeps_no_task_from_its_end(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "LIMIT", 10_000)
    own, _, silent = await stopping(swarm)
    assert own.held["task", "t1"].desired_state == RUNNING
    await silent.drop()
    await own.until(lambda: own.held["task", "t1"].desired_state == SHUTDOWN)
    monkeypatch.setattr(withdrawals, "LIMIT", 0.01)
    own.confirms = False
    await swarm.create(task("t5", "w1", "n1"))
    await own.report({"t5": RUNNING})
    await swarm.change("t5", set_desired(SHUTDOWN))
    await own.until(lambda: ("task", "t5") in own.held and own.held["task", "t5"].desired_state == SHUTDOWN)


async def test_a_service_that_is_gone_has_nobody_to_wait_for(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).join()
    agent.confirms = False
    await swarm.create(network("n1"), task("t1", "w1", "n1"))
    await agent.report({"t1": RUNNING})
    await swarm.change("t1", set_desired(SHUTDOWN))
    await agent.until(lambda: ("task", "t1") in agent.held and agent.held["task", "t1"].desired_state == SHUTDOWN)
    assert not any(message.confirm for message in agent.messages)


async def test_peers_of_encrypted_networks_come_with_their_nodes_keys(swarm: Swarm) -> None:
    secret = network("n2")
    secret.spec.driver.options["encrypted"] = ""
    await swarm.create(network("n1"), secret)
    here, there = [await (await swarm.node(f"w{n}")).join() for n in (1, 2)]
    described = NodeDescription(data_path_address="10.1.0.2", tunnel_keys=[TunnelKey(public_key=b"old", generation=1)])
    await there.heartbeat(described)
    await swarm.create(*(task(f"t{node}{net}", f"w{node}", f"n{net}") for node in (1, 2) for net in (1, 2)))
    await here.until(lambda: here.held.ids("peer") == {"t11", "t12", "t21", "t22"})
    await here.until(lambda: [key.public_key for key in here.held["peer", "n2", "t22"].tunnel_keys] == [b"old"])
    assert not here.held["peer", "n1", "t21"].tunnel_keys
    # It gets another key, and everybody who shares the network hears of it.
    described.tunnel_keys.add(public_key=b"new", generation=2)
    await there.heartbeat(described)
    await here.until(lambda: len(here.held["peer", "n2", "t22"].tunnel_keys) == 2)
    assert here.held["peer", "n2", "t22"].vtep == "10.1.0.2"
    assert not here.held["peer", "n1", "t21"].tunnel_keys


async def test_a_sick_task_answers_to_no_name(swarm: Swarm) -> None:
    await swarm.create(network("n1"), service("web", "n1"), task("t1", "w1", "n1"))
    agent = await (await swarm.node("w1")).join()
    await agent.report({"t1": RUNNING})
    await agent.until(lambda: agent.held["peer", "n1", "t1"].ready)
    sick = TaskStatus(state=RUNNING, message="running", error="unhealthy")
    sick.container.unhealthy = True
    await agent.send([UpdateTaskStatusRequest.Update(task_id="t1", status=sick)])
    await agent.until(lambda: not agent.held["peer", "n1", "t1"].ready)


async def test_own_reports_are_not_echoed(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).join()
    await agent.report({"t1": TaskState.TASK_STATE_PREPARING})
    await agent.report({"t1": RUNNING})
    await swarm.create(task("t2", "w1"))
    await agent.until(lambda: "t2" in agent.held.ids("task"))
    assert [len(message.changes) for message in agent.messages] == [1, 1]


async def test_secrets_and_configs_only_go_where_they_are_needed(swarm: Swarm) -> None:
    await swarm.create(secret("s1"), secret("s2"), config("k1"))
    needy, other = await (await swarm.node("w1")).join(), await (await swarm.node("w2")).join()
    await swarm.create(
        task("t1", "w1", secrets=["s1"], configs=["k1"]), task("t2", "w1", secrets=["s1"]), task("t3", "w2")
    )
    await needy.until(lambda: needy.held.ids("task") == {"t1", "t2"})
    assert needy.held.ids("secret") == {"s1"}
    assert needy.held["secret", "s1"].spec.data == b"hidden"
    assert needy.held.ids("config") == {"k1"}
    await swarm.change("s1", lambda secret: secret.spec.annotations.labels.update(a="b"), "secrets")
    await needy.until(lambda: needy.held["secret", "s1"].spec.annotations.labels == {"a": "b"})
    # They stay until the last task that needs them has ended.
    await needy.report({"t1": TaskState.TASK_STATE_FAILED})
    await needy.until(lambda: not needy.held.ids("config"))
    assert needy.held.ids("secret") == {"s1"}
    await needy.report({"t2": TaskState.TASK_STATE_FAILED})
    await needy.until(lambda: not needy.held.ids("secret"))
    assert needy.held.ids("task") == {"t1", "t2"}
    await other.until(lambda: other.held.ids("task") == {"t3"})
    assert not any(other.held.ids(kind) for kind in ("secret", "config"))
    assert all(change.WhichOneof("item") == "task" for message in other.messages for change in message.changes)


async def test_peers_follow_the_tasks_of_a_network(swarm: Swarm) -> None:
    here, there, stranger = [await (await swarm.node(f"w{n}")).join() for n in (1, 2, 3)]
    await swarm.create(network("n1"), service("web", "n1"), task("t1", "w1", "n1"), task("t9", "w3"))
    await here.until(lambda: "t1" in here.held.ids("peer"))
    await swarm.create(task("t2", "w2", "n1"))
    await here.until(lambda: here.held.ids("peer") == {"t1", "t2"})
    await there.until(lambda: there.held.ids("task") == {"t2"})
    assert there.held.ids("peer") == {"t1", "t2"}
    peer = here.held["peer", "n1", "t2"]
    assert (peer.vtep, peer.node_id, peer.ready) == ("10.1.0.2", "w2", False)
    assert (peer.task_name, peer.service_name, peer.slot) == ("web.1.t2", "web", 1)
    assert here.held["service", "n1", "web"].virtual_ip == "10.0.1.250/24"
    await there.report({"t2": RUNNING})
    await here.until(lambda: here.held["peer", "n1", "t2"].ready)
    # Told to stop, it is out of the names but can be reached; its end withdraws it.
    await swarm.change("t2", set_desired(SHUTDOWN))
    await here.until(lambda: not here.held["peer", "n1", "t2"].ready)
    await there.report({"t2": SHUTDOWN})
    await here.until(lambda: here.held.ids("peer") == {"t1"})
    await there.until(lambda: not (there.held.ids("peer") | there.held.ids("network") | there.held.ids("service")))
    await stranger.until(lambda: stranger.held.ids("task") == {"t9"})
    assert not stranger.held.ids("peer")


async def test_a_changed_address_of_a_node_reaches_the_others(swarm: Swarm) -> None:
    here, there = await (await swarm.node("w1")).join(), await swarm.node("w2")
    await swarm.create(network("n1"), task("t1", "w1", "n1"), task("t2", "w2", "n1"))
    await here.until(lambda: len(here.held.ids("peer")) == 2)
    await there.connect(NodeDescription(data_path_address="10.9.9.9"))
    await here.until(lambda: here.held["peer", "n1", "t2"].vtep == "10.9.9.9")
    await swarm.remove("w2", "nodes")
    await here.until(lambda: here.held.ids("peer") == {"t1"})


async def test_a_storm_is_told_in_messages_of_a_hundred(swarm: Swarm) -> None:
    agent = await (await swarm.node("w1")).join()
    await swarm.create(*(task(f"t{n}", "w1") for n in range(250)))
    await agent.until(lambda: len(agent.held) == 250)
    sizes = [len(message.changes) for message in agent.messages]
    assert sum(sizes) == 250
    assert max(sizes) == 100
    assert len(sizes) == 4


async def test_assignments_need_the_current_session(swarm: Swarm) -> None:
    agent = await swarm.node("w1")
    await agent.connect()
    agent.sessions[-1].session_id = "other"
    with pytest.raises(FailedPrecondition, match="session 'other' of node w1 is over"):
        await agent.listen()


# Status.


async def test_a_report_is_in_the_store_when_it_is_answered(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).connect()
    await agent.report({"t1": RUNNING}, "started")
    status = swarm.store.tasks.get("t1").status
    assert (status.state, status.message, status.applied_by) == (RUNNING, "started", "m1")
    assert status.HasField("applied_at")


async def test_only_forward(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1", state=RUNNING))
    agent = await (await swarm.node("w1")).connect()
    entries = swarm.proposer.entries
    await agent.report({"t1": TaskState.TASK_STATE_PREPARING, "gone": RUNNING})
    await agent.report({"t1": RUNNING})
    assert swarm.proposer.entries == entries
    await agent.report({"t1": RUNNING}, "healthy")
    assert swarm.store.tasks.get("t1").status.message == "healthy"
    await agent.report({"t1": SHUTDOWN})
    await agent.report({"t1": RUNNING})
    await agent.report({"t1": SHUTDOWN}, "again")
    status = swarm.store.tasks.get("t1").status
    assert (status.state, status.message) == (SHUTDOWN, "")


async def test_only_its_own_tasks_and_only_states_of_a_worker(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"), task("t2", "w2"))
    agent = await (await swarm.node("w1")).connect()
    with pytest.raises(PermissionDenied, match="task t2 is not on node w1"):
        await agent.report({"t1": RUNNING, "t2": RUNNING})
    with pytest.raises(InvalidArgument, match="state of task t1 'ORPHANED': workers report ACCEPTED to REJECTED"):
        await agent.report({"t1": TaskState.TASK_STATE_ORPHANED})
    assert swarm.store.tasks.get("t1").status.state < RUNNING


async def test_many_reports_are_few_commits(swarm: Swarm) -> None:
    await swarm.create(*(task(f"t{n}", "w1") for n in range(250)))
    agent = await (await swarm.node("w1")).connect()
    entries = swarm.proposer.entries
    await agent.report({f"t{n}": RUNNING for n in range(250)})
    assert swarm.proposer.entries == entries + 2
    swarm.proposer.open.clear()
    reports = [asyncio.create_task(agent.report({f"t{n}": SHUTDOWN})) for n in range(20)]
    swarm.proposer.open.set()
    await asyncio.gather(*reports)
    assert {swarm.store.tasks.get(f"t{n}").status.state for n in range(20)} == {SHUTDOWN}


async def test_a_report_that_consensus_refuses_fails(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).connect()
    swarm.proposer.refuses = True
    with pytest.raises(Unavailable, match="no quorum"):
        await agent.report({"t1": RUNNING})
    swarm.proposer.refuses = False
    await agent.report({"t1": RUNNING})
    assert swarm.store.tasks.get("t1").status.state == RUNNING


async def test_long_texts_are_cut(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).connect()
    update = UpdateTaskStatusRequest.Update(task_id="t1")
    update.status.state = TaskState.TASK_STATE_REJECTED
    update.status.error = "x" * 3_000_000
    await agent.send([update])
    assert len(swarm.store.tasks.get("t1").status.error) == 4096
