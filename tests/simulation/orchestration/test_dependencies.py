"""Services that wait for what they depend on."""

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import Dependency, TaskState, UpdateStatus
from tests.simulation.orchestration.web import web
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run


def depends(spec: ServiceSpec, on: str, condition: "Dependency.Condition.ValueType") -> ServiceSpec:
    spec.depends_on.add(service=on, condition=condition)
    return spec


def test_a_service_gets_its_first_tasks_when_what_it_depends_on_is_healthy() -> None:
    async def story() -> None:
        async with World(120, Faults(step=(2.0, 3.0))).alive(3) as world:
            app_id = await world.create(depends(web(3, "app"), "db", Dependency.CONDITION_HEALTHY))
            await world.until(lambda: "service db, which does not exist" in world.store.services.get(app_id).waits_for)
            db_id = await world.create(web(2, "db"))
            await world.until(lambda: bool(world.tasks(app_id)))
            assert len(world.up(db_id)) == 2
            await world.until(lambda: len(world.up(app_id)) == 3 and not world.store.services.get(app_id).waits_for)

    run(story())


def test_a_service_waits_for_a_job_to_complete() -> None:
    async def story() -> None:
        async with World(121).alive(3) as world:
            world.crashing = lambda task: 5.0 if task.service_annotations.name == "migrate" else None
            app_id = await world.create(depends(web(2, "app"), "migrate", Dependency.CONDITION_COMPLETED))
            job = web(name="migrate")
            job.ClearField("update")
            job.replicated_job.total_completions = job.replicated_job.max_concurrent = 1
            job_id = await world.create(job)
            await world.until(lambda: bool(world.tasks(app_id)))
            assert [task.status.state for task in world.tasks(job_id)] == [TaskState.TASK_STATE_COMPLETE]

    run(story())


def test_restarts_and_more_replicas_do_not_wait_again() -> None:
    async def story() -> None:
        async with World(122).alive(3) as world:
            db_id = await world.create(web(1, "db"))
            app_id = await world.create(depends(web(2, "app"), "db", Dependency.CONDITION_HEALTHY))
            await world.until(lambda: len(world.up(app_id)) == 2)
            await world.update(db_id, lambda spec: spec.task.placement.constraints.append("node.labels.no==where"))
            await world.until(lambda: not world.up(db_id))
            await world.update(app_id, lambda spec: setattr(spec.replicated, "replicas", 4))
            await world.until(lambda: len(world.up(app_id)) == 4)

    run(story())


def test_an_update_waits_for_the_update_of_what_it_depends_on() -> None:
    async def story() -> None:
        async with World(123, Faults(step=(1.0, 2.0))).alive(3) as world:
            db_id = await world.create(web(3, "db"))
            app_id = await world.create(depends(web(3, "app"), "db", Dependency.CONDITION_HEALTHY))
            await world.until(lambda: len(world.up(app_id)) == 3)
            await world.update(db_id, lambda spec: setattr(spec.task.container, "image", "db:2"))
            await world.update(app_id, lambda spec: setattr(spec.task.container, "image", "app:2"))
            await world.until(lambda: "waits for service db" in world.store.services.get(app_id).update_status.message)
            await world.until(lambda: any(t.spec.container.image == "app:2" for t in world.tasks(app_id)))
            assert [task.spec.container.image for task in world.up(db_id)] == ["db:2"] * 3
            assert world.store.services.get(db_id).update_status.state == UpdateStatus.STATE_COMPLETED
            await world.until(
                lambda: world.store.services.get(app_id).update_status.state == UpdateStatus.STATE_COMPLETED
            )
            assert not world.store.services.get(app_id).waits_for

    run(story())
