"""Stories of updates and rollbacks on virtual time: order, failures, what supersedes what."""

import pytest

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import TaskState, UpdateConfig, UpdateStatus
from tests.simulation.orchestration.web import web
from tests.simulation.orchestration.world import World
from tests.simulation.virtual_time import run

RUNNING = TaskState.TASK_STATE_RUNNING


def test_a_rolling_update_replaces_all_and_never_runs_more_or_fewer_than_it_may() -> None:
    async def story() -> None:
        async with World(14).alive(3) as world:
            spec = web(6)
            spec.update.parallelism = 2
            spec.update.delay.seconds = 3
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            fewest = 6

            def done() -> bool:
                nonlocal fewest
                fewest = min(fewest, len(world.up(web_id)))
                service = world.store.services.get(web_id)
                return service.update_status.state == UpdateStatus.STATE_COMPLETED

            began = world.clock.now()
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:2"))
            await world.until(done)
            assert fewest == 4
            assert {t.spec.container.image for t in world.up(web_id)} == {"app:2"}
            assert len(world.up(web_id)) == 6
            # Three rounds of two with two delays between, and the monitor afterwards.
            assert world.clock.now() - began >= 2 * 3 + 5
            assert world.rules.most_running[web_id] == 6

    run(story())


def test_start_first_never_runs_fewer() -> None:
    async def story() -> None:
        async with World(15).alive(3) as world:
            spec = web(4)
            spec.update.parallelism = 2
            spec.update.order = UpdateConfig.ORDER_START_FIRST
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 4)
            fewest = 4

            def done() -> bool:
                nonlocal fewest
                slots = {t.slot for t in world.tasks(web_id) if t.status.state == RUNNING}
                fewest = min(fewest, len(slots))
                return world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_COMPLETED

            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:2"))
            await world.until(done)
            assert fewest == 4
            assert {t.spec.container.image for t in world.up(web_id)} == {"app:2"}

    run(story())


def failing_update(action: "UpdateConfig.FailureAction.ValueType", ratio: float = 0.0) -> ServiceSpec:
    spec = web(4)
    spec.update.failure_action = action
    spec.update.max_failure_ratio = ratio
    spec.update.monitor.seconds = 4
    spec.update.delay.seconds = 2
    spec.rollback.parallelism = 2
    return spec


def test_a_failing_update_pauses_and_touches_no_more_slots() -> None:
    async def story() -> None:
        async with World(16).alive(3) as world:
            world.crashing = lambda task: 1.0 if task.spec.container.image == "bad" else None
            web_id = await world.create(failing_update(UpdateConfig.FAILURE_ACTION_PAUSE))
            await world.until(lambda: len(world.up(web_id)) == 4)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "bad"))
            await world.until(lambda: world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_PAUSED)
            assert "update paused due to failure" in world.store.services.get(web_id).update_status.message
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: len([t for t in world.up(web_id) if t.spec.container.image != "bad"]) < 3, 60)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:3"))
            await world.until(lambda: [t.spec.container.image for t in world.up(web_id)] == ["app:3"] * 4)

    run(story())


def test_a_failing_update_rolls_back() -> None:
    async def story() -> None:
        async with World(17).alive(3) as world:
            world.crashing = lambda task: 1.0 if task.spec.container.image == "bad" else None
            web_id = await world.create(failing_update(UpdateConfig.FAILURE_ACTION_ROLLBACK))
            await world.until(lambda: len(world.up(web_id)) == 4)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "bad"))
            await world.until(
                lambda: world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_ROLLBACK_COMPLETED
            )
            assert [t.spec.container.image for t in world.up(web_id)] == ["app:1"] * 4
            assert not world.store.services.get(web_id).HasField("previous_spec")

    run(story())


def test_a_rollback_that_fails_pauses() -> None:
    async def story() -> None:
        async with World(18).alive(3) as world:
            healthy = {"app:1"}
            world.crashing = lambda task: None if task.spec.container.image in healthy else 1.0
            web_id = await world.create(failing_update(UpdateConfig.FAILURE_ACTION_ROLLBACK))
            await world.until(lambda: len(world.up(web_id)) == 4)
            healthy.clear()
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "bad"))
            await world.until(
                lambda: world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_ROLLBACK_PAUSED
            )

    run(story())


def test_an_update_that_continues_ignores_failures() -> None:
    async def story() -> None:
        async with World(19).alive(3) as world:
            world.crashing = lambda task: 1.0 if task.spec.container.image == "bad" else None
            web_id = await world.create(failing_update(UpdateConfig.FAILURE_ACTION_CONTINUE))
            await world.until(lambda: len(world.up(web_id)) == 4)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "bad"))
            await world.until(
                lambda: world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_COMPLETED
            )

    run(story())


def test_failures_up_to_the_ratio_are_borne() -> None:
    async def story() -> None:
        async with World(20).alive(3) as world:
            world.crashing = lambda task: 1.0 if task.spec.container.image == "bad" and task.slot == 2 else None
            web_id = await world.create(failing_update(UpdateConfig.FAILURE_ACTION_PAUSE, ratio=0.25))
            await world.until(lambda: len(world.up(web_id)) == 4)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "bad"))
            await world.until(
                lambda: world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_COMPLETED
            )

    run(story())


def test_a_newer_spec_supersedes_the_update_in_progress() -> None:
    async def story() -> None:
        async with World(21).alive(3) as world:
            spec = web(6)
            spec.update.delay.seconds = 10
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:2"))
            await world.until(lambda: any(t.spec.container.image == "app:2" for t in world.up(web_id)))
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:3"))
            await world.until(lambda: [t.spec.container.image for t in world.up(web_id)] == ["app:3"] * 6)
            assert len({t.slot for t in world.tasks(web_id) if t.spec.container.image == "app:2"}) <= 2

    run(story())


def test_a_manual_rollback_goes_back_and_a_second_one_returns() -> None:
    async def story() -> None:
        async with World(22).alive(3) as world:
            web_id = await world.create(web(3))
            await world.until(lambda: len(world.up(web_id)) == 3)
            await world.update(web_id, lambda spec: setattr(spec.task.container, "image", "app:2"))
            await world.until(lambda: [t.spec.container.image for t in world.up(web_id)] == ["app:2"] * 3)
            for image in ("app:1", "app:2"):
                await world.roll_back(web_id)
                await world.until(
                    lambda: (
                        world.store.services.get(web_id).update_status.state == UpdateStatus.STATE_ROLLBACK_COMPLETED
                    )
                )
                assert [t.spec.container.image for t in world.up(web_id)] == [image] * 3

    run(story())


def test_force_update_restarts_all_and_a_mere_change_of_replicas_none() -> None:
    async def story() -> None:
        async with World(23).alive(3) as world:
            web_id = await world.create(web(3))
            await world.until(lambda: len(world.up(web_id)) == 3)
            first = {t.id for t in world.up(web_id)}
            await world.update(web_id, lambda spec: setattr(spec.replicated, "replicas", 4))
            await world.until(lambda: len(world.up(web_id)) == 4)
            assert first < {t.id for t in world.up(web_id)}
            await world.update(web_id, lambda spec: setattr(spec.task, "force_update", 1))
            await world.until(
                lambda: len(world.up(web_id)) == 4 and not first & {t.id for t in world.up(web_id)}, within=120
            )

    run(story())
