"""The index of what nodes need: after any history, what was told in changes is what a complete set would say."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from random import Random
from typing import Any

import pytest

from flota.manager.dispatcher.assignments import Assignments, Key, Urgency
from flota.manager.store import LocalProposer, Store, Transaction
from flota.v1.dispatcher_pb2 import AssignmentsMessage
from flota.v1.objects_pb2 import Config, Network, Node, Secret, Service, Task
from flota.v1.types_pb2 import EndpointSpec, NodeState, PortConfig, TaskState
from tests.unit.dispatcher.swarm import ASSIGNED, DOWN, RUNNING, Held, network, service, task

PENDING, STARTING, READY = TaskState.TASK_STATE_PENDING, TaskState.TASK_STATE_STARTING, TaskState.TASK_STATE_READY
READY_NODE = NodeState.NODE_STATE_READY
INGRESS, HOST = PortConfig.PUBLISH_MODE_INGRESS, PortConfig.PUBLISH_MODE_HOST
COMPLETE, SHUTDOWN = TaskState.TASK_STATE_COMPLETE, TaskState.TASK_STATE_SHUTDOWN
STATES = [PENDING, ASSIGNED, READY, STARTING, RUNNING, COMPLETE, SHUTDOWN, TaskState.TASK_STATE_FAILED]
NODES = ["w1", "w2", "w3"]


class Loose(Held):
    checks = False


class World:
    """A store, the index over it, and workers that take what was touched when they get round to it."""

    def __init__(self) -> None:
        self.store = Store()
        LocalProposer(self.store)
        self.changes = self.store.watch()
        self.touched: dict[str, dict[Key, None]] = defaultdict(dict)
        self.touches: list[tuple[set[str], Key, Urgency]] = []
        self.assignments = Assignments(self.store, self.touch)
        self.held: dict[str, Held] = defaultdict(Loose)

    def touch(self, nodes: Collection[str], keys: Iterable[Key], urgency: Urgency) -> None:
        for key in keys:
            self.touches.append((set(nodes), key, urgency))
            for node_id in nodes:
                self.touched[node_id][key] = None

    async def put(self, *things: Any) -> None:
        """Create or update, and let the index know."""

        def change(tx: Transaction) -> None:
            for thing in things:
                name = type(thing).__name__.lower()
                stored = getattr(tx, f"{name}s").get(thing.id)
                if stored is None:
                    tx.create(thing)
                else:
                    thing.meta.CopyFrom(stored.meta)
                    tx.update(thing)

        await self.store.update(change)
        self.assignments.note(self.changes.drain())

    async def alter(self, task_id: str, change: Callable[[Task], None]) -> None:
        altered = Task()
        stored = self.store.tasks.get(task_id)
        assert stored is not None
        altered.CopyFrom(stored)
        change(altered)
        await self.put(altered)

    async def remove(self, thing: Any) -> None:
        table = f"{type(thing).__name__.lower()}s"
        await self.store.update(lambda tx: tx.remove(getattr(tx, table).get(thing.id)))
        self.assignments.note(self.changes.drain())

    def tell(self, node_id: str) -> Held:
        """The worker takes everything that waits for it."""
        held = self.held[node_id]
        keys, self.touched[node_id] = self.touched[node_id], {}
        order = ["network", "secret", "config", "service", "peer", "task"]
        message = AssignmentsMessage(type=AssignmentsMessage.TYPE_INCREMENTAL, applies_to=held.sequence)
        message.results_in = held.sequence + 1
        for key in sorted(keys, key=lambda key: order.index(key[0])):
            message.changes.append(self.assignments.change(node_id, key))
        held.take(message)
        return held

    def anew(self, node_id: str) -> Held:
        """What a complete set of a fresh index says."""
        fresh = Assignments(self.store, lambda nodes, keys, urgency: None)
        message = AssignmentsMessage(changes=fresh.complete(node_id), results_in=1)
        held = Loose()
        held.take(message)
        return held


def comparable(held: Held) -> dict[tuple[str, ...], Any]:
    """Without what workers are not told again: the status they reported, and what the store keeps beside it."""
    result: dict[tuple[str, ...], Any] = {}
    for key, thing in held.items():
        if key[0] == "task":
            copy = Task()
            copy.CopyFrom(thing)
            copy.ClearField("status")
            copy.ClearField("meta")
            result[key] = copy
        else:
            result[key] = thing
    return result


def ingress() -> Network:
    """The ingress network, with its subnet."""
    made = network("n0")
    made.spec.ingress = True
    made.ipam.add(subnet="10.0.0.0/24", gateway="10.0.0.1")
    return made


def publishing(id: str, *modes: "PortConfig.PublishMode.ValueType") -> Service:
    """A service with an endpoint and a port of each mode."""
    made = Service(id=id)
    made.spec.annotations.name = id
    for number, mode in enumerate(modes):
        made.endpoint.ports.add(target_port=80, published_port=8080 + number, publish_mode=mode)
    made.endpoint.spec.ports.extend(made.endpoint.ports)
    return made


async def step(world: World, rng: Random) -> None:
    """Something happens in the cluster."""
    store = world.store
    tasks = list(store.tasks)
    dice = rng.random()
    if dice < 0.3 or not tasks:
        made = task(
            f"t{rng.randrange(1000)}", "", rng.choice(["n0", "n1", "n2", "n3", ""]),
            state=PENDING, service_id=rng.choice(["s1", "s2"]),
            secrets=rng.sample(["a", "b", "c"], rng.randrange(3)), configs=rng.sample(["d", "e"], rng.randrange(2)),
        )  # fmt: skip
        if store.tasks.get(made.id) is None:
            await world.put(made)
    elif dice < 0.7:
        chosen = rng.choice(tasks)

        def advance(task: Task) -> None:
            task.node_id = task.node_id or rng.choice(NODES)
            later = [state for state in STATES if state > task.status.state]
            task.status.state = rng.choice(later[:3] or [task.status.state])
            if rng.random() < 0.3:
                task.desired_state = SHUTDOWN

        await world.alter(chosen.id, advance)
    elif dice < 0.78:
        await world.remove(rng.choice(tasks))
    elif dice < 0.84:
        thing = rng.choice([Secret, Config])(id=rng.choice("abcde"))
        thing.spec.annotations.labels["v"] = str(rng.random())
        await world.put(thing)
    elif dice < 0.88:
        thing = network(rng.choice(["n1", "n2", "n3"]))
        thing.vni = rng.randrange(5000)
        await world.put(thing)
    elif dice < 0.93:
        made_service = service(rng.choice(["s1", "s2"]), rng.choice(["n1", "n2"]), f"10.0.1.{rng.randrange(250)}/24")
        if rng.random() < 0.3:
            made_service.endpoint.spec.mode = EndpointSpec.MODE_DNSRR
        if rng.random() < 0.5:
            made_service.endpoint.ports.add(target_port=80, published_port=rng.choice([80, 81]))
        await world.put(made_service)
    elif dice < 0.965:
        node = Node(id=rng.choice(NODES))
        node.description.data_path_address = rng.choice(["", "10.1.0.1", "10.1.0.2"])
        node.status.state = rng.choice([READY_NODE, READY_NODE, DOWN])
        await world.put(node)
    elif dice < 0.97:
        mesh = store.networks.get("n0")
        await (world.put(ingress()) if mesh is None else world.remove(mesh))
    else:
        table = rng.choice([store.nodes, store.services, store.secrets, store.configs])
        gone = next(iter(table), None)
        if gone is not None:
            await world.remove(gone)


@pytest.mark.parametrize("seed", range(30))
async def test_changes_add_up_to_the_complete_set(seed: int) -> None:
    rng = Random(seed)
    world = World()
    for name in ("n1", "n2", "n3"):
        await world.put(network(name))
    for name in ("a", "b", "c"):
        await world.put(Secret(id=name))
    for name in ("d", "e"):
        await world.put(Config(id=name))
    for node_id in NODES:
        await world.put(Node(id=node_id))
    for _ in range(200):
        await step(world, rng)
        for node_id in NODES:
            # Workers take what waits at their own pace.
            if rng.random() < 0.3:
                assert comparable(world.tell(node_id)) == comparable(world.anew(node_id))


async def ready_world() -> World:
    world = World()
    for node_id in NODES:
        await world.put(Node(id=node_id))
    await world.put(network("n1"), service("web", "n1"))
    await world.put(task("t1", "w1", "n1", state=RUNNING), task("t2", "w2", "n1", state=STARTING))
    world.touches.clear()
    return world


async def test_an_event_touches_nobody_whom_it_does_not_concern() -> None:
    world = await ready_world()
    await world.alter("t2", lambda task: setattr(task.status, "message", "still pulling"))
    await world.alter("t2", lambda task: setattr(task.status, "message", "nearly there"))
    await world.put(Node(id="w3"))
    await world.put(Secret(id="nobodys"))
    assert world.touches == []
    await world.alter("t2", lambda task: setattr(task.status, "state", RUNNING))
    assert world.touches == [({"w1", "w2"}, ("peer", "n1", "t2"), Urgency.SPREAD)]


async def test_a_task_told_to_stop_is_withdrawn_from_others_at_once() -> None:
    world = await ready_world()
    await world.alter("t1", lambda task: setattr(task, "desired_state", SHUTDOWN))
    assert world.touches == [
        ({"w1", "w2"}, ("peer", "n1", "t1"), Urgency.WITHDRAWN),
        ({"w1"}, ("task", "t1"), Urgency.STOP),
    ]
    assert world.assignments.senders("t1") == {node: [("peer", "n1", "t1")] for node in ("w1", "w2")}
    # A job's task is wanted COMPLETE from the start, and answers to its name nevertheless.
    await world.alter("t2", lambda task: setattr(task, "desired_state", COMPLETE))
    await world.alter("t2", lambda task: setattr(task.status, "state", RUNNING))
    assert world.tell("w1")["peer", "n1", "t2"].ready


async def test_a_service_without_a_common_address_is_known_by_name() -> None:
    world = await ready_world()
    plain = Service(id="rr")
    plain.spec.annotations.name = "rr"
    plain.spec.task.networks.add(target="n1")
    plain.endpoint.spec.mode = EndpointSpec.MODE_DNSRR
    await world.put(plain)
    told = world.tell("w1")["service", "n1", "rr"]
    assert (told.service_name, told.virtual_ip, told.mode) == ("rr", "", EndpointSpec.MODE_DNSRR)
    # One that the allocator has not seen yet is not.
    unallocated = Service(id="new")
    unallocated.spec.task.networks.add(target="n1")
    await world.put(unallocated)
    assert "new" not in world.tell("w1").ids("service")


async def test_a_task_that_managers_ended_stays_with_its_worker() -> None:
    world = await ready_world()
    await world.alter("t1", lambda task: setattr(task.status, "state", TaskState.TASK_STATE_REJECTED))
    await world.alter("t1", lambda task: setattr(task, "desired_state", SHUTDOWN))
    held = world.tell("w1")
    assert held["task", "t1"].desired_state == SHUTDOWN
    assert held.ids("network") == set()
    assert world.anew("w1").ids("task") == {"t1"}


async def mesh_world(*, encrypted: bool = False) -> World:
    """w1 and w2 are READY, w3 is DOWN; there is an ingress network, and nobody publishes a port."""
    world = World()
    for number, state in enumerate([READY_NODE, READY_NODE, DOWN], 1):
        node = Node(id=f"w{number}")
        node.description.data_path_address = f"10.1.0.{number}"
        node.status.state = state
        await world.put(node)
    mesh = ingress()
    if encrypted:
        mesh.spec.driver.options["encrypted"] = ""
    await world.put(mesh)
    world.touches.clear()
    return world


async def test_while_a_service_publishes_a_port_every_node_takes_part_in_the_mesh() -> None:
    world = await mesh_world()
    await world.put(publishing("host", HOST), network("n1"), service("plain", "n1"))
    assert world.touches == []
    await world.put(publishing("web", INGRESS, HOST), publishing("shop", INGRESS))
    for node_id in ("w1", "w2"):
        held = world.tell(node_id)
        assert held.ids("network") == {"n0"}
        assert held.ids("peer") == {"w1", "w2"}
        assert held.ids("service") == {"web", "shop"}
        assert held["peer", "n0", "w2"].vtep == "10.1.0.2"
        assert not held["peer", "n0", "w2"].addresses
        assert held == world.anew(node_id)
    assert world.tell("w3") == {}
    # The last one takes it away again.
    await world.remove(world.store.services.get("web"))
    assert world.tell("w1").ids("service") == {"shop"}
    await world.put(publishing("shop", HOST))
    assert world.tell("w1") == world.tell("w2") == {}


async def test_nodes_on_an_encrypted_mesh_know_each_others_keys() -> None:
    world = await mesh_world(encrypted=True)
    node = Node(id="w2")
    node.description.data_path_address = "10.1.0.2"
    node.description.tunnel_keys.add(public_key=b"key", generation=1)
    node.status.state = READY_NODE
    await world.put(node, publishing("web", INGRESS))
    assert [key.public_key for key in world.tell("w1")["peer", "n0", "w2"].tunnel_keys] == [b"key"]


async def test_a_node_that_goes_down_leaves_the_mesh_and_comes_back() -> None:
    world = await mesh_world()
    await world.put(publishing("web", INGRESS))
    await world.put(task("t1", "w2", "n0", state=RUNNING))
    for node_id in ("w1", "w2"):
        world.tell(node_id)

    def state(node_id: str, state: "NodeState.ValueType", address: str = "10.1.0.2") -> Node:
        node = Node(id=node_id)
        node.description.data_path_address = address
        node.status.state = state
        return node

    # What it was told stays while it merely is not heard of.
    world.touches.clear()
    for brief in (NodeState.NODE_STATE_DISCONNECTED, NodeState.NODE_STATE_UNKNOWN, READY_NODE):
        await world.put(state("w2", brief))
    assert world.touches == []
    await world.put(state("w2", DOWN))
    assert world.tell("w1").ids("peer") == {"w1", "t1"}
    await world.put(state("w2", READY_NODE, "10.1.0.9"))
    held = world.tell("w1")
    assert held.ids("peer") == {"w1", "w2", "t1"}
    assert held["peer", "n0", "w2"].vtep == held["peer", "n0", "t1"].vtep == "10.1.0.9"
    assert comparable(world.tell("w2")) == comparable(world.anew("w2"))
