"""Has a service reached what was asked for? A pure reading of a service, its tasks and the nodes.

A task counts when it runs and was made from the service's spec as it is now. Failures are counted from when the wait
began: a slot that fails again and again will not converge, and a person should hear why.
Never talks to anybody and never prints (waiting.py does).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from flota.stacks.units import NANO, nanoseconds_of
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.task_states import short_name
from flota.v1.types_pb2 import NodeAvailability, NodeState, RestartPolicy, TaskState, UpdateStatus

DEFAULT_MONITOR = 5.0
# So many failed tasks of one slot, and the wait is over.
TOLERATED_FAILURES = 3

_FAILED = (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED)
_MOVING = (UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_ROLLBACK_STARTED)
# How far a task has come, in tenths.
_STEPS = {
    TaskState.TASK_STATE_NEW: 1,
    TaskState.TASK_STATE_PENDING: 2,
    TaskState.TASK_STATE_ASSIGNED: 3,
    TaskState.TASK_STATE_ACCEPTED: 4,
    TaskState.TASK_STATE_PREPARING: 5,
    TaskState.TASK_STATE_READY: 6,
    TaskState.TASK_STATE_STARTING: 8,
    TaskState.TASK_STATE_RUNNING: 10,
    TaskState.TASK_STATE_COMPLETE: 10,
}


class Goal(Enum):
    """What a service is waited for."""

    # All its tasks run (a job: are complete) and have stayed so for the monitor time.
    STABLE = "stable"
    # Stacks start services in order; these are for the next one in line, and need not stay so.
    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "complete"


@dataclass(frozen=True)
class TaskLine:
    """One slot (or node, for global services) as it is now."""

    place: str
    state: str
    tenths: int
    node: str
    note: str


@dataclass(frozen=True)
class Progress:
    """Where a service is on its way."""

    done: int
    wanted: int
    word: str
    lines: tuple[TaskLine, ...]
    converged: bool
    # Why it will not get there; empty while it may.
    failure: str
    # What the updater says, for people.
    message: str


@dataclass
class Convergence:
    """Follows one service. Give it every object, then ask for `progress()`."""

    service: Service
    # Failures of the time before are history, not news.
    old_failures: set[str] = field(default_factory=set)
    # An update that was already over when the wait began says nothing about this one.
    old_update: str = ""
    # A person asked for the rollback; otherwise one is a failure.
    rollback_wanted: bool = False
    goal: Goal = Goal.STABLE
    tasks: dict[str, Task] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    _failures: dict[str, dict[str, Task]] = field(default_factory=dict)

    def remember_history(self, tasks: Iterable[Task]) -> None:
        """Take tasks that have already failed as history."""
        self.old_failures |= {task.id for task in tasks if task.status.state in _FAILED}

    def observe_task(self, task: Task, removed: bool = False) -> None:
        """A task was made, has moved, or is gone."""
        if removed:
            self.tasks.pop(task.id, None)
            return
        self.tasks[task.id] = task
        if task.status.state in _FAILED and task.id not in self.old_failures:
            self._failures.setdefault(_place(task), {})[task.id] = task

    @property
    def monitor(self) -> float:
        """Seconds for which tasks must stay up before anybody believes it."""
        if self.goal is not Goal.STABLE or self.service.spec.stopped:
            return 0.0
        update = self.service.spec.update
        return nanoseconds_of(update.monitor) / NANO if update.HasField("monitor") else DEFAULT_MONITOR

    @property
    def is_job(self) -> bool:
        """Jobs end; once they are complete there is nothing to watch."""
        return self.service.spec.WhichOneof("mode") in ("replicated_job", "global_job")

    @property
    def updating(self) -> bool:
        """An update, or a rollback, is under way."""
        return self.service.update_status.state in _MOVING

    @property
    def pause(self) -> float:
        """Seconds for which an update under way may rightly hold still: its delay, or its look at the last tasks."""
        if not self.updating:
            return 0.0
        spec = self.service.spec
        delays = [nanoseconds_of(each.delay) / NANO for each in (spec.update, spec.rollback)]
        monitors = [
            nanoseconds_of(each.monitor) / NANO if each.HasField("monitor") else DEFAULT_MONITOR
            for each in (spec.update, spec.rollback)
        ]
        return max(delays) + max(monitors)

    def standing(self) -> str:
        """Where it stands, for people: how many are there, and what the first of the others says."""
        progress = self.progress()
        text = f"{progress.done} of {progress.wanted} {progress.word} are there"
        for line in progress.lines:
            if line.tenths < _STEPS[TaskState.TASK_STATE_RUNNING]:
                note = f": {line.note}" if line.note else ""
                return f"{text}, {self.service.spec.annotations.name}.{line.place} is {line.state}{note}"
        return text

    def progress(self) -> Progress:
        """Where the service is now."""
        lines = tuple(self._line(place, task) for place, task in sorted(self._current().items(), key=_order))
        done = sum(1 for task in self._current().values() if self._counts(task))
        wanted, word = self._wanted(), "tasks"
        if self.is_job and self.goal in (Goal.STARTED, Goal.HEALTHY):
            wanted, word = min(1, wanted), "job tasks"
        elif self.service.spec.WhichOneof("mode") == "replicated_job":
            done, wanted, word = self._completed(), self.service.spec.replicated_job.total_completions, "job tasks"
        known = (
            wanted > 0
            or self.service.spec.stopped
            or self.service.spec.WhichOneof("mode") not in ("global", "global_job")
        )
        converged = known and done >= wanted and not self.updating and not self._leftovers()
        failure = self._rolled_back() or ("" if converged else self._failure())
        return Progress(done, wanted, word, lines, converged and not failure, failure, self._message())

    def _current(self) -> dict[str, Task]:
        """The task that stands for each slot or node: the one that is wanted most, and the newest of those."""
        chosen: dict[str, Task] = {}
        for task in self.tasks.values():
            if task.desired_state > TaskState.TASK_STATE_COMPLETE or not self._node_counts(task):
                continue
            if self.is_job and task.job_iteration.index != self.service.job_status.iteration.index:
                continue
            place = _place(task)
            if place not in chosen or _rank(task) > _rank(chosen[place]):
                chosen[place] = task
        return chosen

    def _node_counts(self, task: Task) -> bool:
        """A global service's task on a node that is away or drained is not waited for."""
        if task.slot or not task.node_id or task.node_id not in self.nodes:
            return True
        node = self.nodes[task.node_id]
        return (
            node.status.state != NodeState.NODE_STATE_DOWN
            and node.spec.availability != NodeAvailability.NODE_AVAILABILITY_DRAIN
        )

    def _counts(self, task: Task) -> bool:
        if task.status.state not in self._states():
            # A task that may end (restart condition none, on-failure) and has ended well did what it was for.
            ended = task.status.state == TaskState.TASK_STATE_COMPLETE
            if not ended or self.service.spec.task.restart.condition == RestartPolicy.CONDITION_ANY:
                return False
        newer = task.spec_version.index >= self.service.spec_version.index
        return newer or task.spec == self.service.spec.task

    def _states(self) -> set[int]:
        """The states in which a task is where it shall be."""
        running, complete = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE
        match self.goal:
            case Goal.COMPLETED:
                return {complete}
            case Goal.HEALTHY:
                return {running, complete} if self.is_job else {running}
            case Goal.STARTED:
                # With a health check a task is STARTING until it is healthy: its container runs already.
                checked = bool(self.service.spec.task.container.healthcheck.test)
                return {running, complete} | ({TaskState.TASK_STATE_STARTING} if checked else set())
        return {complete} if self.is_job else {running}

    def _wanted(self) -> int:
        if self.service.spec.stopped:
            return 0
        if self.service.spec.WhichOneof("mode") in ("global", "global_job"):
            return len(self._current())
        replicated = self.service.spec.replicated
        return replicated.replicas if replicated.HasField("replicas") else 1

    def _completed(self) -> int:
        iteration = self.service.job_status.iteration.index
        return sum(
            1
            for task in self.tasks.values()
            if task.status.state == TaskState.TASK_STATE_COMPLETE and task.job_iteration.index == iteration
        )

    def _leftovers(self) -> bool:
        """True while tasks of slots that shall go still run (scaling down)."""
        if self.service.spec.stopped:
            states = range(TaskState.TASK_STATE_ASSIGNED, TaskState.TASK_STATE_RUNNING + 1)
            return any(task.status.state in states and self._is_heard_of(task) for task in self.tasks.values())
        return any(
            task.desired_state == TaskState.TASK_STATE_REMOVE and task.status.state <= TaskState.TASK_STATE_RUNNING
            for task in self.tasks.values()
            if task.slot
        )

    def _is_heard_of(self, task: Task) -> bool:
        node = self.nodes.get(task.node_id)
        return node is not None and node.status.state != NodeState.NODE_STATE_DOWN

    def _failure(self) -> str:
        status = self.service.update_status
        if self._update_is_news and status.state == UpdateStatus.STATE_PAUSED:
            return f"service update paused: {status.message}"
        if self._update_is_news and status.state == UpdateStatus.STATE_ROLLBACK_PAUSED:
            return f"service rollback paused: {status.message}"
        restart = self.service.spec.task.restart
        tolerated = TOLERATED_FAILURES
        if restart.condition == RestartPolicy.CONDITION_NONE:
            tolerated = 1
        elif restart.max_attempts:
            tolerated = min(tolerated, restart.max_attempts + 1)
        for place, failed in sorted(self._failures.items()):
            if len(failed) >= tolerated and not self._place_is_fine(place):
                last = max(failed.values(), key=lambda task: task.meta.version.index)
                times = "once" if len(failed) == 1 else f"{len(failed)} times"
                where = f" (last on {self._hostname(last)})" if last.node_id else ""
                return f"task {self._task_name(last)} failed {times}{where}: {reason(last)}"
        return ""

    @property
    def _update_is_news(self) -> bool:
        return update_mark(self.service) != self.old_update

    def _rolled_back(self) -> str:
        status = self.service.update_status
        done = status.state == UpdateStatus.STATE_ROLLBACK_COMPLETED
        if done and self._update_is_news and not self.rollback_wanted:
            return f"service rolled back: {status.message}"
        return ""

    def _place_is_fine(self, place: str) -> bool:
        task = self._current().get(place)
        return task is not None and self._counts(task)

    def _message(self) -> str:
        status = self.service.update_status
        if self.service.waits_for:
            return f"waits for {self.service.waits_for}"
        return f"rollback: {status.message}" if status.state == UpdateStatus.STATE_ROLLBACK_STARTED else ""

    def _task_name(self, task: Task) -> str:
        return f"{self.service.spec.annotations.name}.{task.slot or self._hostname(task)}"

    def _hostname(self, task: Task) -> str:
        node = self.nodes.get(task.node_id)
        return node.description.hostname if node is not None else task.node_id[:12]

    def _line(self, place: str, task: Task) -> TaskLine:
        state = short_name(task.status.state).lower()
        failed = self._failures.get(place, {})
        note = task.status.error
        if not note and task.status.state == TaskState.TASK_STATE_PENDING:
            note = task.status.message
        if not note and failed and not self._counts(task):
            last = max(failed.values(), key=lambda each: each.meta.version.index)
            note = f"{len(failed)} failed: {reason(last)}"
        if task.desired_state < TaskState.TASK_STATE_RUNNING and task.status.state == TaskState.TASK_STATE_READY:
            state = "ready"
        name = str(task.slot) if task.slot else self._hostname(task)
        return TaskLine(name, state, _STEPS.get(task.status.state, 0), self._hostname(task) if task.slot else "", note)


def reason(task: Task) -> str:
    """Why a task has ended, in one line."""
    status = task.status
    text = status.error or status.message
    if not text and status.container.exit_code:
        text = f"exit code {status.container.exit_code}"
    return " ".join(text.split()) or "no reason given"


def update_mark(service: Service) -> str:
    """What tells one update from the next."""
    return f"{service.update_status.state}{service.update_status.started_at.ToNanoseconds()}"


def _place(task: Task) -> str:
    return str(task.slot) if task.slot else task.node_id or task.id


def _order(item: tuple[str, Task]) -> tuple[int, str]:
    return item[1].slot, item[0]


def _rank(task: Task) -> tuple[bool, int, int]:
    """Live tasks before dead ones, then the newer spec, then the newer task."""
    return task.status.state <= TaskState.TASK_STATE_RUNNING, task.spec_version.index, task.meta.version.index
