"""Places on the swarm's networks, for containers of this node that belong to no service.

    take ──► managers make a task for it ──► it comes with the assignments, with its addresses ──► used ──► left

Managers hear by the task's status: RUNNING when the container is there, SHUTDOWN when it is off the network. One that
comes for a container that holds none (any longer) is given up the same way.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from flota.rpc.errors import Unavailable
from flota.v1.dispatcher_pb2 import AssignmentChange, AttachNetworkRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachment, NetworkAttachmentConfig, TaskState, TaskStatus

# Until addresses have come: a network may have none left for a while.
_LIMIT = 20.0

Ask = Callable[[AttachNetworkRequest], Awaitable[str]]
Report = Callable[[str, TaskStatus], None]


class Places:
    """See the module's docstring. `ask` has managers make a place, and gives its id; `report` tells them of it."""

    def __init__(self, ask: Ask, report: Report) -> None:
        self._ask = ask
        self._report = report
        self._tasks: dict[str, Task] = {}
        # Containers that are on networks of the swarm, or about to be.
        self._holders: set[str] = set()
        # Tasks whose place was left, until managers have heard it.
        self._left: set[str] = set()
        self._news = asyncio.Event()

    def hold(self, container_id: str) -> None:
        """After a restart: the container has its places still."""
        self._holders.add(container_id)

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over places (other kinds are skipped). `complete`: there are no others."""
        if complete:
            self._tasks.clear()
        for change in changes:
            if change.WhichOneof("item") != "task":
                continue
            task = change.task
            if change.action == AssignmentChange.ACTION_REMOVE:
                self._tasks.pop(task.id, None)
                self._left.discard(task.id)
            elif task.attachment_of:
                self._tasks[task.id] = task
                if task.attachment_of not in self._holders:
                    self._leave(task)
                elif complete and task.id not in self._left and task.status.state < TaskState.TASK_STATE_RUNNING:
                    self._say(task, TaskState.TASK_STATE_RUNNING, "attached")
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def take(self, container_id: str, name: str, wanted: NetworkAttachment) -> NetworkAttachment:
        """A place on a network for a container. Raises NotFound, FailedPrecondition, Unavailable."""
        self._holders.add(container_id)
        attachment = NetworkAttachmentConfig(target=wanted.network_id, addresses=wanted.addresses)
        attachment.aliases.extend(wanted.aliases)
        request = AttachNetworkRequest(container_id=container_id, container_name=name, attachment=attachment)
        task_id = await self._ask(request)
        try:
            async with asyncio.timeout(_LIMIT):
                while task_id not in self._tasks:
                    await self._news.wait()
        except TimeoutError:
            raise Unavailable(f"no address on network {wanted.network_id} has come within {_LIMIT:g} s") from None
        return self._tasks[task_id].networks[0]

    def use(self, container_id: str) -> None:
        """The container is on the networks it has places on: it is to be found there."""
        for task in self._of(container_id):
            self._say(task, TaskState.TASK_STATE_RUNNING, "attached")

    def leave(self, container_id: str) -> None:
        """The container is on no network any longer."""
        self._holders.discard(container_id)
        for task in self._of(container_id):
            self._leave(task)

    def _of(self, container_id: str) -> list[Task]:
        tasks = self._tasks.values()
        return [task for task in tasks if task.attachment_of == container_id and task.id not in self._left]

    def _leave(self, task: Task) -> None:
        self._left.add(task.id)
        self._say(task, TaskState.TASK_STATE_SHUTDOWN, "detached")

    def _say(self, task: Task, state: "TaskState.ValueType", message: str) -> None:
        status = TaskStatus(state=state, message=message)
        status.timestamp.FromNanoseconds(time.time_ns())
        self._report(task.id, status)
