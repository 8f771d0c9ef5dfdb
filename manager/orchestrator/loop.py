"""The orchestrator's loop: notes which services an event concerns, asks their decision function, commits, waits.

One loop for all modes. Decisions are made from the store as it is, never from what an event said; so starting, taking
over after a failover, and being told twice are all the same. It also lets go of tasks whose service is gone.
"""

import heapq
from collections.abc import Iterable
from dataclasses import replace
from random import Random

from flota.manager.clock import Clock
from flota.manager.orchestrator import dependencies, global_services, jobs, replicated
from flota.manager.orchestrator.changes import Group, commit
from flota.manager.orchestrator.records import STOP
from flota.manager.orchestrator.slots import Decision, World, drop
from flota.manager.orchestrator.tasks import is_dirty
from flota.manager.store import Event, ReadTables, Store
from flota.manager.watch_loop import RETRY_DELAY, WatchLoop
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskState, UpdateStatus

_MODES = {
    "replicated": replicated.decide,
    "global": global_services.decide,
    "replicated_job": jobs.decide_replicated,
    "global_job": jobs.decide_global,
}
# Services decided together, so that one transaction can carry many small decisions.
_SERVICES_AT_ONCE = 100
# And no more of their tasks than can be looked at without holding up the event loop, which carries heartbeats.
_TASKS_AT_ONCE = 1000
# Seconds for each of its tasks in which a service is not decided again: what happens meanwhile is taken together. A
# service of 1,000 tasks on nodes that come and go would otherwise keep this loop busy for good.
_PAUSE_PER_TASK = 0.000_1


def decide(service_id: str, world: World) -> Decision:
    """What to write for one service, whatever its mode; also for one that is gone but has tasks left."""
    service = world.tables.services.get(service_id)
    tasks = world.tables.tasks.by("service", service_id)
    if service is None:
        return Decision(drop(Service(id=service_id), tasks, TaskState.TASK_STATE_REMOVE, world))
    if service.spec.stopped:
        wanted = [task for task in tasks if task.desired_state <= TaskState.TASK_STATE_COMPLETE]
        return Decision(drop(service, wanted, TaskState.TASK_STATE_SHUTDOWN, world, "the service was stopped", STOP))
    held = dependencies.waits_for(service, world.tables) if service.spec.depends_on else ""
    waiting = held if _is_held(service, world.tables) else ""
    before = service
    if waiting != service.waits_for:
        service = Service()
        service.CopyFrom(before)
        service.waits_for = waiting
    if waiting and not dependencies.has_begun(service, world.tables):
        decision = Decision()
    else:
        mode = service.spec.WhichOneof("mode") or "replicated"
        decision = _MODES[mode](service, replace(world, held=waiting))
    if service is not before and not any(isinstance(each, Service) for g in decision.groups for each in g.update):
        decision.groups.append(Group(service.id, update=[service]))
    decision.waits = bool(waiting)
    return decision


def _is_held(service: Service, tables: ReadTables) -> bool:
    """Whether what it depends on matters now: before its first tasks, and while outdated ones are to be replaced."""
    if not dependencies.has_begun(service, tables):
        return True
    if service.update_status.state == UpdateStatus.STATE_UPDATING:
        return True
    tasks = tables.tasks.by("service", service.id)
    return any(
        task.desired_state <= TaskState.TASK_STATE_RUNNING and is_dirty(service, task, tables.nodes.get(task.node_id))
        for task in tasks
    )


