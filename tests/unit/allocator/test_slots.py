"""Addresses that stay with a slot: over tasks, scalings and leaders, until the service goes or asks no longer."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from flota.manager.allocator.loop import Allocator
from flota.manager.clock import SystemClock
from flota.manager.store import LocalProposer, Store, Transaction
from flota.v1.objects_pb2 import Network, Node, Service, Task
from flota.v1.types_pb2 import IpamConfig, NodeState, TaskState

RUNNING, FAILED = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_FAILED


class World:
    """A store with a network "back" of six addresses, nodes n1 and n2, and an allocator at work."""

    def __init__(self) -> None:
        self.store = Store()
        LocalProposer(self.store)
        self.begin()

    def begin(self) -> None:
        self.work = asyncio.create_task(Allocator(self.store, SystemClock()).run())

    async def end(self) -> None:
        self.work.cancel()
        await asyncio.gather(self.work, return_exceptions=True)

    async def put(self, *things: Network | Node | Service | Task) -> None:
        def change(tx: Transaction) -> None:
            for thing in things:
                view = {Network: tx.networks, Node: tx.nodes, Service: tx.services, Task: tx.tasks}[type(thing)]
                stored = view.get(thing.id)  # type: ignore[attr-defined]
                if stored is None:
                    tx.create(thing)
                else:
                    thing.meta.CopyFrom(stored.meta)
                    tx.update(thing)

        await self.store.update(change)

    async def until(self, condition: Callable[[], bool]) -> None:
        with self.store.watch() as changes:
            async with asyncio.timeout(60):
                while not condition():
                    await changes.next()

    async def task(self, id: str, slot: int, service: str = "web", node: str = "") -> Task:
        """A new task; gives it back once it has addresses, or a reason why not."""
        made = Task(id=id, service_id=service, slot=slot, node_id=node, desired_state=RUNNING)
        stored = self.store.services.get(service)
        assert stored is not None
        made.spec.CopyFrom(stored.spec.task)
        made.status.state = TaskState.TASK_STATE_NEW
        await self.put(made)
        await self.until(lambda: bool(self.get(id).networks) or bool(self.get(id).status.message))
        return self.get(id)

    def get(self, id: str) -> Task:
        found = self.store.tasks.get(id)
        assert found is not None
        return found

    async def state(self, id: str, state: "TaskState.ValueType") -> None:
        task = Task.FromString(self.get(id).SerializeToString())
        task.status.state = state
        await self.put(task)

    async def service(self, replicas: int, stable: bool = True, id: str = "web", address: str = "") -> None:
        stored = self.store.services.get(id)
        service = Service(id=id) if stored is None else Service.FromString(stored.SerializeToString())
        service.spec.annotations.name = id
        service.spec.replicated.replicas = replicas
        del service.spec.task.networks[:]
        attachment = service.spec.task.networks.add(target="back", addresses=[address] if address else [])
        if stable:
            attachment.driver_options["stable-address"] = ""
        await self.put(service)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    network = Network(id="back")
    network.spec.annotations.name = "back"
    network.spec.ipam.append(IpamConfig(subnet="10.9.0.0/29"))
    nodes = [Node(id=id) for id in ("n1", "n2")]
    for node in nodes:
        node.status.state = NodeState.NODE_STATE_READY
    await world.put(network, *nodes)
    yield world
    await world.end()


def address(task: Task) -> str:
    return task.networks[0].addresses[0]


async def test_the_next_task_of_a_slot_has_the_same_address(world: World) -> None:
    await world.service(2)
    first, second = address(await world.task("a1", 1)), address(await world.task("a2", 2))
    assert first != second
    await world.state("a1", FAILED)
    await world.state("a2", FAILED)
    # The other way round, and with somebody else in between.
    await world.service(1, stable=False, id="other")
    assert address(await world.task("o1", 1, "other")) not in (first, second)
    assert address(await world.task("b2", 2)) == second
    assert address(await world.task("b1", 1)) == first

    # A new leader knows, and so does a slot that was scaled away.
    await world.state("b2", FAILED)
    await world.service(1)
    await world.end()
    world.begin()
    await world.service(2)
    assert address(await world.task("c2", 2)) == second


async def test_a_task_waits_for_its_predecessors_address(world: World) -> None:
    await world.service(1)
    had = address(await world.task("a", 1, node="n1"))
    await world.state("a", RUNNING)
    waiting = await world.task("b", 1)
    assert waiting.status.message == "waits until task a has ended, which has the addresses of slot 1"
    await world.state("a", FAILED)
    await world.until(lambda: bool(world.get("b").networks))
    assert address(world.get("b")) == had


async def test_a_predecessor_on_a_node_that_is_down_is_not_waited_for(world: World) -> None:
    await world.service(1, stable=False, address="10.9.0.4")
    assert address(await world.task("a", 1, node="n1")) == "10.9.0.4/29"
    await world.state("a", RUNNING)
    await world.task("b", 1)
    assert not world.get("b").networks
    down = Node(id="n1")
    down.status.state = NodeState.NODE_STATE_DOWN
    await world.put(down)
    await world.until(lambda: bool(world.get("b").networks))
    assert address(world.get("b")) == "10.9.0.4/29"


async def test_addresses_come_back_with_the_service_but_not_while_a_task_has_them(world: World) -> None:
    # Five can be given: two virtual addresses, and one for each of three slots.
    await world.service(3)
    had = [address(await world.task(f"a{slot}", slot)) for slot in (1, 2, 3)]
    await world.service(1, stable=False, id="other")
    refused = await world.task("o", 1, "other")
    assert refused.status.error == "no free address in 10.9.0.0/29 of network back (all 6 are in use)"
    # It asks no longer: the addresses are its tasks' now, and come back one by one as those end.
    await world.service(3, stable=False)
    await world.until(lambda: not world.store.services.get("web").slot_addresses)  # type: ignore[union-attr]
    assert not world.get("o").networks
    await world.state("a2", FAILED)
    await world.until(lambda: bool(world.get("o").networks))
    assert address(world.get("o")) == had[1]


async def test_that_nothing_is_free_is_told_when_it_is_the_service_that_needs_it(world: World) -> None:
    await world.service(5)
    await world.task("a1", 1)
    await world.service(1, stable=False, id="late")
    refused = await world.task("l", 1, "late")
    assert refused.status.error == "no free address in 10.9.0.0/29 of network back (all 6 are in use)"
