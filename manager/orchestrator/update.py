"""The updater: replaces outdated tasks slot by slot, watches whether the new ones hold, and pauses or rolls back.

Pure, and level-triggered: everything it needs stands in the service (`update_status`) and its tasks, except when a task
was first seen running. A slot has been "touched" by the update in progress when it has a task of the current spec
version made since the update began; the first such task says how the slot went.

- A touched slot is busy until its first new task runs (or has ended), and then for the configured delay. At most
  `parallelism` slots are busy at once. Slots where nothing runs come first, so that a newer spec, which supersedes an
  update in progress, takes over the slots where that one was at work before it touches others.
- stop-first: the new task is wanted READY and replaces the old one, which is wanted SHUTDOWN; the restart rules start
  it when the old one has stopped. start-first: the new one is wanted RUNNING; the old one goes when it runs.
- A first new task that ends within `monitor` of running is a failure. More failures than `max_failure_ratio` of the
  slots concerned: pause, or go back to the previous spec. A rollback that fails pauses; it is never rolled back.
- After the last slot, failures are watched for one more `monitor`.

A service whose spec changes loses its `update_status` (the control API clears it), so a newer spec supersedes.
Semantics: SwarmKit's manager/orchestrator/update.
"""

from dataclasses import dataclass

from flota.manager.clock import seconds, timestamp
from flota.manager.orchestrator.changes import Group
from flota.manager.orchestrator.records import UPDATE, note, short
from flota.manager.orchestrator.restart import stopped_at
from flota.manager.orchestrator.slots import Decision, Slot, World, drop, fresh
from flota.manager.orchestrator.tasks import is_dirty, wanted
from flota.v1.objects_pb2 import Service, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskState, UpdateConfig, UpdateStatus

DEFAULT_MONITOR = 5.0

_IN_PROGRESS = {UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_ROLLBACK_STARTED}
_PAUSED = {UpdateStatus.STATE_PAUSED, UpdateStatus.STATE_ROLLBACK_PAUSED}


@dataclass(frozen=True)
class Plan:
    """An update configuration, read: times in seconds, parallelism 0 = all."""

    parallelism: int
    delay: float
    monitor: float
    action: "UpdateConfig.FailureAction.ValueType"
    ratio: float
    start_first: bool

    @classmethod
    def of(cls, service: Service) -> "Plan":
        """The one that counts now: the rollback's while rolling back."""
        rolling_back = service.update_status.state == UpdateStatus.STATE_ROLLBACK_STARTED
        spec = service.spec
        config = spec.rollback if rolling_back else spec.update
        if not (spec.HasField("rollback") if rolling_back else spec.HasField("update")):
            config = UpdateConfig(parallelism=1)
        delay = config.delay.seconds + config.delay.nanos / 1e9
        monitor = config.monitor.seconds + config.monitor.nanos / 1e9 if config.HasField("monitor") else DEFAULT_MONITOR
        action = config.failure_action
        if rolling_back and action == UpdateConfig.FAILURE_ACTION_ROLLBACK:
            action = UpdateConfig.FAILURE_ACTION_PAUSE
        return cls(
            parallelism=config.parallelism,
            delay=delay,
            # Swarm's rule: the next slot's start must not hide the failure of the last one.
            monitor=monitor if monitor > delay else delay + 1.0,
            action=action,
            ratio=config.max_failure_ratio,
            start_first=config.order == UpdateConfig.ORDER_START_FIRST,
        )


