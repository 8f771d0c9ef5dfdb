"""Tasks: read only; they are made, changed and deleted by the managers' loops."""

from collections.abc import Iterable
from typing import Any

from flota.manager.control.base import ControlBase
from flota.manager.control.lookup import find, matching
from flota.manager.control.shown import shown_task
from flota.manager.store import Store
from flota.v1.control_pb2 import (
    GetTaskRequest,
    GetTaskResponse,
    ListFilters,
    ListTasksRequest,
    ListTasksResponse,
)
from flota.v1.objects_pb2 import Task


class Tasks(ControlBase):
    """The calls about tasks."""

    async def GetTask(self, request: GetTaskRequest, context: Any) -> GetTaskResponse:
        """One task by id or full name."""
        store = await self._fresh()
        return GetTaskResponse(task=shown_task(find(store.tasks, "task", request.task_id)))

    async def ListTasks(self, request: ListTasksRequest, context: Any) -> ListTasksResponse:
        """All tasks that fulfil the filters."""
        store = await self._fresh()
        return ListTasksResponse(tasks=map(shown_task, _select(store, request.filters)))


def _select(store: Store, filters: ListFilters) -> list[Task]:
    """Begin with the narrowest index there is; a cluster may have very many tasks."""
    tasks: Iterable[Task]
    if filters.service_ids:
        tasks = [task for id in dict.fromkeys(filters.service_ids) for task in store.tasks.by("service", id)]
    elif filters.node_ids:
        tasks = [task for id in dict.fromkeys(filters.node_ids) for task in store.tasks.by("node", id)]
    else:
        tasks = store.tasks
    if filters.node_ids:
        nodes = set(filters.node_ids)
        tasks = [task for task in tasks if task.node_id in nodes]
    if filters.desired_states:
        desired = set(filters.desired_states)
        tasks = [task for task in tasks if task.desired_state in desired]
    # Places on networks that containers without a service have are no tasks to people.
    return matching([task for task in tasks if not task.attachment_of], filters)
