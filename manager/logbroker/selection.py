"""Which tasks somebody wants the logs of. Pure."""

from flota.manager.store import ReadTables
from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.logs_pb2 import LogSelector, LogStream, SubscribeLogsRequest
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import TaskState


def check(request: SubscribeLogsRequest, tables: ReadTables) -> None:
    """Raises InvalidArgument, NotFound."""
    selector, options = request.selector, request.options
    if not selector.service_ids and not selector.task_ids:
        raise InvalidArgument("no logs are selected: name at least one service or task")
    for service_id in selector.service_ids:
        if tables.services.get(service_id) is None:
            raise NotFound(f"service {service_id} not found")
    for task_id in selector.task_ids:
        if tables.tasks.get(task_id) is None:
            raise NotFound(f"task {task_id} not found")
    if options.HasField("tail") and options.tail < 0:
        raise InvalidArgument.of("tail", options.tail, "a number of lines from 0, or unset for all")
    if LogStream.LOG_STREAM_UNSPECIFIED in options.streams:
        raise InvalidArgument.of("stream", "UNSPECIFIED", "allowed are STDOUT and STDERR; none = both")


class Selection:
    """A selector, asked about tasks."""

    def __init__(self, selector: LogSelector) -> None:
        self._services = frozenset(selector.service_ids)
        self._tasks = frozenset(selector.task_ids)

    def takes(self, task: Task) -> bool:
        """Whether the task is selected, and its worker can know of it."""
        if task.service_id not in self._services and task.id not in self._tasks:
            return False
        return bool(task.node_id) and task.status.state >= TaskState.TASK_STATE_ACCEPTED

    def tasks(self, tables: ReadTables) -> list[Task]:
        """Selected tasks that may have logs."""
        return [task for task in self._all(tables) if self.takes(task)]

    def goes_on(self, tables: ReadTables) -> bool:
        """Whether anything selected may write lines that are not written yet."""
        if any(tables.services.get(service_id) is not None for service_id in self._services):
            return True
        return any(not is_terminal(task) for task in self._all(tables))

    def _all(self, tables: ReadTables) -> list[Task]:
        found = [task for service_id in self._services for task in tables.tasks.by("service", service_id)]
        single = [tables.tasks.get(task_id) for task_id in self._tasks]
        return found + [task for task in single if task is not None and task.service_id not in self._services]
