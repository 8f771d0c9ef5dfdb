"""Tasks that follow their local volumes (`--mount …,affinity=node`)."""

import asyncio

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import Mount, TaskState, Volume
from tests.simulation.orchestration.world import World
from tests.simulation.virtual_time import run

PENDING = TaskState.TASK_STATE_PENDING


def database(replicas: int, volume: str, *, follows: bool = True) -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = "db"
    spec.task.container.image = "db:1"
    spec.task.container.mounts.add(type=Mount.TYPE_VOLUME, source=volume, target="/data", volume_node_affinity=follows)
    spec.replicated.replicas = replicas
    spec.task.restart.delay.FromMilliseconds(100)
    return spec


async def report(world: World, node_id: str, *names: str) -> None:
    """The node has volumes."""
    await world.change_node(node_id, lambda node: node.description.volumes.extend(Volume(name=one) for one in names))


def nodes_of(world: World, service_id: str) -> list[str]:
    return [task.node_id for task in sorted(world.up(service_id), key=lambda task: task.slot)]


def test_a_task_stays_with_its_volume_even_if_it_has_to_wait_for_the_node() -> None:
    async def story() -> None:
        async with World(1).alive(5) as world:
            holder = list(world.agents)[1]
            await report(world, holder, "data")
            db = await world.create(database(1, "data"))
            await world.until(lambda: nodes_of(world, db) == [holder])
            await world.kill(holder)
            await world.until(lambda: any("volumes are not on 4 nodes" in t.status.error for t in world.tasks(db)))
            await asyncio.sleep(100)
            assert nodes_of(world, db) in ([], [holder])
            assert any(t.status.state == PENDING for t in world.tasks(db))
            await world.revive(holder)
            await world.until(lambda: nodes_of(world, db) == [holder])

    run(story())


def test_without_affinity_it_goes_where_there_is_room() -> None:
    async def story() -> None:
        async with World(2).alive(3) as world:
            holder = next(iter(world.agents))
            await report(world, holder, "data")
            db = await world.create(database(3, "data", follows=False))
            await world.until(lambda: len(set(nodes_of(world, db))) == 3)

    run(story())


def test_a_volume_that_nobody_has_binds_nobody() -> None:
    async def story() -> None:
        async with World(3).alive(3) as world:
            db = await world.create(database(3, "new"))
            await world.until(lambda: len(set(nodes_of(world, db))) == 3)

    run(story())


def test_every_slot_has_a_volume_of_its_own() -> None:
    async def story() -> None:
        async with World(4).alive(4) as world:
            order = list(world.agents)[:3]
            for slot, node_id in enumerate(order, 1):
                await report(world, node_id, f"db-{slot}")
            db = await world.create(database(3, "{{.Service.Name}}-{{ .Task.Slot }}"))
            await world.until(lambda: nodes_of(world, db) == order)
            # The first one's node goes; it waits, and the others do not care.
            await world.kill(order[0])
            await world.until(lambda: any(t.status.state == PENDING and t.slot == 1 for t in world.tasks(db)))
            assert [t.node_id for t in world.up(db) if t.slot > 1] == order[1:]

    run(story())


def test_a_volume_that_was_removed_binds_nobody_any_longer() -> None:
    async def story() -> None:
        async with World(5).alive(3) as world:
            holder, other = list(world.agents)[:2]
            await report(world, holder, "data")
            db = await world.create(database(1, "data"))
            await world.until(lambda: nodes_of(world, db) == [holder])
            await world.kill(holder)
            await world.until(lambda: any(t.status.state == PENDING for t in world.tasks(db)))
            await world.change_node(holder, lambda node: node.description.ClearField("volumes"))
            await world.until(lambda: bool(nodes_of(world, db)) and nodes_of(world, db) != [holder])
            assert other in world.agents

    run(story())
