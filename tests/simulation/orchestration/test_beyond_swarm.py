"""Stories of what Swarm does not do: drains that start first, rebalancing, dependencies, stop and start, affinity."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from flota.manager.orchestrator.arrivals import SETTLE
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import (
    Dependency,
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

RUNNING = TaskState.TASK_STATE_RUNNING
DRAIN = NodeAvailability.NODE_AVAILABILITY_DRAIN
ACTIVE = NodeAvailability.NODE_AVAILABILITY_ACTIVE
ALWAYS = RebalancePolicy.REBALANCE_POLICY_ALWAYS
ON_JOIN = RebalancePolicy.REBALANCE_POLICY_ON_JOIN


def web(replicas: int = 3, name: str = "web", start_first: bool = False) -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = name
    spec.task.container.image = "app:1"
    spec.replicated.replicas = replicas
    spec.update.parallelism = 1
    if start_first:
        spec.update.order = UpdateConfig.ORDER_START_FIRST
    return spec


def spread(world: World, service_id: str) -> list[int]:
    """How many tasks of the service each node has, fewest first."""
    counts = Counter(task.node_id for task in world.up(service_id))
    return sorted(counts.get(node.id, 0) for node in world.store.nodes)


class Fewest:
    """The fewest slots that ran at any time, looked at with every change."""

    def __init__(self, world: World, service_id: str) -> None:
        self.world, self.service_id = world, service_id
        self.fewest = len({task.slot for task in world.up(service_id)})

    def __call__(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        def look() -> bool:
            slots = {task.slot for task in self.world.tasks(self.service_id) if task.status.state == RUNNING}
            self.fewest = min(self.fewest, len(slots))
            return condition()

        return look


# Drain.


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


# Spread.


@pytest.mark.parametrize("seed", range(130, 140))
def test_an_update_that_starts_first_leaves_the_service_as_evenly_spread_as_before(seed: int) -> None:
    async def story() -> None:
        async with World(seed).alive(5) as world:
            spec = web(4, start_first=True)
            spec.update.parallelism = 2
            web_id = await world.create(spec)
            await world.until(lambda: spread(world, web_id) == [0, 1, 1, 1, 1])
            for image in ("app:2", "app:3"):
                await update_image(world, web_id, image)
                assert spread(world, web_id) == [0, 1, 1, 1, 1]

    run(story())


@pytest.mark.parametrize("seed", range(130, 140))
def test_so_it_is_over_zones(seed: int) -> None:
    async def story() -> None:
        async with World(seed).alive(0) as world:
            zone_of = {await world.add_node({"zone": zone}): zone for zone in "aaabbb"}
            spec = web(4, start_first=True)
            spec.update.parallelism = 2
            spec.task.placement.preferences.add().spread.descriptor = "node.labels.zone"
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 4)
            for image in ("app:2", "app:3"):
                await update_image(world, web_id, image)
                assert Counter(zone_of[task.node_id] for task in world.up(web_id)) == {"a": 2, "b": 2}

    run(story())


async def update_image(world: World, service_id: str, image: str) -> None:
    """Update a service, and wait until none but the new tasks run."""
    await world.update(service_id, lambda spec: setattr(spec.task.container, "image", image))

    def done() -> bool:
        up = world.up(service_id)
        replicas = world.store.services.get(service_id).spec.replicated.replicas
        return len(up) == replicas and all(task.spec.container.image == image for task in up)

    await world.until(done)


# Rebalance.


def test_without_a_policy_a_node_that_comes_gets_no_running_task() -> None:
    async def story() -> None:
        async with World(110).alive(2) as world:
            web_id = await world.create(web(6))
            await world.until(lambda: len(world.up(web_id)) == 6)
            await world.add_node()
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: spread(world, web_id) != [0, 3, 3], within=300)

    run(story())


def test_on_join_moves_as_few_tasks_as_needed_one_at_a_time_and_never_below_the_replicas() -> None:
    async def story() -> None:
        async with World(111).alive(2) as world:
            spec = web(6)
            spec.rebalance = ON_JOIN
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            before = {task.id for task in world.up(web_id)}
            watch = Fewest(world, web_id)
            await world.add_node()
            most = 0

            def done() -> bool:
                nonlocal most
                most = max(most, len({t.id for t in world.tasks(web_id) if t.status.state == RUNNING}))
                return spread(world, web_id) == [2, 2, 2]

            await world.until(watch(done))
            assert watch.fewest == 6
            assert len(before & {task.id for task in world.up(web_id)}) == 4
            # The pace is the update's parallelism: one beside the six.
            assert most == 7
            await world.until(lambda: not world.store.services.get(web_id).HasField("rebalance_asked"))

    run(story())


def test_on_join_works_for_a_node_that_comes_back_and_only_then() -> None:
    async def story() -> None:
        async with World(112).alive(3) as world:
            spec = web(6)
            spec.rebalance = ON_JOIN
            web_id = await world.create(spec)
            await world.until(lambda: spread(world, web_id) == [2, 2, 2])
            dead = next(iter(world.agents))
            await world.kill(dead)
            await world.until(lambda: spread(world, web_id) == [0, 3, 3])
            await world.revive(dead)
            await world.until(lambda: spread(world, web_id) == [2, 2, 2])
            await world.set_availability(dead, DRAIN)
            await world.until(lambda: spread(world, web_id) == [0, 3, 3])
            await world.set_availability(dead, ACTIVE)
            await world.until(lambda: spread(world, web_id) == [2, 2, 2])

    run(story())


def test_a_new_leader_goes_on_with_a_rebalance_that_was_asked_for() -> None:
    async def story() -> None:
        async with World(113, Faults(step=(1.0, 2.0))).alive(2) as world:
            spec = web(9)
            spec.rebalance = ON_JOIN
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 9)
            await world.add_node()
            await world.until(lambda: any(task.moves for task in world.tasks(web_id)))
            world.stop_leader()
            world.start_leader()
            await world.until(lambda: spread(world, web_id) == [3, 3, 3])

    run(story())


@pytest.mark.parametrize("moment", ["just before", "while there is no leader", "while it is down without a leader"])
def test_a_node_that_comes_around_a_change_of_leader_is_not_forgotten(moment: str) -> None:
    async def story() -> None:
        async with World(119).alive(2) as world:
            spec = web(6)
            spec.rebalance = ON_JOIN
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            match moment:
                case "just before":
                    await world.add_node()
                    await asyncio.sleep(SETTLE / 2)
                    world.stop_leader()
                case "while there is no leader":
                    world.stop_leader()
                    await world.add_node()
                case "while it is down without a leader":
                    dead = await world.add_node()
                    await world.until(lambda: spread(world, web_id) == [2, 2, 2])
                    await world.kill(dead)
                    await world.until(lambda: spread(world, web_id) == [0, 3, 3])
                    world.stop_leader()
                    await world.revive(dead)
            await asyncio.sleep(5)
            assert spread(world, web_id) == [0, 3, 3]
            world.start_leader()
            await world.until(lambda: spread(world, web_id) == [2, 2, 2])

    run(story())


def test_nodes_that_a_new_leader_hears_of_again_have_not_come() -> None:
    async def story() -> None:
        async with World(120).alive(2) as world:
            web_id = await world.create(web(6))
            await world.until(lambda: len(world.up(web_id)) == 6)
            await world.add_node()
            await asyncio.sleep(2 * SETTLE)
            await world.update(web_id, lambda spec: setattr(spec, "rebalance", ON_JOIN))
            world.stop_leader()
            world.start_leader()
            for state in (NodeState.NODE_STATE_UNKNOWN, NodeState.NODE_STATE_DISCONNECTED, NodeState.NODE_STATE_READY):
                for node_id in world.agents:
                    await world.change_node(node_id, lambda node, state=state: setattr(node.status, "state", state))
                await asyncio.sleep(1)
            await asyncio.sleep(10 * SETTLE)
            assert spread(world, web_id) == [0, 3, 3]

    run(story())


def test_always_evens_out_what_a_scale_down_left() -> None:
    async def story() -> None:
        async with World(114).alive(1) as world:
            spec = web(4)
            spec.rebalance = ALWAYS
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 4)
            await world.add_node()
            await world.until(lambda: spread(world, web_id) == [2, 2])

    run(story())


def test_single_tasks_use_a_new_node_too_and_the_cluster_s_policy_counts_for_services_that_say_nothing() -> None:
    async def story() -> None:
        async with World(115).alive(1) as world:

            def with_policy(tx: object) -> None:
                cluster = type(world.store.cluster)()
                cluster.CopyFrom(world.store.cluster)
                cluster.spec.rebalance = ON_JOIN
                tx.update(cluster)  # type: ignore[attr-defined]

            await world.store.update(with_policy)
            ids = [await world.create(web(1, f"web{number}")) for number in range(4)]
            await world.until(lambda: all(len(world.up(id)) == 1 for id in ids))
            await world.add_node()
            await world.until(
                lambda: sorted(Counter(world.up(id)[0].node_id for id in ids if world.up(id)).values()) == [2, 2]
            )

    run(story())


def test_a_rebalance_respects_what_the_filters_say() -> None:
    async def story() -> None:
        async with World(116).alive(0) as world:
            for _ in range(2):
                await world.add_node({"disk": "ssd"})
            spec = web(6)
            spec.rebalance = ALWAYS
            spec.task.placement.constraints.append("node.labels.disk==ssd")
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            await world.add_node({"disk": "hdd"})
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: spread(world, web_id) != [0, 3, 3], within=120)

    run(story())


def test_a_rebalance_evens_out_the_branches_of_a_spread_tree() -> None:
    async def story() -> None:
        async with World(117).alive(0) as world:
            for _ in range(3):
                await world.add_node({"zone": "east"})
            spec = web(6)
            spec.rebalance = ON_JOIN
            spec.task.placement.preferences.add().spread.descriptor = "node.labels.zone"
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            west = await world.add_node({"zone": "west"})
            await world.until(lambda: len([t for t in world.up(web_id) if t.node_id == west]) == 3)
            assert spread(world, web_id) == [1, 1, 1, 3]

    run(story())


def test_a_service_that_is_not_whole_is_not_moved() -> None:
    async def story() -> None:
        async with World(118).alive(2) as world:
            world.crashing = lambda task: 3.0 if task.slot == 1 else None
            spec = web(6)
            spec.rebalance = ALWAYS
            spec.task.restart.delay.seconds = 600
            web_id = await world.create(spec)
            await world.until(lambda: any(t.status.state == TaskState.TASK_STATE_FAILED for t in world.tasks(web_id)))
            await world.until(lambda: len(world.up(web_id)) == 5)
            await world.add_node()
            with pytest.raises(AssertionError, match="not within"):
                await world.until(lambda: any(task.moves for task in world.tasks(web_id)), within=300)

    run(story())


# Dependencies.


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


# Stop and start.


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


# Placement.


def test_other_node_keeps_two_services_apart_whichever_comes_first() -> None:
    async def story() -> None:
        async with World(140).alive(4) as world:
            spec = web(2, "b")
            spec.task.placement.constraints.append("service.a==other-node")
            a_id = await world.create(web(2, "a"))
            b_id = await world.create(spec)
            await world.until(lambda: len(world.up(a_id)) == 2 and len(world.up(b_id)) == 2)
            nodes_of_b = {task.node_id for task in world.up(b_id)}
            assert not {task.node_id for task in world.up(a_id)} & nodes_of_b
            await world.update(a_id, lambda spec: setattr(spec.replicated, "replicas", 6))
            await world.until(lambda: len(world.up(a_id)) == 6)
            assert not {task.node_id for task in world.up(a_id)} & nodes_of_b

    run(story())


def test_same_node_waits_for_the_other_service_and_goes_where_it_is() -> None:
    async def story() -> None:
        async with World(141).alive(4) as world:
            spec = web(3, "cache")
            spec.task.placement.constraints.append("service.app==same-node")
            cache_id = await world.create(spec)
            await world.until(
                lambda: any(
                    "affinity to services not satisfied on 4" in t.status.message for t in world.tasks(cache_id)
                )
            )
            app_id = await world.create(web(2, "app"))
            await world.until(lambda: len(world.up(cache_id)) == 3 and len(world.up(app_id)) == 2)
            assert {t.node_id for t in world.up(cache_id)} <= {t.node_id for t in world.up(app_id)}

    run(story())


def test_a_service_beside_itself_is_all_on_one_node_and_away_from_itself_on_as_many_as_it_has_tasks() -> None:
    async def story() -> None:
        async with World(142).alive(4) as world:
            together, apart = web(3, "together"), web(3, "apart")
            together.task.placement.constraints.append("service.together==same-node")
            apart.task.placement.constraints.append("service.apart != same-node")
            together_id, apart_id = await world.create(together), await world.create(apart)
            await world.until(lambda: len(world.up(together_id)) == 3 and len(world.up(apart_id)) == 3)
            assert len({task.node_id for task in world.up(together_id)}) == 1
            assert len({task.node_id for task in world.up(apart_id)}) == 3

    run(story())


def test_binpack_fills_one_node_after_the_other() -> None:
    async def story() -> None:
        async with World(143).alive(4, cpus=4) as world:
            spec = web(6)
            spec.task.resources.reservations.nano_cpus = 10**9
            spec.task.placement.strategy = PlacementStrategy.PLACEMENT_STRATEGY_BINPACK
            web_id = await world.create(spec)
            await world.until(lambda: len(world.up(web_id)) == 6)
            assert spread(world, web_id) == [0, 0, 2, 4]
            await world.update(web_id, lambda spec: setattr(spec.replicated, "replicas", 9))
            await world.until(lambda: len(world.up(web_id)) == 9)
            assert spread(world, web_id) == [0, 1, 4, 4]

    run(story())
