"""What a worker tells Prometheus."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SESSION = Gauge("flota_worker_session", "1 while this node has a session with a manager.")
SESSIONS = Counter("flota_worker_sessions", "Sessions opened, by how the one before ended.", ["reason"])
STARTED = Counter("flota_worker_container_starts", "Containers that came to run.")
START = Histogram(
    "flota_worker_container_start_seconds",
    "From a task's arrival on this node to its container running, the wait for its turn and its health included.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
ENDED = Counter("flota_worker_tasks_ended", "Tasks that ended, by their last state.", ["state"])
REPORTS = Counter("flota_worker_status_reports", "Calls that told the managers of tasks.")
REPORTED = Counter("flota_worker_statuses_reported", "Statuses in those calls.")


class TaskStates(Collector):
    """Tasks on this node by state, counted when asked."""

    def __init__(self, by_state: Callable[[], Mapping[str, int]]) -> None:
        self._by_state = by_state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called in the thread that answers /metrics."""
        family = GaugeMetricFamily("flota_worker_tasks", "Tasks on this node by state.", labels=["state"])
        for state, count in self._by_state().items():
            family.add_metric([state], count)
        yield family


def follow(by_state: Callable[[], Mapping[str, int]]) -> Callable[[], None]:
    """Count these tasks from now on; gives back what ends it."""
    collector = TaskStates(by_state)
    REGISTRY.register(collector)
    return lambda: REGISTRY.unregister(collector)
