"""Slots: the places of a service that hold one task at a time, and what every kind of service does with them.

A replicated service has numbered slots, a global one has a slot per node. A slot keeps its old tasks as history. Here
is how slots are read, how ended tasks get successors and how waiting successors are let go; which slots there should
be is decided in `replicated`, `global_services` and `jobs`, and replacing outdated tasks in `update`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from flota.manager.orchestrator.changes import Group
from flota.manager.orchestrator.records import ORCHESTRATOR, RESTART, short, was_stopped_with_its_service
from flota.manager.orchestrator.restart import (
    is_job,
    may_start_at,
    restarts_in_words,
    schedule,
    should_restart,
    stopping,
    waits,
    why_ended,
)
from flota.manager.orchestrator.tasks import Desired, is_dirty, must_leave, new_task, wanted
from flota.manager.store import ReadTables
from flota.v1.objects_pb2 import Cluster, Node, Service, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskState, UpdateStatus

Key = int | str


@dataclass
class World:
    """What a decision may look at: the tables, the time, chance, and what this leader has seen for itself."""

    tables: ReadTables
    now: float
    rng: Random
    # When each task was first seen RUNNING (wall seconds); only the updater asks.
    running_since: dict[str, float] = field(default_factory=dict)
    # What the service at hand waits for before its update goes on; "" = nothing.
    held: str = ""

    @property
    def cluster(self) -> Cluster | None:
        return next(iter(self.tables.clusters), None)

    def in_slot(self, service_id: str, key: Key) -> list[Task]:
        """All tasks of a slot, also those that are to be deleted."""
        return self.tables.tasks.by("slot", (service_id, key))

    def node(self, node_id: str) -> Node | None:
        """A node by its id; None when it is gone."""
        return self.tables.nodes.get(node_id)


@dataclass
class Decision:
    """What is to be written, and when to look again even if nothing happens (wall seconds)."""

    groups: list[Group] = field(default_factory=list)
    wake_at: float | None = None
    # Whether it waits for other services (dependencies.py).
    waits: bool = False

    def wake(self, at: float) -> None:
        """Look again at `at`, or earlier."""
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


@dataclass
class Slot:
    """All kept tasks of one place of a service, oldest first; `live` are those that make the place count as filled."""

    key: Key
    tasks: list[Task]
    live: list[Task] = field(default_factory=list)

    @property
    def newest(self) -> Task:
        return self.tasks[-1]


def by_slot(service: Service, tasks: Iterable[Task], per_node: bool) -> dict[Key, Slot]:
    """Group a service's tasks, without those that are on their way out, and find out which are live.

    A slot is live when it has a wanted task, or when its newest task has ended and is not to be restarted: a finished
    task fills its place. Except in a rollback, which always ends with tasks of the old spec.
    """
    slots: dict[Key, Slot] = {}
    for task in tasks:
        if task.desired_state == TaskState.TASK_STATE_REMOVE:
            continue
        key: Key = task.node_id if per_node else task.slot
        slot = slots.get(key)
        if slot is None:
            slots[key] = slot = Slot(key, [])
        slot.tasks.append(task)
    rolling_back = service.update_status.state == UpdateStatus.STATE_ROLLBACK_STARTED
    last_wanted = TaskState.TASK_STATE_COMPLETE if is_job(service) else TaskState.TASK_STATE_RUNNING
    for slot in slots.values():
        if len(slot.tasks) > 1:
            slot.tasks.sort(key=_age)
        slot.live = [task for task in slot.tasks if task.desired_state <= last_wanted]
        if slot.live or rolling_back or was_stopped_with_its_service(slot.newest):
            continue
        if not should_restart(service, slot.newest, slot.tasks):
            slot.live = [slot.newest]
    return slots


def _age(task: Task) -> tuple[int, int, int, str]:
    made = task.meta.created_at
    return made.seconds, made.nanos, task.meta.version.index, task.id


def has_ended(task: Task, world: World) -> bool:
    """Whether a wanted task needs a successor: it stopped, or it cannot stay where it is."""
    return is_terminal(task) or bool(task.node_id and must_leave(world.node(task.node_id)))


def tend(service: Service, slot: Slot, world: World, decision: Decision) -> bool:
    """Give ended tasks of a live slot their successors and start those whose turn has come.

    True when something was done here, so that the updater keeps its hands off until that is committed.
    """
    running = TaskState.TASK_STATE_COMPLETE if is_job(service) else TaskState.TASK_STATE_RUNNING
    busy = False
    for task in slot.live:
        if task.desired_state > running:
            continue
        if has_ended(task, world):
            if waits(task, world.now):
                decision.wake(task.not_before.seconds + task.not_before.nanos / 1e9)
                continue
            busy = True
            decision.groups.append(_succeed(service, slot, task, world))
        elif task.desired_state == TaskState.TASK_STATE_READY:
            at = may_start_at(task, world.in_slot(service.id, slot.key), world.node)
            if at <= world.now:
                busy = True
                decision.groups.append(Group(service.id, update=[wanted(task, running, world.now)]))
            else:
                decision.wake(at)
    return busy


def _succeed(service: Service, slot: Slot, task: Task, world: World) -> Group:
    why = why_ended(task, world.node(task.node_id))
    group = Group(service.id, update=[wanted(task, TaskState.TASK_STATE_SHUTDOWN, world.now, why, RESTART)])
    replaced_already = any(
        other is not task
        and other.desired_state <= TaskState.TASK_STATE_COMPLETE
        and not has_ended(other, world)
        and not is_dirty(service, other, world.node(other.node_id))
        for other in slot.live
    )
    if not replaced_already and should_restart(service, task, slot.tasks):
        node_id = task.node_id if isinstance(slot.key, str) else ""
        told = f"{short(task.id)} {why}; {restarts_in_words(service, task, slot.tasks, world.node(task.node_id))}"
        successor = fresh(service, slot.key, world, TaskState.TASK_STATE_READY, node_id, why=told, by=RESTART)
        schedule(successor, task, world.node(task.node_id), world.now)
        group.create.append(successor)
    return group


def fresh(
    service: Service, key: Key, world: World, desired: Desired, node_id: str = "", why: str = "", by: str = ORCHESTRATOR
) -> Task:
    """A new task for a slot; `why` is recorded."""
    number = key if isinstance(key, int) else 0
    return new_task(world.cluster, service, number, node_id, desired, world.now, world.rng, why, by)


def fill(service: Service, key: Key, world: World, node_id: str = "", why: str = "") -> Group:
    """Make the first task of a slot that has none; it waits if tasks that were here before still run."""
    running = TaskState.TASK_STATE_COMPLETE if is_job(service) else TaskState.TASK_STATE_RUNNING
    before = stopping("", world.in_slot(service.id, key), world.node)
    task = fresh(service, key, world, TaskState.TASK_STATE_READY if before else running, node_id, why)
    if before:
        task.replaces = before[-1].id
    return Group(service.id, create=[task])


def drop(
    service: Service, tasks: Iterable[Task], desired: Desired, world: World, why: str = "", by: str = ORCHESTRATOR
) -> list[Group]:
    """Make tasks unwanted: SHUTDOWN keeps them as history, REMOVE does not. One group each; `why` is recorded."""
    return [
        Group(service.id, update=[wanted(task, desired, world.now, why, by)])
        for task in tasks
        if task.desired_state < desired
    ]
