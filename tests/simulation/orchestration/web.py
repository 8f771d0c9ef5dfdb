"""The service that stories are about, and how evenly and how whole it runs."""

from collections import Counter
from collections.abc import Callable

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import TaskState, UpdateConfig
from tests.simulation.orchestration.world import World

RUNNING = TaskState.TASK_STATE_RUNNING


def web(
    replicas: int = 3, name: str = "web", start_first: bool = False, image: str = "app:1", network: str = ""
) -> ServiceSpec:
    spec = ServiceSpec()
    spec.annotations.name = name
    spec.task.container.image = image
    spec.replicated.replicas = replicas
    spec.update.parallelism = 1
    if network:
        spec.task.networks.add(target=network)
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
