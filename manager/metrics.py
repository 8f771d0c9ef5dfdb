"""What the store holds, in numbers: nodes and tasks by state, services. Kept up by watching, never by counting anew."""

from collections.abc import Callable, Sized

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from flota.manager.store import Event, Store, WatchClosed
from flota.manager.store.schema import StoreObject
from flota.v1.objects_pb2 import Node, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import NodeState, TaskState


def _task_state(task: Task) -> str:
    return TaskState.Name(task.status.state).removeprefix("TASK_STATE_").lower()


def _node_state(node: Node) -> str:
    return NodeState.Name(node.status.state).removeprefix("NODE_STATE_").lower()


class StoreMetrics:
    """Gauges over the store, on every manager alike."""

    def __init__(self, store: Store, registry: CollectorRegistry = REGISTRY) -> None:
        self._store = store
        self._tasks = Gauge("flota_manager_tasks", "Tasks by observed state.", ["state"], registry=registry)
        self._nodes = Gauge("flota_manager_nodes", "Nodes by state.", ["state"], registry=registry)
        plain = {word: f"{word.capitalize()}s in the store." for word in ("service", "network", "secret", "config")}
        self._plain = {word: Gauge(f"flota_manager_{word}s", text, registry=registry) for word, text in plain.items()}

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            with self._store.watch("task", "node", *self._plain) as changes:
                self._count()
                try:
                    async for events in changes:
                        for event in events:
                            self._note(event)
                except WatchClosed:
                    continue

    def _count(self) -> None:
        self._tasks.clear()
        self._nodes.clear()
        for value in TaskState.DESCRIPTOR.values:
            self._tasks.labels(value.name.removeprefix("TASK_STATE_").lower()).set(0)
        for task in self._store.tasks:
            self._tasks.labels(_task_state(task)).inc()
        for node in self._store.nodes:
            self._nodes.labels(_node_state(node)).inc()
        tables: dict[str, Sized] = {
            "service": self._store.services, "network": self._store.networks,
            "secret": self._store.secrets, "config": self._store.configs,
        }  # fmt: skip
        for word, table in tables.items():
            self._plain[word].set(len(table))

    def _note(self, event: Event) -> None:
        removed = event.kind == StoreAction.KIND_REMOVE
        if isinstance(event.object, Task):
            self._move(self._tasks, _task_state, event, removed)
        elif isinstance(event.object, Node):
            self._move(self._nodes, _node_state, event, removed)
        elif event.kind == StoreAction.KIND_CREATE:
            self._plain[event.word].inc()
        elif removed:
            self._plain[event.word].dec()

    @staticmethod
    def _move(gauge: Gauge, state: Callable[..., str], event: Event, removed: bool) -> None:
        before: StoreObject | None = event.old
        old, new = None if before is None else state(before), None if removed else state(event.object)
        if old == new:
            return
        if old is not None:
            gauge.labels(old).dec()
        if new is not None:
            gauge.labels(new).inc()
