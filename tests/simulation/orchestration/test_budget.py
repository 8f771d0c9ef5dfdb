"""Seeded: updates, drains and nodes that come, in any order, on a cluster without faults.

At every step a service has as many running slots as its configuration promises: all of them when it starts first, all
but `parallelism` when its updates stop first; and never more wanted tasks than slots, but for those that take over.
"""

import asyncio
import os
from random import Random

import pytest

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import NodeAvailability, RebalancePolicy, TaskState, UpdateConfig, UpdateStatus
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run

SEEDS = range(int(os.environ.get("FLOTA_SEEDS", "8")))
RUNNING = TaskState.TASK_STATE_RUNNING
REPLICAS = 6
DRAIN, ACTIVE = NodeAvailability.NODE_AVAILABILITY_DRAIN, NodeAvailability.NODE_AVAILABILITY_ACTIVE


def service(rng: Random, name: str, start_first: bool) -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = name
    spec.task.container.image = "app:1"
    spec.task.resources.reservations.nano_cpus = 500_000_000
    spec.replicated.replicas = REPLICAS
    spec.update.parallelism = rng.randint(1, 3)
    spec.update.delay.FromMilliseconds(rng.choice([0, 1000]))
    spec.update.monitor.FromMilliseconds(1000)
    spec.update.order = UpdateConfig.ORDER_START_FIRST if start_first else UpdateConfig.ORDER_STOP_FIRST
    spec.rebalance = rng.choice([RebalancePolicy.REBALANCE_POLICY_ON_JOIN, RebalancePolicy.REBALANCE_POLICY_ALWAYS])
    return spec


class Budget:
    """Looks at two services after every transaction."""

    def __init__(self, world: World, start_first: str, stop_first: str) -> None:
        self.world, self.start_first, self.stop_first = world, start_first, stop_first

    async def run(self) -> None:
        with self.world.store.watch() as changes:
            async for _ in changes:
                changes.drain()
                self.look()

    def look(self) -> None:
        for service_id, fewest in (
            (self.start_first, REPLICAS),
            (self.stop_first, REPLICAS - self.world.store.services.get(self.stop_first).spec.update.parallelism),
        ):
            tasks = [task for task in self.world.tasks(service_id) if task.status.state == RUNNING]
            slots = {task.slot for task in tasks}
            assert len(slots) >= fewest, f"{len(slots)} of {fewest}\n{self.world.picture()}"
            assert slots <= set(range(1, REPLICAS + 1))
            wanted = [task.slot for task in tasks if task.desired_state == RUNNING]
            assert all(wanted.count(slot) <= 2 for slot in slots), self.world.picture()

    def at_rest(self) -> bool:
        done = True
        for service_id in (self.start_first, self.stop_first):
            service = self.world.store.services.get(service_id)
            up = self.world.up(service_id)
            done = done and service.update_status.state not in (UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_PAUSED)
            done = done and sorted(task.slot for task in up) == list(range(1, REPLICAS + 1))
            done = done and all(task.spec_version == service.spec_version for task in up)
        return done


async def story(seed: int) -> None:
    rng = Random(seed * 31 + 7)
    world = World(seed, Faults(step=(0.01, 1.0), stop=(0.01, 3.0)))
    world.ledger.latency, world.ledger.fails = (0.001, 0.02), 0.02
    async with world.alive(4):
        ids = [await world.create(service(rng, name, name == "first")) for name in ("first", "second")]
        await world.until(lambda: all(len(world.up(id)) == REPLICAS for id in ids))
        budget = Budget(world, *ids)
        watching = asyncio.create_task(budget.run())
        for number in range(12):
            match rng.choice(["update", "update", "drain", "node", "leader"]):
                case "update":
                    image = f"app:{number + 2}"
                    await world.update(
                        rng.choice(ids), lambda spec, image=image: setattr(spec.task.container, "image", image)
                    )
                case "drain":
                    # Stop-first services are stopped first: their promise is about updates. One that stops for a drain
                    # is put somewhere else before anything is asked of it again.
                    await world.until(budget.at_rest)
                    drained = rng.choice(sorted(world.agents))
                    if any(task.node_id == drained for task in world.up(ids[1])):
                        continue
                    await world.set_availability(drained, DRAIN)
                    await asyncio.sleep(rng.uniform(0, 10))
                    await world.set_availability(drained, ACTIVE)
                case "node":
                    await world.add_node()
                case "leader":
                    world.stop_leader()
                    await asyncio.sleep(rng.uniform(0, 2))
                    world.start_leader()
            await asyncio.sleep(rng.uniform(0, 15))
            assert not watching.done(), watching.result()
        await world.until(budget.at_rest)
        assert not watching.done(), watching.result()
        watching.cancel()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_configuration_promises_runs_at_every_step(seed: int) -> None:
    run(story(seed))
