"""Stories of services and jobs on virtual time: how many tasks run, where, and what becomes of those that end."""

import pytest

from flota.v1.types_pb2 import NodeAvailability, TaskState
from tests.simulation.orchestration.web import web
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run

RUNNING = TaskState.TASK_STATE_RUNNING


def test_a_service_gets_its_replicas_spread_over_nodes_with_addresses() -> None:
    async def story() -> None:
        async with World(1).alive(3) as world:
            web_id = await world.create(web(6, network=world.network.id))
            await world.until(lambda: len(world.up(web_id)) == 6)
            assert sorted(t.slot for t in world.up(web_id)) == [1, 2, 3, 4, 5, 6]
            per_node = [len(world.store.tasks.by("node", node.id)) for node in world.store.nodes]
            assert per_node == [2, 2, 2]
            addresses = {t.networks[0].addresses[0] for t in world.up(web_id)}
            assert len(addresses) == 6
            assert world.store.services.get(web_id).endpoint.virtual_ips[0].address.endswith("/24")

    run(story())


def test_scaling_down_removes_the_tasks_and_the_reaper_deletes_them() -> None:
    async def story() -> None:
        async with World(2).alive(3) as world:
            web_id = await world.create(web(6))
            await world.until(lambda: len(world.up(web_id)) == 6)
            await world.update(web_id, lambda spec: setattr(spec.replicated, "replicas", 2))
            await world.until(lambda: len(world.tasks(web_id)) == 2)
            assert len({t.node_id for t in world.tasks(web_id)}) == 2
            assert len(world.up(web_id)) == 2

    run(story())


def test_removing_a_service_leaves_no_task() -> None:
    async def story() -> None:
        async with World(3).alive(3) as world:
            web_id = await world.create(web(5))
            await world.until(lambda: len(world.up(web_id)) == 5)
            await world.remove(web_id)
            await world.until(lambda: len(world.store.tasks) == 0)
            assert not any(agent.running for agent in world.agents.values())

    run(story())


def test_a_dead_nodes_tasks_run_elsewhere_without_delay() -> None:
    async def story() -> None:
        async with World(4).alive(3) as world:
            web_id = await world.create(web(6))
            await world.until(lambda: len(world.up(web_id)) == 6)
            dead = next(iter(world.agents))
            began = world.clock.now()
            await world.kill(dead)
            await world.until(lambda: len([t for t in world.up(web_id) if t.node_id != dead]) == 6)
            assert world.clock.now() - began < 3.0

    run(story())


def test_a_drained_nodes_tasks_move_without_delay() -> None:
    async def story() -> None:
        async with World(5, Faults(stop=(0.1, 0.2))).alive(3) as world:
            web_id = await world.create(web(6))
            await world.until(lambda: len(world.up(web_id)) == 6)
            drained = next(iter(world.agents))
            began = world.clock.now()
            await world.set_availability(drained, NodeAvailability.NODE_AVAILABILITY_DRAIN)
            await world.until(lambda: len([t for t in world.up(web_id) if t.node_id != drained]) == 6)
            assert world.clock.now() - began < 3.0
            assert not world.agents[drained].running

    run(story())


def test_a_paused_node_keeps_its_tasks_and_takes_no_new_ones() -> None:
    async def story() -> None:
        async with World(6).alive(2) as world:
            first, second = world.agents
            await world.set_availability(first, NodeAvailability.NODE_AVAILABILITY_PAUSE)
            web_id = await world.create(web(4))
            await world.until(lambda: len(world.up(web_id)) == 4)
            assert {t.node_id for t in world.up(web_id)} == {second}
            await world.set_availability(first, NodeAvailability.NODE_AVAILABILITY_ACTIVE)
            await world.set_availability(second, NodeAvailability.NODE_AVAILABILITY_PAUSE)
            await world.update(web_id, lambda spec: setattr(spec.replicated, "replicas", 6))
            await world.until(lambda: len(world.up(web_id)) == 6)
            assert len([t for t in world.up(web_id) if t.node_id == second]) == 4

    run(story())


def test_a_global_service_follows_the_nodes() -> None:
    async def story() -> None:
        async with World(7).alive(2) as world:
            spec = web(name="agent")
            getattr(spec, "global").SetInParent()
            spec.task.placement.constraints.append("node.labels.disk==ssd")
            service_id = await world.create(spec)
            ssd = await world.add_node({"disk": "ssd"})
            await world.until(lambda: {t.node_id for t in world.up(service_id)} == {ssd})
            other = await world.add_node({"disk": "SSD"})
            await world.until(lambda: {t.node_id for t in world.up(service_id)} == {ssd, other})
            await world.change_node(ssd, lambda node: node.spec.annotations.labels.clear())
            await world.until(lambda: {t.node_id for t in world.up(service_id)} == {other})
            await world.until(lambda: not world.agents[ssd].running)
            await world.set_availability(other, NodeAvailability.NODE_AVAILABILITY_DRAIN)
            await world.until(lambda: not world.agents[other].running)
            await world.set_availability(other, NodeAvailability.NODE_AVAILABILITY_ACTIVE)
            await world.until(lambda: {t.node_id for t in world.up(service_id)} == {other})

    run(story())


def test_a_task_no_node_can_take_says_why_and_starts_when_one_can() -> None:
    async def story() -> None:
        async with World(8).alive(2) as world:
            spec = web(1)
            spec.task.placement.constraints.append("node.labels.gpu==yes")
            web_id = await world.create(spec)
            why = "no suitable node (scheduling constraints not satisfied on 2 nodes)"
            await world.until(lambda: any(t.status.message == why for t in world.tasks(web_id)))
            assert world.tasks(web_id)[0].status.state == TaskState.TASK_STATE_PENDING
            with_gpu = await world.add_node({"gpu": "yes"})
            await world.until(lambda: {t.node_id for t in world.up(web_id)} == {with_gpu})
            assert world.up(web_id)[0].status.error == ""

    run(story())


