"""What a task's state means, in one place (SwarmKit's design/task_model.md).

States are a Lamport-like order: a task only moves to a larger state. Managers move a task up to ASSIGNED and own its
desired state; from there its worker moves it.
"""

from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import TaskState

# Observed states that end a task's life.
TERMINAL = frozenset(
    {
        TaskState.TASK_STATE_COMPLETE,
        TaskState.TASK_STATE_SHUTDOWN,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
        TaskState.TASK_STATE_REMOVE,
        TaskState.TASK_STATE_ORPHANED,
    }
)


def is_terminal(task: Task) -> bool:
    """True when the task has stopped, in whatever way, and will never run again."""
    return task.status.state > TaskState.TASK_STATE_RUNNING


def is_wanted(task: Task) -> bool:
    """True when managers want the task to run now or as soon as its turn comes."""
    return task.desired_state <= TaskState.TASK_STATE_RUNNING


def may_advance(old: "TaskState.ValueType", new: "TaskState.ValueType") -> bool:
    """True when a report of `new` is news for a task observed in `old`."""
    return new > old


def short_name(state: "TaskState.ValueType") -> str:
    """Give "RUNNING" for TASK_STATE_RUNNING."""
    return TaskState.Name(state).removeprefix("TASK_STATE_")


def task_name(task: Task) -> str:
    """`service.slot.taskid`, or `service.nodeid.taskid` for tasks of global services (SwarmKit's api/naming).

    What belongs to no service is called what it is called.
    """
    if not task.service_id:
        return task.service_annotations.name or task.id
    place = str(task.slot) if task.slot else task.node_id
    return f"{task.service_annotations.name}.{place}.{task.id}"
