"""Everything at once, seeded: nodes die, drain, come back and lose labels, tasks refuse and crash, leaders change,
users create, scale, update, roll back and remove. The rules of `world.check` hold after every transaction, and when
the faults stop, every service converges.

`FLOTA_SEEDS=2000 pytest …` runs more seeds (`make soak` does).
"""

import asyncio
import os
from random import Random

import pytest

from flota.manager.constraint import node_fits
from flota.manager.orchestrator.tasks import must_leave
from flota.v1.objects_pb2 import Service
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import (
    NodeAvailability,
    NodeState,
    PlacementStrategy,
    RebalancePolicy,
    TaskState,
    UpdateConfig,
    UpdateStatus,
)
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run

SEEDS = range(int(os.environ.get("FLOTA_SEEDS", "25")))
GIB = 1 << 30
ZONES = ("east", "west", "north")


def some_spec(rng: Random, number: int, network_id: str) -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = f"service{number}"
    task = spec.task
    task.container.image = "app:1"
    task.restart.delay.FromMilliseconds(rng.choice([0, 500, 5000]))
    if rng.random() < 0.7:
        task.networks.add(target=network_id)
    if rng.random() < 0.3:
        task.placement.constraints.append(f"node.labels.zone{rng.choice(['==', '!='])}{rng.choice(ZONES)}")
    if rng.random() < 0.4:
        task.placement.preferences.add().spread.descriptor = "node.labels.zone"
    if rng.random() < 0.4:
        task.resources.reservations.nano_cpus = rng.choice([500_000_000, 10**9])
    if rng.random() < 0.3:
        task.resources.reservations.memory_bytes = rng.choice([1, 2]) * GIB
    if rng.random() < 0.15:
        task.resources.reservations.generic.add(kind="gpu", count=1)
    if rng.random() < 0.2:
        spec.endpoint.ports.add(target_port=80, published_port=8000 + number, publish_mode=rng.choice([0, 1]))
    if rng.random() < 0.25:
        getattr(spec, "global").SetInParent()
    else:
        spec.replicated.replicas = rng.randint(0, 8)
        task.placement.max_replicas = rng.choice([0, 0, 0, 2])
    for config in (spec.update, spec.rollback):
        config.parallelism = rng.randint(0, 3)
        config.delay.FromMilliseconds(rng.choice([0, 0, 1500]))
        config.monitor.FromMilliseconds(rng.choice([0, 2000]))
        config.order = rng.choice([UpdateConfig.ORDER_STOP_FIRST] * 2 + [UpdateConfig.ORDER_START_FIRST])
        config.failure_action = rng.choice([0, 1, 2])
        config.max_failure_ratio = rng.choice([0, 0.3])
    spec.rollback.failure_action = UpdateConfig.FAILURE_ACTION_CONTINUE
    spec.rebalance = rng.choice(
        [0, 0, RebalancePolicy.REBALANCE_POLICY_ON_JOIN, RebalancePolicy.REBALANCE_POLICY_ALWAYS]
    )
    if rng.random() < 0.15:
        spec.task.placement.strategy = PlacementStrategy.PLACEMENT_STRATEGY_BINPACK
    if number > 1 and rng.random() < 0.15:
        spec.task.placement.constraints.append(f"service.service{number - 1}==other-node")
    if number > 1 and rng.random() < 0.2:
        spec.depends_on.add(service=f"service{rng.randrange(1, number)}", condition=rng.choice([0, 1]))
    return spec