def test_reservations_are_kept_and_free_room_is_used_as_soon_as_there_is_some() -> None:
    async def story() -> None:
        async with World(9).alive(2, cpus=4) as world:
            spec = web(8)
            spec.task.resources.reservations.nano_cpus = 10**9
            big = await world.create(spec)
            await world.until(lambda: len(world.up(big)) == 8)
            late = web(1, "late")
            late.task.resources.reservations.nano_cpus = 10**9
            late_id = await world.create(late)
            why = "no suitable node (insufficient resources on 2 nodes)"
            await world.until(lambda: any(t.status.message == why for t in world.tasks(late_id)))
            await world.update(big, lambda spec: setattr(spec.replicated, "replicas", 7))
            await world.until(lambda: len(world.up(late_id)) == 1)

    run(story())


def test_a_node_that_loses_its_label_loses_the_task() -> None:
    async def story() -> None:
        async with World(10).alive(0) as world:
            east = await world.add_node({"zone": "east"})
            also_east = await world.add_node({"zone": "east"})
            spec = web(1)
            spec.task.placement.constraints.append("node.labels.zone == east")
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 1)
            here = world.up(web_id)[0].node_id
            there = also_east if here == east else east
            await world.change_node(here, lambda node: node.spec.annotations.labels.clear())
            await world.until(lambda: [t.node_id for t in world.up(web_id)] == [there])
            rejected = [t for t in world.tasks(web_id) if t.status.state == TaskState.TASK_STATE_REJECTED]
            assert rejected[0].status.error == "assigned node no longer meets constraints"

    run(story())


def test_restarts_stop_after_max_attempts() -> None:
    async def story() -> None:
        async with World(11).alive(2) as world:
            world.crashing = lambda task: 0.5
            spec = web(1)
            spec.task.restart.max_attempts = 2
            spec.task.restart.delay.seconds = 1
            web_id = await world.create(spec)
            await world.until(
                lambda: len([t for t in world.tasks(web_id) if t.status.state == TaskState.TASK_STATE_FAILED]) == 3
            )
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: len(world.tasks(web_id)) > 3, within=600)
            assert all(t.desired_state == TaskState.TASK_STATE_SHUTDOWN for t in world.tasks(web_id))

    run(story())


def test_history_is_kept_to_the_limit() -> None:
    async def story() -> None:
        async with World(12).alive(2) as world:
            world.crashing = lambda task: 1.0
            web_id = await world.create(web(1))
            most = 0
            for _ in range(30):
                before = world.store.index
                await world.until(lambda before=before: world.store.index > before + 8)  # type: ignore[misc]
                most = max(most, len(world.tasks(web_id)))
            assert 5 <= most <= 6
            assert len(world.tasks(web_id)) >= 4

    run(story())


def test_a_new_leader_carries_on_with_a_restart_that_was_waiting() -> None:
    async def story() -> None:
        async with World(13).alive(2) as world:
            world.crashing = lambda task: 1.0 if len(world.tasks(task.service_id)) == 1 else None
            spec = web(1)
            spec.task.restart.delay.seconds = 60
            web_id = await world.create(spec)
            await world.until(lambda: len(world.tasks(web_id)) == 2)
            failed_at = world.clock.now()
            world.stop_leader()
            await world.add_node()
            world.start_leader()
            await world.until(lambda: len(world.up(web_id)) == 1)
            assert 60 <= world.clock.now() - failed_at <= 64

    run(story())


def test_a_replicated_job_completes_so_many_times_and_no_more_at_once_than_allowed() -> None:
    async def story() -> None:
        async with World(24).alive(3) as world:
            world.crashing = lambda task: 2.0
            spec = web(name="job")
            spec.replicated_job.total_completions = 7
            spec.replicated_job.max_concurrent = 3
            job_id = await world.create(spec)

            def complete() -> int:
                going = [t for t in world.tasks(job_id) if t.status.state == RUNNING]
                assert len(going) <= 3
                return len([t for t in world.tasks(job_id) if t.status.state == TaskState.TASK_STATE_COMPLETE])

            await world.until(lambda: complete() == 7)
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: len(world.tasks(job_id)) > 7, within=100)
            await world.update(job_id, lambda spec: setattr(spec.task, "force_update", 1))
            await world.until(lambda: {t.job_iteration.index for t in world.tasks(job_id)} == {1} and complete() == 7)

    run(story())


def test_a_global_job_runs_once_on_every_node_and_on_those_that_come_later() -> None:
    async def story() -> None:
        async with World(25).alive(3) as world:
            world.crashing = lambda task: 2.0
            spec = web(name="job")
            spec.global_job.SetInParent()
            job_id = await world.create(spec)

            def complete() -> set[str]:
                return {t.node_id for t in world.tasks(job_id) if t.status.state == TaskState.TASK_STATE_COMPLETE}

            await world.until(lambda: complete() == set(world.agents))
            await world.add_node()
            await world.until(lambda: complete() == set(world.agents))
            assert len(world.tasks(job_id)) == 4

    run(story())


def test_host_ports_put_one_task_on_a_node() -> None:
    async def story() -> None:
        async with World(26).alive(3) as world:
            spec = web(4)
            spec.endpoint.ports.add(target_port=80, published_port=8080, publish_mode=1)
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 3)
            why = "no suitable node (host-mode port already in use on 3 nodes)"
            await world.until(lambda: any(t.status.message == why for t in world.tasks(web_id)))
            await world.add_node()
            await world.until(lambda: len(world.up(web_id)) == 4)

    run(story())
