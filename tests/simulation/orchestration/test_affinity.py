"""Services beside each other, away from each other, and nodes that are filled one after the other."""

from flota.v1.types_pb2 import PlacementStrategy
from tests.simulation.orchestration.web import spread, web
from tests.simulation.orchestration.world import World
from tests.simulation.virtual_time import run


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
