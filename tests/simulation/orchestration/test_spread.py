"""How evenly a service is spread after updates that start first."""

from collections import Counter

import pytest

from tests.simulation.orchestration.web import spread, web
from tests.simulation.orchestration.world import World
from tests.simulation.virtual_time import run


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
