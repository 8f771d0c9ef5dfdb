"""Services that are stopped, and started again."""

import pytest

from flota.v1.types_pb2 import TaskState
from tests.simulation.orchestration.web import web
from tests.simulation.orchestration.world import World
from tests.simulation.virtual_time import run


@pytest.mark.parametrize("condition", [0, 2], ids=["any", "none"])
def test_a_stopped_service_runs_nothing_and_starts_again_with_all_replicas(condition: int) -> None:
    async def story() -> None:
        async with World(130).alive(3) as world:
            spec = web(3)
            spec.task.restart.condition = condition  # type: ignore[assignment]
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 3)
            await world.update(web_id, lambda spec: setattr(spec, "stopped", True))
            await world.until(lambda: not any(agent.running for agent in world.agents.values()))
            assert {task.desired_state for task in world.tasks(web_id)} == {TaskState.TASK_STATE_SHUTDOWN}
            await world.add_node()
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: bool(world.up(web_id)), within=120)
            await world.update(web_id, lambda spec: setattr(spec, "stopped", False))
            await world.until(lambda: len(world.up(web_id)) == 3)

    run(story())


def test_a_stopped_global_service_and_job_go_on_when_they_are_started() -> None:
    async def story() -> None:
        async with World(131).alive(2) as world:
            world.crashing = lambda task: 30.0 if task.service_annotations.name == "job" else None
            spec = web(name="agent")
            getattr(spec, "global").SetInParent()
            agent_id = await world.create(spec)
            job = web(name="job")
            job.ClearField("update")
            job.replicated_job.total_completions = job.replicated_job.max_concurrent = 2
            job_id = await world.create(job)
            await world.until(lambda: len(world.up(agent_id)) == 2)
            for id in (agent_id, job_id):
                await world.change(id, lambda service: setattr(service.spec, "stopped", True))
            await world.until(lambda: not any(agent.running for agent in world.agents.values()))
            for id in (agent_id, job_id):
                await world.change(id, lambda service: setattr(service.spec, "stopped", False))
            await world.until(lambda: len(world.up(agent_id)) == 2)
            await world.until(
                lambda: len([t for t in world.tasks(job_id) if t.status.state == TaskState.TASK_STATE_COMPLETE]) == 2
            )

    run(story())