def decide(service: Service, live: list[Slot], at_rest: list[Slot], world: World, decision: Decision) -> None:
    """Add to `decision` what the update needs next. `live` are all slots, `at_rest` those nobody else changes now."""
    state = service.update_status.state
    if state in _PAUSED:
        return
    message = f"waits for {world.held}" if world.held else "update in progress"
    dirty = [slot for slot in live if _is_dirty(service, slot, world)]
    if state not in _IN_PROGRESS:
        outdated = [slot for slot in dirty if any(_outdated(service, task, world) for task in slot.live)]
        if not outdated:
            _remove_doubles(service, dirty, at_rest, world, decision)
            return
        service = _with_status(service, UpdateStatus.STATE_UPDATING, message, world.now)
        decision.groups.append(Group(service.id, update=[service]))
    elif state == UpdateStatus.STATE_UPDATING and message != service.update_status.message:
        started = service.update_status.started_at
        service = _with_status(service, UpdateStatus.STATE_UPDATING, message, world.now)
        service.update_status.started_at.CopyFrom(started)
        decision.groups.append(Group(service.id, update=[service]))
    plan = Plan.of(service)
    began = seconds(service.update_status.started_at)
    touched = {slot.key: first for slot in live if (first := _first_new(service, slot, began)) is not None}
    concerned = len(touched.keys() | {slot.key for slot in dirty})

    failed = [first for first in touched.values() if _failed_early(first, world, plan.monitor)]
    if failed and plan.action != UpdateConfig.FAILURE_ACTION_CONTINUE and len(failed) / concerned > plan.ratio:
        decision.groups.append(_give_up(service, plan, failed[0], world.now))
        return

    busy, last = _busy(touched, plan, world, decision)
    if not dirty:
        _finish(service, touched, busy, last, plan, world, decision)
        return
    free = (plan.parallelism or concerned) - len(busy)
    if world.held and state != UpdateStatus.STATE_ROLLBACK_STARTED:
        free = 0
    resting = {slot.key for slot in at_rest}
    for slot in sorted(dirty, key=_serves):
        if slot.key not in resting:
            if not _serves(slot) and slot.key not in busy:
                free -= 1
            continue
        clean = _best_clean(service, slot, world)
        if clean is not None:
            decision.groups += _settle(service, slot, clean, plan, world)
        elif free > 0 and slot.key not in busy:
            free -= 1
            decision.groups.append(_replace(service, slot, plan, world))


def _outdated(service: Service, task: Task, world: World) -> bool:
    return is_dirty(service, task, world.node(task.node_id) if task.node_id else None)


def _is_dirty(service: Service, slot: Slot, world: World) -> bool:
    return len(slot.live) > 1 or _outdated(service, slot.live[0], world)


def _first_new(service: Service, slot: Slot, began: float) -> Task | None:
    for task in slot.tasks:
        if task.spec_version == service.spec_version and seconds(task.meta.created_at) >= began:
            return task
    return None


def _failed_early(task: Task, world: World, monitor: float) -> bool:
    """Whether a new task ended by itself before it had run for `monitor` seconds."""
    if not is_terminal(task) or task.status.state == TaskState.TASK_STATE_SHUTDOWN:
        return False
    since = world.running_since.get(task.id)
    return since is None or stopped_at(task) - since <= monitor


def _reached(task: Task, world: World) -> float | None:
    """When a new task ran or ended, or None while it is still on its way."""
    if task.status.state < TaskState.TASK_STATE_RUNNING:
        return None if task.desired_state <= TaskState.TASK_STATE_RUNNING else seconds(task.meta.updated_at)
    return world.running_since.get(task.id, stopped_at(task))


def _busy(touched: dict[int | str, Task], plan: Plan, world: World, decision: Decision) -> tuple[set[int | str], float]:
    """The slots that count against parallelism, and when the last slot got there."""
    busy: set[int | str] = set()
    last = 0.0
    for key, first in touched.items():
        reached = _reached(first, world)
        if reached is None:
            if not _had_no_node(first, world):
                busy.add(key)
            continue
        last = max(last, reached)
        if reached + plan.delay > world.now:
            busy.add(key)
            decision.wake(reached + plan.delay)
    return busy, last


def _had_no_node(first: Task, world: World) -> bool:
    """Whether a new task took the place of one that waited for a node: nothing was lost, so nobody waits for it."""
    old = world.tables.tasks.get(first.replaces) if first.replaces else None
    return old is not None and not old.node_id and first.status.state == TaskState.TASK_STATE_PENDING


def _serves(slot: Slot) -> bool:
    """Whether the slot has a running task; if not, an update that was superseded may have been at work there."""
    return any(task.status.state == task.desired_state == TaskState.TASK_STATE_RUNNING for task in slot.live)


def _best_clean(service: Service, slot: Slot, world: World) -> Task | None:
    clean = [
        task
        for task in slot.live
        if not _outdated(service, task, world) and task.desired_state <= TaskState.TASK_STATE_RUNNING
    ]
    return max(clean, key=lambda task: (task.desired_state, task.status.state), default=None)


def _settle(service: Service, slot: Slot, clean: Task, plan: Plan, world: World) -> list[Group]:
    """The slot has what it needs: let the others go, when their time has come."""
    if plan.start_first and clean.status.state != TaskState.TASK_STATE_RUNNING:
        return []
    others = [task for task in slot.live if task is not clean]
    why = f"replaced by {short(clean.id)}, which is up to date"
    groups = drop(service, others, TaskState.TASK_STATE_SHUTDOWN, world, why, UPDATE)
    if clean.desired_state == TaskState.TASK_STATE_READY and not clean.replaces and others:
        waiting = wanted(clean, TaskState.TASK_STATE_READY, world.now)
        waiting.replaces = others[0].id
        groups.append(Group(service.id, update=[waiting]))
    return groups


