"""A drain of a node whose services start first."""

import pytest

from flota.v1.types_pb2 import NodeAvailability, UpdateStatus
from tests.simulation.orchestration.web import Fewest, web
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run

DRAIN = NodeAvailability.NODE_AVAILABILITY_DRAIN


def test_a_drain_of_a_start_first_service_starts_the_new_task_before_the_old_one_stops() -> None:
    async def story() -> None:
        async with World(101).alive(3) as world:
            web_id = await world.create(web(3, start_first=True))
            await world.until(lambda: len(world.up(web_id)) == 3)
            drained = world.up(web_id)[0].node_id
            watch = Fewest(world, web_id)
            await world.set_availability(drained, DRAIN)
            await world.until(
                watch(lambda: not world.store.tasks.by("node", drained) or not world.agents[drained].running)
            )
            await world.until(watch(lambda: len(world.up(web_id)) == 3))
            assert watch.fewest == 3
            assert drained not in {task.node_id for task in world.up(web_id)}
            texts = [decision.text for task in world.up(web_id) for decision in task.decisions]
            assert any("is drained: starts before" in text for text in texts)

    run(story())


def test_a_drain_without_room_elsewhere_keeps_a_start_first_service_running() -> None:
    async def story() -> None:
        async with World(102).alive(2, cpus=2) as world:
            spec = web(2, start_first=True)
            spec.task.resources.reservations.nano_cpus = 2 * 10**9
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 2)
            drained = world.up(web_id)[0].node_id
            await world.set_availability(drained, DRAIN)
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: len(world.up(web_id)) < 2, within=120)
            await world.add_node(cpus=2)
            await world.until(lambda: drained not in {task.node_id for task in world.up(web_id)})
            await world.until(lambda: len(world.up(web_id)) == 2)

    run(story())


def test_a_move_that_fails_is_tried_again_after_the_restart_delay_and_the_old_task_runs_on() -> None:
    async def story() -> None:
        async with World(103).alive(2) as world:
            spec = web(1, start_first=True)
            spec.task.restart.delay.seconds = 20
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 1)
            first = world.up(web_id)[0]
            world.faults.refuses = 1.0
            began = world.clock.now()
            await world.set_availability(first.node_id, DRAIN)
            await world.until(lambda: len(world.tasks(web_id)) == 3)
            assert first.id in {task.id for task in world.up(web_id)}
            world.faults.refuses = 0.0
            await world.until(lambda: len(world.up(web_id)) == 1 and world.up(web_id)[0].id != first.id)
            assert world.clock.now() - began >= 20

    run(story())


def test_a_new_spec_in_the_middle_of_a_drain_supersedes_the_task_that_was_on_its_way() -> None:
    async def story() -> None:
        async with World(104, Faults(step=(2.0, 4.0))).alive(3) as world:
            web_id = await world.create(web(2, start_first=True))
            await world.until(lambda: len(world.up(web_id)) == 2)
            drained = world.up(web_id)[0].node_id
            watch = Fewest(world, web_id)
            await world.set_availability(drained, DRAIN)
            await world.until(watch(lambda: any(task.moves for task in world.tasks(web_id))))
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:2"))
            await world.until(watch(lambda: [t.spec.container.image for t in world.up(web_id)] == ["app:2"] * 2))
            await world.until(
                watch(lambda: world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_COMPLETED)
            )
            assert watch.fewest == 2
            assert drained not in {task.node_id for task in world.up(web_id)}

    run(story())
