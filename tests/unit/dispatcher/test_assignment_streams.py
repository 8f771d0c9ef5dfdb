"""What workers are told over their assignments streams, by a real server over mutual TLS."""

import pytest

from flota.manager.dispatcher import withdrawals
from flota.rpc.errors import FailedPrecondition, Unavailable
from flota.v1.dispatcher_pb2 import AssignmentsMessage, UpdateTaskStatusRequest
from flota.v1.objects_pb2 import Config, NodeDescription, Secret
from flota.v1.types_pb2 import TaskState, TaskStatus, TunnelKey
from tests.unit.dispatcher.swarm import READY, RUNNING, Agent, Swarm, network, service, set_desired, task

SHUTDOWN = TaskState.TASK_STATE_SHUTDOWN


def secret(id: str) -> Secret:
    made = Secret(id=id)
    made.spec.annotations.name = id
    made.spec.data = b"hidden"
    return made


def config(id: str) -> Config:
    made = Config(id=id)
    made.spec.annotations.name = id
    return made


async def test_a_store_that_is_replaced_is_told_anew(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).join()
    snapshot = list(swarm.store.snapshot()())
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