def _replace(service: Service, slot: Slot, plan: Plan, world: World) -> Group:
    old = max(slot.live, key=lambda task: task.status.state if not is_terminal(task) else -1)
    node_id = old.node_id if isinstance(slot.key, str) else ""
    desired = TaskState.TASK_STATE_RUNNING if plan.start_first else TaskState.TASK_STATE_READY
    order = "start-first" if plan.start_first else "stop-first"
    versions = f"spec version {old.spec_version.index} → {service.spec_version.index}"
    new = fresh(service, slot.key, world, desired, node_id, f"replaces {short(old.id)}: {versions}, {order}", UPDATE)
    new.replaces = old.id
    group = Group(service.id, create=[new])
    group.update += [
        wanted(task, TaskState.TASK_STATE_SHUTDOWN, world.now, f"replaced by {short(new.id)}: {versions}", UPDATE)
        for task in slot.live
        if task.desired_state < TaskState.TASK_STATE_SHUTDOWN
        # Start-first keeps one, if it can serve anybody: not what has no node, nor what an earlier update had begun.
        and (not plan.start_first or task is not old or task.status.state < TaskState.TASK_STATE_ASSIGNED)
    ]
    return group


def _remove_doubles(service: Service, dirty: list[Slot], at_rest: list[Slot], world: World, decision: Decision) -> None:
    """Two up-to-date tasks in one slot (a commit that was thought lost): keep the one that is furthest."""
    resting = {slot.key for slot in at_rest}
    for slot in dirty:
        clean = _best_clean(service, slot, world)
        if clean is not None and slot.key in resting:
            others = [task for task in slot.live if task is not clean]
            why = f"one too many: {short(clean.id)} is in its slot"
            decision.groups += drop(service, others, TaskState.TASK_STATE_SHUTDOWN, world, why)


def _finish(
    service: Service, touched: dict[int | str, Task], busy: set[int | str], last: float, plan: Plan, world: World,
    decision: Decision,
) -> None:  # fmt: skip
    if busy or any(_reached(first, world) is None for first in touched.values()):
        return
    done = last + plan.monitor if touched else world.now
    if done > world.now:
        decision.wake(done)
        return
    if service.update_status.state == UpdateStatus.STATE_UPDATING:
        completed = _with_status(service, UpdateStatus.STATE_COMPLETED, "update completed", world.now)
    else:
        completed = _with_status(service, UpdateStatus.STATE_ROLLBACK_COMPLETED, "rollback completed", world.now)
    decision.groups.append(Group(service.id, update=[completed]))


def _give_up(service: Service, plan: Plan, failed: Task, now: float) -> Group:
    because = f"due to failure or early termination of task {failed.id}"
    rolling_back = service.update_status.state == UpdateStatus.STATE_ROLLBACK_STARTED
    if rolling_back:
        changed = _with_status(service, UpdateStatus.STATE_ROLLBACK_PAUSED, f"rollback paused {because}", now)
    elif plan.action == UpdateConfig.FAILURE_ACTION_ROLLBACK and service.HasField("previous_spec"):
        changed = _with_status(service, UpdateStatus.STATE_ROLLBACK_STARTED, f"update rolled back {because}", now)
        changed.spec.CopyFrom(service.previous_spec)
        changed.spec_version.CopyFrom(service.previous_spec_version)
        changed.ClearField("previous_spec")
        changed.ClearField("previous_spec_version")
    else:
        changed = _with_status(service, UpdateStatus.STATE_PAUSED, f"update paused {because}", now)
    return Group(service.id, update=[changed])


def _with_status(service: Service, state: "UpdateStatus.State.ValueType", message: str, now: float) -> Service:
    changed = Service()
    changed.CopyFrom(service)
    status = changed.update_status
    status.state = state
    status.message = message
    note(changed, UPDATE, message, now)
    if state in _IN_PROGRESS:
        status.started_at.CopyFrom(timestamp(now))
    if state in (UpdateStatus.STATE_COMPLETED, UpdateStatus.STATE_ROLLBACK_COMPLETED):
        status.completed_at.CopyFrom(timestamp(now))
    else:
        status.ClearField("completed_at")
    return changed