class Chaos:
    """What users and misfortune do to a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = Random(world.seed * 7919 + 1)
        self.created = 0

    async def act(self) -> None:
        """One random thing."""
        actions = [
            self.create, self.create, self.scale, self.new_image, self.roll_back, self.remove, self.kill, self.kill,
            self.revive, self.revive, self.availability, self.label, self.new_leader, self.stop_or_start,
        ]  # fmt: skip
        await self.rng.choice(actions)()

    def _service(self) -> Service | None:
        services = sorted(self.world.store.services, key=lambda service: service.id)
        return self.rng.choice(services) if services else None

    def _node(self, state: "NodeState.ValueType") -> str | None:
        nodes = sorted(node.id for node in self.world.store.nodes if node.status.state == state)
        return self.rng.choice(nodes) if nodes else None

    async def create(self) -> None:
        if len(self.world.store.services) < 6:
            self.created += 1
            await self.world.create(some_spec(self.rng, self.created, self.world.network.id))

    async def scale(self) -> None:
        service = self._service()
        if service is not None and service.spec.HasField("replicated"):
            await self.world.update(
                service.id, lambda spec: setattr(spec.replicated, "replicas", self.rng.randint(0, 10))
            )

    async def new_image(self) -> None:
        service = self._service()
        if service is not None:
            image = f"app:{self.world.store.index}"
            await self.world.update(service.id, lambda spec: setattr(spec.task.container, "image", image))

    async def roll_back(self) -> None:
        service = self._service()
        if service is not None and service.HasField("previous_spec"):
            await self.world.roll_back(service.id)

    async def stop_or_start(self) -> None:
        service = self._service()
        if service is not None:
            await self.world.update(service.id, lambda spec: setattr(spec, "stopped", not spec.stopped))

    async def remove(self) -> None:
        service = self._service()
        if service is not None and self.rng.random() < 0.4:
            await self.world.remove(service.id)

    async def kill(self) -> None:
        node_id = self._node(NodeState.NODE_STATE_READY)
        if node_id is not None:
            await self.world.kill(node_id)

    async def revive(self) -> None:
        node_id = self._node(NodeState.NODE_STATE_DOWN)
        if node_id is not None:
            await self.world.revive(node_id)

    async def availability(self) -> None:
        node_id = self.rng.choice(sorted(self.world.agents))
        to = self.rng.choice([NodeAvailability.NODE_AVAILABILITY_ACTIVE] * 2 + [1, 2])
        await self.world.set_availability(node_id, to)

    async def label(self) -> None:
        node_id, zone = self.rng.choice(sorted(self.world.agents)), self.rng.choice(ZONES)
        await self.world.change_node(node_id, lambda node: node.spec.annotations.labels.update(zone=zone))

    async def new_leader(self) -> None:
        self.world.stop_leader()
        await asyncio.sleep(self.rng.uniform(0, 3))
        self.world.start_leader()

    async def peace(self) -> None:
        """The faults stop: all nodes are there and take tasks, paused updates are begun again."""
        world = self.world
        world.faults = Faults(step=world.faults.step, stop=world.faults.stop)
        world.ledger.fails = 0.0
        for node in list(world.store.nodes):
            if node.status.state == NodeState.NODE_STATE_DOWN:
                await world.revive(node.id)
            await world.set_availability(node.id, NodeAvailability.NODE_AVAILABILITY_ACTIVE)
        for service in list(world.store.services):

            def again(spec: ServiceSpec) -> None:
                spec.task.force_update = world.store.index
                spec.stopped = False

            await world.update(service.id, again)


def converged(world: World, service: Service) -> bool:
    """Whether a service is what it asks for, as far as nodes allow."""
    up = world.up(service.id)
    if service.waits_for:
        return True
    eligible = {
        node.id
        for node in world.store.nodes
        if not must_leave(node) and node_fits(service.spec.task.placement.constraints, node)
    }
    waiting = [
        t
        for t in world.tasks(service.id)
        if t.status.state <= TaskState.TASK_STATE_PENDING and t.desired_state <= TaskState.TASK_STATE_RUNNING
    ]
    # New tasks that no node can take hold an update up, as parallelism says: then old ones may go on running.
    if not waiting and any(t.spec_version != service.spec_version for t in up):
        return False
    if any("no suitable node" not in t.status.message and "in use" not in t.status.message for t in waiting):
        return False
    if service.spec.HasField("replicated"):
        slots = [t.slot for t in up] + [t.slot for t in waiting]
        # A start-first update that waits for room has two wanted tasks in a slot; so has a move that has not ended.
        return len(set(slots)) == service.spec.replicated.replicas and bool(waiting or len(slots) == len(set(slots)))
    return {t.node_id for t in up + waiting} == eligible and bool(waiting or len(up) == len(eligible))


async def storm(seed: int) -> None:
    faults = Faults(refuses=0.05, crash_after=40.0)
    world = World(seed, faults)
    world.ledger.latency, world.ledger.fails = (0.001, 0.02), 0.02
    async with world.alive(5, cpus=6, memory=8 * GIB):
        chaos = Chaos(world)
        for _ in range(60):
            await chaos.act()
            await asyncio.sleep(chaos.rng.expovariate(1 / 3.0))
        await chaos.peace()
        await world.until(lambda: all(converged(world, service) for service in world.store.services), within=1200)

        # Nothing that should be gone is left, on any node.
        def nothing_left() -> bool:
            known = {t.id for service in world.store.services for t in world.up(service.id)}
            return all(agent.running <= known for agent in world.agents.values())

        await world.until(nothing_left, within=120)
        in_progress = {UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_ROLLBACK_STARTED}
        index = world.store.index
        stuck = [
            t for t in world.store.tasks
            if t.status.state <= TaskState.TASK_STATE_PENDING and t.desired_state <= TaskState.TASK_STATE_RUNNING
        ]  # fmt: skip
        if not stuck:
            await world.until(
                lambda: not any(service.update_status.state in in_progress for service in world.store.services), 120
            )
            # Rebalancing looks every few seconds, and ends when there is nothing left to move.
            await asyncio.sleep(120)
            index = world.store.index
            await asyncio.sleep(600)
            assert world.store.index == index, "a converged cluster writes nothing"
        # Never more containers than slots, but for start-first.
        for service in world.store.services:
            if service.spec.HasField("replicated") and service.spec.update.order == UpdateConfig.ORDER_STOP_FIRST:
                assert world.rules.most_running[service.id] <= 10


@pytest.mark.parametrize("seed", SEEDS)
def test_rules_hold_in_a_storm_and_services_converge_after_it(seed: int) -> None:
    run(storm(seed))
