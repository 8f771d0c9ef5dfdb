"""The task reaper: deletes tasks nobody needs: what was to be removed and has stopped, and history beyond the limit.

A slot (or node, for global services) keeps as many tasks as the cluster says, the live one included, and at least
`max_attempts` + 1, because restarts are counted from what is kept. Only tasks that have ended are ever deleted, oldest
first. Semantics: SwarmKit's manager/orchestrator/taskreaper.
"""

from collections.abc import Iterable, Sequence

from flota.manager.clock import Clock
from flota.manager.orchestrator.changes import Group, commit
from flota.manager.store import Event, ReadTables, Store
from flota.manager.watch_loop import RETRY_DELAY, WatchLoop
from flota.v1.objects_pb2 import Cluster, Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskState

DEFAULT_LIMIT = 5
# Seconds in which deletions gather; nobody waits for them.
_GATHER = 0.1

SlotKey = tuple[str, int | str]


def slot_of(task: Task) -> SlotKey:
    """The key of the store's "slot" index."""
    return task.service_id, task.slot or task.node_id


def limit_for(cluster: Cluster | None, service: Service | None) -> int:
    """How many tasks a slot keeps; negative = all."""
    orchestration = cluster.spec.orchestration if cluster is not None else None
    limit = DEFAULT_LIMIT
    if orchestration is not None and orchestration.HasField("task_history_retention_limit"):
        limit = orchestration.task_history_retention_limit
    attempts = service.spec.task.restart.max_attempts if service is not None else 0
    return attempts + 1 if attempts and limit >= 0 else limit


def may_go(task: Task, node: Node | None) -> bool:
    """Whether nobody will hear of this task any more."""
    if task.desired_state <= TaskState.TASK_STATE_COMPLETE and not is_terminal(task):
        return False
    return is_terminal(task) or task.status.state < TaskState.TASK_STATE_ASSIGNED or node is None


def surplus(slot: Sequence[Task], limit: int, tables: ReadTables) -> list[Task]:
    """Which tasks of a slot's history go, oldest first."""
    too_many = len(slot) - limit
    if limit < 0 or too_many <= 0:
        return []
    oldest_first = sorted(slot, key=lambda task: (task.meta.created_at.ToNanoseconds(), task.meta.version.index))
    # What is still wanted is never history, even if it has ended: its successor is yet to be made.
    old = [
        task
        for task in oldest_first
        if task.desired_state > TaskState.TASK_STATE_COMPLETE and may_go(task, tables.nodes.get(task.node_id))
    ]
    return old[:too_many]


class TaskReaper(WatchLoop):
    """A loop of the leader."""

    name = "task reaper"
    kinds = ("task", "node", "cluster")

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._to_remove: set[str] = set()
        self._slots: set[SlotKey] = set()

    def _begin(self) -> None:
        for task in self._store.tasks:
            self._note_task(task)
            self._slots.add(slot_of(task))

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event.object, Task):
                if event.kind == StoreAction.KIND_CREATE:
                    self._slots.add(slot_of(event.object))
                elif event.kind == StoreAction.KIND_UPDATE:
                    self._note_task(event.object)
                    if is_terminal(event.object):
                        self._slots.add(slot_of(event.object))
            elif isinstance(event.object, Node):
                if event.kind == StoreAction.KIND_REMOVE:
                    for task in self._store.tasks.by("node", event.object.id):
                        self._note_task(task)
            elif event.kind == StoreAction.KIND_UPDATE:
                self._begin()

    def _note_task(self, task: Task) -> None:
        # A place on a network that its container has left is of no use to anybody.
        is_left = bool(task.attachment_of) and is_terminal(task)
        if task.desired_state == TaskState.TASK_STATE_REMOVE or is_left:
            self._to_remove.add(task.id)

    def _is_due(self) -> bool:
        return bool(self._to_remove or self._slots)

    async def _round(self) -> float:
        """Delete what may go now."""
        tables = self._store
        slots, self._slots = self._slots, set()
        to_remove, self._to_remove = self._to_remove, set()
        going: dict[str, Task] = {}
        for task_id in to_remove:
            task = tables.tasks.get(task_id)
            if task is not None and may_go(task, tables.nodes.get(task.node_id)):
                going[task.id] = task
        for key in slots:
            limit = limit_for(tables.cluster, tables.services.get(key[0]))
            for task in surplus(tables.tasks.by("slot", key), limit, tables):
                going[task.id] = task
        stale, failed = await commit(self._store, [Group(task.id, remove=[task]) for task in going.values()])
        for task_id in stale | failed:
            self._to_remove.add(task_id)
            self._slots.add(slot_of(going[task_id]))
        return RETRY_DELAY if failed else _GATHER
