"""The restart supervisor: whether a task that ended gets a successor, when the successor may start, and when it does.

A task is never restarted. Its successor is made at once, wanted READY (so that its image and network can be prepared),
and names the one it `replaces` and the time it may not start `not_before`. It becomes wanted RUNNING when that time
has come and the slot's former tasks have stopped, are on nodes that are down, or have had a minute to stop. All of it
stands in the tasks, so a new leader carries on where the old one was.

Pure functions. Semantics: SwarmKit's manager/orchestrator/restart; the history it keeps in memory is counted here from
the tasks that are kept (the reaper keeps enough of them).
"""

from collections.abc import Callable, Iterable, Sequence

from flota.manager.clock import seconds, timestamp
from flota.manager.orchestrator.tasks import is_gone
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeAvailability, NodeState, RestartPolicy, TaskState

# Seconds; RestartPolicy.delay when unset.
DEFAULT_DELAY = 5.0
# Seconds a successor waits for its predecessor to stop (SwarmKit's TaskTimeout).
STOP_TIMEOUT = 60.0

NodeOf = Callable[[str], Node | None]


def is_job(service: Service) -> bool:
    """Whether the service's tasks run to completion."""
    return service.spec.WhichOneof("mode") in ("replicated_job", "global_job")


def delay_of(policy: RestartPolicy) -> float:
    """Seconds between a task's end and the start of its successor."""
    if not policy.HasField("delay"):
        return DEFAULT_DELAY
    return policy.delay.seconds + policy.delay.nanos / 1e9


def stopped_at(task: Task) -> float:
    """When the managers learned that the task had stopped (their clock, not the worker's)."""
    status = task.status
    return seconds(status.applied_at if status.HasField("applied_at") else status.timestamp)


def restarts_of(task: Task, slot: Iterable[Task]) -> list[float]:
    """When successors were made in this slot at the task's spec version (wall seconds).

    Only the restart supervisor sets `not_before`; the updater's tasks have none.
    """
    return [
        seconds(other.meta.created_at)
        for other in slot
        if other.spec_version == task.spec_version and other.HasField("not_before")
    ]


def should_restart(service: Service, task: Task, slot: Sequence[Task]) -> bool:
    """Whether `task`, which has ended or lost its node, gets a successor. `slot` has all its slot's kept tasks."""
    policy = task.spec.restart
    condition = policy.condition
    if condition == RestartPolicy.CONDITION_ANY and is_job(service):
        condition = RestartPolicy.CONDITION_ON_FAILURE
    if condition == RestartPolicy.CONDITION_NONE:
        return False
    if condition == RestartPolicy.CONDITION_ON_FAILURE and task.status.state == TaskState.TASK_STATE_COMPLETE:
        return False
    if policy.max_attempts == 0:
        return True
    made = restarts_of(task, slot)
    window = policy.window.seconds + policy.window.nanos / 1e9
    if window > 0:
        end = stopped_at(task)
        made = [when for when in made if end - window <= when <= end]
    return len(made) < policy.max_attempts


def schedule(successor: Task, task: Task, node: Node | None, now: float) -> None:
    """Write into `successor` whom it waits for and how long.

    The delay is there against tasks that fail in a loop. One whose node is being drained has not failed; nor has one
    that was lost with its node, where SwarmKit waits all the same.
    """
    successor.replaces = task.id
    successor.not_before.CopyFrom(timestamp(now + _delay(task, node)))


def _delay(task: Task, node: Node | None) -> float:
    drained = node is not None and node.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    lost = is_gone(task, node) and not is_terminal(task)
    return 0.0 if drained or lost else delay_of(task.spec.restart)


def why_ended(task: Task, node: Node | None) -> str:
    """For people: why a task needs a successor."""
    status = task.status
    match status.state:
        case TaskState.TASK_STATE_COMPLETE:
            return "ended well"
        case state if state > TaskState.TASK_STATE_RUNNING:
            reason = status.error or status.message
            if status.container.exit_code:
                reason = f"exit code {status.container.exit_code}" + (f", {reason}" if reason else "")
            return f"{TaskState.Name(state)[len('TASK_STATE_') :].lower()}: {reason or 'no reason given'}"
    if node is None:
        return "lost its node, which is gone"
    name = node.description.hostname or node.id
    return f"is on {name}, which is " + ("down" if node.status.state == NodeState.NODE_STATE_DOWN else "drained")


def restarts_in_words(service: Service, task: Task, slot: Iterable[Task], node: Node | None) -> str:
    """For people: when the successor starts, and how many there may be."""
    delay = _delay(task, node)
    text = f"starts {delay:g} s later" if delay else "starts at once"
    most = task.spec.restart.max_attempts
    return f"{text}, restart {len(restarts_of(task, slot)) + 1} of {most}" if most else text


def may_start_at(task: Task, slot: Iterable[Task], node_of: NodeOf) -> float:
    """When a task that is wanted READY may become wanted RUNNING (wall seconds; 0 = at once).

    It waits for every task of its slot that is to stop: the one it replaces may itself never have run, and have
    waited for yet another. The time is an upper bound: they may have stopped before.
    """
    earliest = seconds(task.not_before) if task.HasField("not_before") else 0.0
    if stopping(task.id, slot, node_of):
        return max(earliest, seconds(task.meta.created_at) + STOP_TIMEOUT)
    return earliest


def stopping(task_id: str, slot: Iterable[Task], node_of: NodeOf) -> list[Task]:
    """The other tasks of a slot that are not wanted any longer and may still run."""
    return [
        other
        for other in slot
        if other.id != task_id
        and other.desired_state > TaskState.TASK_STATE_COMPLETE
        and not is_gone(other, node_of(other.node_id))
    ]


def waits(task: Task, now: float) -> bool:
    """Whether a task is a successor whose own delay is not over.

    If it ends before (its image cannot be pulled, say), its successor is not made yet: no tight loop.
    """
    return (
        task.desired_state == TaskState.TASK_STATE_READY
        and task.HasField("not_before")
        and seconds(task.not_before) > now
    )
