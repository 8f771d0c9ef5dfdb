"""Stories of services on virtual time."""

import pytest

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import NodeAvailability, TaskState, UpdateConfig, UpdateStatus
from tests.simulation.orchestration.world import Faults, World
from tests.simulation.virtual_time import run

RUNNING = TaskState.TASK_STATE_RUNNING


def web(replicas: int = 3, name: str = "web", image: str = "app:1", network: str = "") -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = name
    spec.task.container.image = image
    spec.replicated.replicas = replicas
    spec.update.parallelism = 1
    if network:
        spec.task.networks.add(target=network)
    return spec


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
