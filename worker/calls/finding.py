"""Which of this node's running tasks is meant: the rules of tasks.proto, over what one node knows. Pure."""

from collections.abc import Iterable

from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import short_name, task_name
from flota.v1.types_pb2 import TaskState, TaskStatus
from flota.worker.tasks.life import is_over

Known = tuple[Task, TaskStatus]


def running_task(known: Iterable[Known], wanted: str) -> Task:
    """The task of this node named `wanted`. Raises InvalidArgument, NotFound, FailedPrecondition."""
    if not wanted:
        raise InvalidArgument("no task is named: give a task's id, SERVICE.SLOT, or a service's name")
    tasks = list(known)
    exact = [one for one in tasks if wanted in (one[0].id, task_name(one[0]))]
    service = [one for one in tasks if wanted in (one[0].service_id, one[0].service_annotations.name, _place(one[0]))]
    prefix = [one for one in tasks if one[0].id.startswith(wanted)]
    candidates = exact or service or prefix
    if not candidates:
        raise NotFound(f"no task {wanted} on this node: commands for tasks of other nodes are a manager's")
    running = [task for task, status in candidates if runs(status)]
    if not running:
        _, status = max(candidates, key=lambda one: one[1].timestamp.ToNanoseconds())
        raise FailedPrecondition(f"task {wanted} is not running: it is {short_name(status.state).lower()}")
    if not exact and not service and len(running) > 1:
        raise InvalidArgument(f"task {wanted!r} is ambiguous: {len(running)} tasks match; give more of the id")
    return min(running, key=lambda task: task.slot)


def runs(status: TaskStatus) -> bool:
    """Whether the task's program runs, healthy or not yet."""
    return status.state >= TaskState.TASK_STATE_STARTING and not is_over(status.state)


def _place(task: Task) -> str:
    return f"{task.service_annotations.name}.{task.slot or task.node_id}"
