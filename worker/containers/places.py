"""Places on the swarm's networks, for containers of this node that belong to no service.

    take ──► managers make a task for it ──► it comes with the assignments, with its addresses ──► used ──► left
                                                                                  └──► withdrawn ──┘

Managers hear by the task's status: RUNNING when the container is there, SHUTDOWN when it is off the network. One that
is withdrawn still has its addresses, but no name leads to it. A place that comes for a container that does not hold it
(any longer) is given up.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from flota.rpc.errors import Unavailable
from flota.v1.dispatcher_pb2 import AssignmentChange, AttachNetworkRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachment, NetworkAttachmentConfig, TaskState, TaskStatus

# Until addresses have come: a network may have none left for a while.
_LIMIT = 20.0
# Until names are withdrawn: a node without managers leaves all the same.
_PATIENCE = 1.0

Ask = Callable[[AttachNetworkRequest], Awaitable[str]]
Report = Callable[[str, TaskStatus], None]


class Places:
    """See the module's docstring. `ask` has managers make a place, and gives its id; `report` tells them of it."""

    def __init__(self, ask: Ask, report: Report) -> None:
        self._ask = ask
        self._report = report
        self._tasks: dict[str, Task] = {}
        # (container, network) where one is → the task that is its place; empty where an earlier worker knew that.
        self._holders: dict[tuple[str, str], str] = {}
        # Containers that are about to have a place. Which one is theirs is known once managers have answered.
        self._asking: Counter[str] = Counter()
        # Tasks that no name is to lead to any longer.
        self._withdrawn: set[str] = set()
        # Tasks whose place was left, until managers have heard it.
        self._left: set[str] = set()
        self._news = asyncio.Event()

    def hold(self, container_id: str, network_ids: Iterable[str]) -> None:
        """After a restart: the container has its places on these networks still."""
        self._holders |= {(container_id, network_id): "" for network_id in network_ids}

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over places (other kinds are skipped). `complete`: there are no others."""
        if complete:
            self._tasks.clear()
        for change in changes:
            is_gone = change.action == AssignmentChange.ACTION_REMOVE
            if change.WhichOneof("item") == "peer" and (is_gone or not change.peer.ready):
                self._withdrawn.discard(change.peer.task_id)
            if change.WhichOneof("item") != "task":
                continue
            task = change.task
            if is_gone:
                self._tasks.pop(task.id, None)
                self._left.discard(task.id)
            elif task.attachment_of:
                self._tasks[task.id] = task
                if not self._is_held(task):
                    self._leave(task)
                elif complete and self._is_to_be_told(task):
                    self._say(task, TaskState.TASK_STATE_RUNNING, "attached")
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def take(self, container_id: str, name: str, wanted: NetworkAttachment) -> NetworkAttachment:
        """A place on a network for a container. Raises NotFound, FailedPrecondition, InvalidArgument, Unavailable."""
        attachment = NetworkAttachmentConfig(target=wanted.network_id, addresses=wanted.addresses)
        attachment.aliases.extend(wanted.aliases)
        request = AttachNetworkRequest(container_id=container_id, container_name=name, attachment=attachment)
        self._asking[container_id] += 1
        task_id = ""
        try:
            task_id = await self._ask(request)
            async with asyncio.timeout(_LIMIT):
                while task_id not in self._tasks:
                    await self._news.wait()
            place = self._tasks[task_id].networks[0]
            self._holders[container_id, place.network_id] = task_id
            return place
        except TimeoutError:
            raise Unavailable(f"no address on network {wanted.network_id} has come within {_LIMIT:g} s") from None
        finally:
            self._asking -= Counter([container_id])
            if task_id and task_id not in self._tasks:
                # It may never come here, for it waits for an address.
                self._say(Task(id=task_id), TaskState.TASK_STATE_SHUTDOWN, "given up")
            for task in self._of(container_id):
                if not self._is_held(task):
                    # Of an earlier try.
                    self._leave(task)

    def use(self, container_id: str) -> None:
        """The container is on the networks it has places on: it is to be found there."""
        for task in self._of(container_id):
            self._say(task, TaskState.TASK_STATE_RUNNING, "attached")

    async def withdraw(self, container_id: str, network_id: str) -> None:
        """Names on a network are to lead to the container no longer; until that is so, as far as this node hears."""
        tasks = [task for task in self._of(container_id) if task.networks[0].network_id == network_id]
        for task in tasks:
            self._withdrawn.add(task.id)
            self._say(task, TaskState.TASK_STATE_RUNNING, "leaving", unready=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(task.id in self._withdrawn for task in tasks):
                    await self._news.wait()
        self._withdrawn -= {task.id for task in tasks}

    def leave(self, container_id: str, network_id: str = "") -> None:
        """The container is on a network no longer; on none without `network_id`."""
        for holder in [one for one in self._holders if one[0] == container_id and network_id in ("", one[1])]:
            del self._holders[holder]
        for task in self._of(container_id):
            if network_id in ("", task.networks[0].network_id):
                self._leave(task)

    def _is_held(self, task: Task) -> bool:
        """Whether it is its container's, or may turn out to be."""
        place = self._holders.get((task.attachment_of, task.networks[0].network_id))
        return place in ("", task.id) or self._asking[task.attachment_of] > 0

    def _is_to_be_told(self, task: Task) -> bool:
        """Its container is there, and managers do not know."""
        is_used = task.id not in self._left and not self._asking[task.attachment_of]
        return is_used and task.status.state < TaskState.TASK_STATE_RUNNING

    def _of(self, container_id: str) -> list[Task]:
        tasks = self._tasks.values()
        return [task for task in tasks if task.attachment_of == container_id and task.id not in self._left]

    def _leave(self, task: Task) -> None:
        self._left.add(task.id)
        self._say(task, TaskState.TASK_STATE_SHUTDOWN, "detached")

    def _say(self, task: Task, state: "TaskState.ValueType", message: str, *, unready: bool = False) -> None:
        status = TaskStatus(state=state, message=message)
        # As of a task whose health check fails: peers stay, names lead elsewhere.
        status.container.unhealthy = unready
        status.timestamp.FromNanoseconds(time.time_ns())
        self._report(task.id, status)
