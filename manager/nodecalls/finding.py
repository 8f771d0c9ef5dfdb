"""Which running task a person means. Pure."""

from collections.abc import Iterable

from flota.manager.control.lookup import find
from flota.manager.store import ReadTables
from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from flota.v1.objects_pb2 import Service, Task
from flota.v1.task_states import is_terminal, short_name, task_name
from flota.v1.types_pb2 import TaskState

_STARTING = TaskState.TASK_STATE_STARTING


def running_task(tables: ReadTables, wanted: str) -> Task:
    """The running task named `wanted` (see tasks.proto). Raises InvalidArgument, NotFound, FailedPrecondition."""
    if not wanted:
        raise InvalidArgument("no task is named: give a task's id, SERVICE.SLOT, or a service's name")
    task = tables.tasks.get(wanted)
    if task is not None:
        return _running(task)
    service = _service(tables, wanted)
    if service is not None:
        return _first(tables.tasks.by("service", service.id), f"service {wanted}")
    name, _, place = wanted.rpartition(".")
    service = _service(tables, name) if name else None
    if service is not None:
        nodes = {node.id for node in tables.nodes if place in (node.id, node.description.hostname)}
        there = [
            one
            for one in tables.tasks.by("service", service.id)
            if (str(one.slot) == place if one.slot else one.node_id in nodes)
        ]
        if not there:
            raise NotFound(f"service {name} has no task {place}")
        return _first(there, f"task {wanted}")
    try:
        return _running(find(tables.tasks, "task", wanted))
    except NotFound:
        raise NotFound(f"no such task or service: {wanted}") from None


def _service(tables: ReadTables, wanted: str) -> Service | None:
    return tables.services.get(wanted) or tables.services.by_name(wanted)


def _first(tasks: Iterable[Task], what: str) -> Task:
    """The running one in the lowest slot; of one slot the newest."""
    known = list(tasks)
    running = [task for task in known if _runs(task)]
    if running:
        return min(running, key=lambda task: (task.slot, task.node_id, -task.meta.version.index))
    newest = max(known, key=lambda task: task.meta.version.index, default=None)
    why = f": {_state(newest)}" if newest is not None else ""
    raise FailedPrecondition(f"{what} has no running task{why}")


def _running(task: Task) -> Task:
    if not _runs(task):
        raise FailedPrecondition(f"task {task_name(task)} is not running: {_state(task)}")
    return task


def _runs(task: Task) -> bool:
    return bool(task.node_id) and task.status.state >= _STARTING and not is_terminal(task)


def _state(task: Task) -> str:
    words = [f"it is {short_name(task.status.state).lower()}"]
    if task.status.error:
        words.append(task.status.error)
    return ", ".join(words)