class Orchestrator(WatchLoop):
    """A loop of the leader."""

    name = "orchestrator"
    kinds = ("service", "task", "node")

    def __init__(self, store: Store, clock: Clock, rng: Random) -> None:
        super().__init__(store, clock)
        self._rng = rng
        # In the order in which they were touched; the values mean nothing.
        self._dirty: dict[str, None] = {}
        self._alarms: list[tuple[float, str]] = []
        self._alarm_of: dict[str, float] = {}
        self._running_since: dict[str, float] = {}
        self._decided_at: dict[str, float] = {}
        # Names of services that others wait for → those.
        self._waited_for: dict[str, set[str]] = {}
        self._waiting: set[str] = set()

    def _begin(self) -> None:
        for service in self._store.services:
            self._touch(service.id)
        for task in self._store.tasks:
            self._touch(task.service_id)

    def _touch(self, service_id: str) -> None:
        if service_id:
            self._dirty[service_id] = None

    def _is_due(self) -> bool:
        self._ring()
        return bool(self._dirty)

    def _wake_at(self) -> float | None:
        return self._alarms[0][0] if self._alarms else None

    async def _round(self) -> float:
        """Decide some of the dirty services and commit."""
        world = World(self._store, self._clock.now(), self._rng, self._running_since)
        groups: list[Group] = []
        looked_at = 0
        for service_id in list(self._dirty)[:_SERVICES_AT_ONCE]:
            if looked_at >= _TASKS_AT_ONCE:
                break
            del self._dirty[service_id]
            tasks = self._store.tasks.count("service", service_id)
            calm = self._decided_at.get(service_id, 0.0) + tasks * _PAUSE_PER_TASK
            if calm > world.now:
                self._set_alarm(service_id, calm)
                continue
            looked_at += tasks
            decision = decide(service_id, world)
            self._decided_at[service_id] = world.now
            if not tasks and self._store.services.get(service_id) is None:
                del self._decided_at[service_id]
            groups += decision.groups
            if decision.wake_at is not None:
                self._set_alarm(service_id, decision.wake_at)
            self._set_waiting(service_id, decision.waits)
        refused, failed = await commit(self._store, groups)
        for service_id in refused | failed:
            self._touch(service_id)
        return RETRY_DELAY if failed else 0.0

    def _set_waiting(self, service_id: str, waits: bool) -> None:
        """Remember whom a service waits for, so that news of those concern it."""
        if service_id in self._waiting:
            self._waiting.discard(service_id)
            for waiting in self._waited_for.values():
                waiting.discard(service_id)
        service = self._store.services.get(service_id)
        if waits and service is not None:
            self._waiting.add(service_id)
            for dependency in service.spec.depends_on:
                self._waited_for.setdefault(dependency.service, set()).add(service_id)

    def _touch_waiting(self, name: str) -> None:
        if self._waiting:
            for service_id in self._waited_for.get(name, ()):
                self._touch(service_id)

    def _set_alarm(self, service_id: str, at: float) -> None:
        known = self._alarm_of.get(service_id)
        if known is None or at < known:
            self._alarm_of[service_id] = at
            heapq.heappush(self._alarms, (at, service_id))

    def _ring(self) -> None:
        now = self._clock.now()
        while self._alarms and self._alarms[0][0] <= now:
            at, service_id = heapq.heappop(self._alarms)
            if self._alarm_of.get(service_id) == at:
                del self._alarm_of[service_id]
                self._touch(service_id)

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event.object, Task):
                self._note_task(event.object, event)
            elif isinstance(event.object, Service):
                self._touch(event.object.id)
                self._touch_waiting(event.object.spec.annotations.name)
            elif isinstance(event.object, Node):
                self._note_node(event.object, event)

    def _note_task(self, task: Task, event: Event) -> None:
        old = event.old
        self._touch_waiting(task.service_annotations.name)
        if event.kind == StoreAction.KIND_REMOVE:
            self._running_since.pop(task.id, None)
            self._touch(task.service_id)
            return
        if not isinstance(old, Task):
            self._touch(task.service_id)
            return
        moved = old.status.state != task.status.state
        if moved and task.status.state == TaskState.TASK_STATE_RUNNING:
            self._running_since.setdefault(task.id, self._clock.now())
        ended = moved and is_terminal(task)
        # One that waits for a place it was meant for may have to give it up; one that moves is waited for.
        told = task.moves and (
            moved or old.status.error != task.status.error or old.status.unready != task.status.unready
        )
        if ended or told or old.desired_state != task.desired_state or (moved and self._is_updating(task.service_id)):
            self._touch(task.service_id)

    def _is_updating(self, service_id: str) -> bool:
        service = self._store.services.get(service_id)
        state = service.update_status.state if service is not None else UpdateStatus.STATE_UNSPECIFIED
        return state in (UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_ROLLBACK_STARTED)

    def _note_node(self, node: Node, event: Event) -> None:
        old = event.old
        if (
            isinstance(old, Node)
            and event.kind == StoreAction.KIND_UPDATE
            and old.spec == node.spec
            and old.status.state == node.status.state
            and old.description == node.description
            and old.role == node.role
        ):
            return
        for task in self._store.tasks.by("node", node.id):
            self._touch(task.service_id)
        for service in self._store.services:
            if service.spec.WhichOneof("mode") in ("global", "global_job"):
                self._touch(service.id)
