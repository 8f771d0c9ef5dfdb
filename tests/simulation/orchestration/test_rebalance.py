"""Nodes that come get tasks that run elsewhere, if a policy says so."""

import asyncio
from collections import Counter

import pytest

from flota.manager.orchestrator.arrivals import SETTLE
from flota.v1.types_pb2 import NodeAvailability, NodeState, RebalancePolicy, TaskState
from tests.simulation.orchestration.web import Fewest, spread, web
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run

RUNNING = TaskState.TASK_STATE_RUNNING
DRAIN = NodeAvailability.NODE_AVAILABILITY_DRAIN
ACTIVE = NodeAvailability.NODE_AVAILABILITY_ACTIVE
ALWAYS = RebalancePolicy.REBALANCE_POLICY_ALWAYS
ON_JOIN = RebalancePolicy.REBALANCE_POLICY_ON_JOIN


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
