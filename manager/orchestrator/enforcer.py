"""The constraint enforcer: evicts tasks from nodes that no longer fulfil their constraints or have room for them.

When a node changes (a label, its role, its resources), its tasks are checked against their service's current
constraints and against what the node has. Those that no longer fit become REJECTED; the orchestrators then replace
them elsewhere, and the worker is told to stop them. Only active nodes: a drained one is emptied anyway, a paused one
keeps what it has. Semantics: SwarmKit's manager/orchestrator/constraintenforcer.
"""

from collections.abc import Iterable

from flota.manager.clock import Clock, timestamp
from flota.manager.constraint import node_fits
from flota.manager.orchestrator.changes import Group, commit
from flota.manager.scheduler.demand import GenericPool
from flota.manager.store import Event, ReadTables, Store
from flota.manager.watch_loop import RETRY_DELAY, WatchLoop
from flota.v1.objects_pb2 import Node, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState

MESSAGE = "assigned node no longer meets constraints"


def evicted(node: Node, tables: ReadTables, now: float) -> list[Group]:
    """The tasks that have to leave `node`, as REJECTED copies."""
    if (
        node.spec.availability != NodeAvailability.NODE_AVAILABILITY_ACTIVE
        or node.status.state == NodeState.NODE_STATE_DOWN
    ):
        return []
    resources = node.description.resources
    cpu, memory = resources.nano_cpus, resources.memory_bytes
    generic = GenericPool(resources)
    groups: list[Group] = []
    tasks = sorted(tables.tasks.by("node", node.id), key=lambda task: (task.meta.created_at.ToNanoseconds(), task.id))
    for task in tasks:
        if not TaskState.TASK_STATE_ASSIGNED <= task.status.state <= TaskState.TASK_STATE_RUNNING:
            continue
        if task.desired_state > TaskState.TASK_STATE_COMPLETE:
            continue
        service = tables.services.get(task.service_id)
        placement = service.spec.task.placement if service is not None else task.spec.placement
        if not node_fits(placement.constraints, node):
            groups.append(_reject(task, MESSAGE, now))
            continue
        reserved = task.spec.resources.reservations
        held = [(thing.kind, 1 if thing.name else thing.count) for thing in task.assigned_generic]
        if (
            (reserved.nano_cpus and reserved.nano_cpus > cpu)
            or (reserved.memory_bytes and reserved.memory_bytes > memory)
            or not generic.has(held)
        ):
            groups.append(_reject(task, "assigned node no longer has the resources reserved for it", now))
            continue
        cpu -= reserved.nano_cpus
        memory -= reserved.memory_bytes
        generic.take(task.assigned_generic)
    return groups


def _reject(task: Task, why: str, now: float) -> Group:
    rejected = Task()
    rejected.CopyFrom(task)
    status = rejected.status
    status.state = TaskState.TASK_STATE_REJECTED
    status.message = "task rejected by the constraint enforcer"
    status.error = why
    status.timestamp.CopyFrom(timestamp(now))
    status.applied_at.CopyFrom(timestamp(now))
    return Group(task.node_id, update=[rejected])


class ConstraintEnforcer(WatchLoop):
    """A loop of the leader."""

    name = "constraint enforcer"
    kinds = ("node",)

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._dirty: dict[str, None] = {}

    def _begin(self) -> None:
        self._dirty = {node.id: None for node in self._store.nodes}

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            node, old = event.object, event.old
            if not isinstance(node, Node) or event.kind == StoreAction.KIND_REMOVE:
                continue
            if (
                isinstance(old, Node)
                and old.spec == node.spec
                and old.description == node.description
                and old.role == node.role
                and old.status == node.status
            ):
                continue
            self._dirty[node.id] = None

    def _is_due(self) -> bool:
        return bool(self._dirty)

    async def _round(self) -> float:
        dirty, self._dirty = self._dirty, {}
        now = self._clock.now()
        groups: list[Group] = []
        for node_id in dirty:
            node = self._store.nodes.get(node_id)
            if node is not None:
                groups += evicted(node, self._store, now)
        stale, failed = await commit(self._store, groups)
        self._dirty |= dict.fromkeys(stale | failed)
        return RETRY_DELAY if failed else 0.0
