"""What has happened to containers of this node, tasks' and others, in the words of `docker events`: the last of it is
remembered, and who listens hears what comes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from flota.v1.containers_pb2 import ContainerEvent, PlainContainer
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import TaskStatus
from flota.worker.tasks.life import READY, RUNNING, STARTING, is_over

# As many as Docker remembers of all kinds.
_REMEMBERED = 256


class History:
    """See the module's docstring. On the event loop."""

    def __init__(self) -> None:
        self._past: deque[ContainerEvent] = deque(maxlen=_REMEMBERED)
        self._listeners: set[asyncio.Queue[ContainerEvent]] = set()
        # Of tasks, how each was last seen.
        self._seen: dict[str, TaskStatus] = {}

    def told(
        self,
        action: str,
        container: PlainContainer,
        network: Network | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Something has happened to a container without a service; to its place on `network`, if that is said."""
        event = ContainerEvent(action=action, container=container, network=network, attributes=attributes)
        event.container.task.spec.container.registry_auth = ""
        event.at.GetCurrentTime()
        self._past.append(event)
        for queue in self._listeners:
            queue.put_nowait(event)

    def told_of_task(self, action: str, task: Task, attributes: Mapping[str, str] | None = None) -> None:
        """Something has happened to a task's container, or in any. The status is that of the last `observed`."""
        container = PlainContainer(task=task)
        container.task.status.CopyFrom(self._seen.get(task.id, task.status))
        self.told(action, container, attributes=attributes)

    def known(self, task_id: str, status: TaskStatus) -> None:
        """An earlier worker has told how far the task is."""
        self._seen[task_id] = status

    def observed(self, task: Task, status: TaskStatus) -> None:
        """How far a task is now."""
        before = self._seen.get(task.id, TaskStatus())
        self._seen[task.id] = status
        for action in actions(before, status):
            self.told_of_task(action, task)

    def forgotten(self, task: Task) -> None:
        """Nothing of a task is left."""
        if self._seen.get(task.id, TaskStatus()).state >= READY:
            self.told_of_task("destroy", task)
        self._seen.pop(task.id, None)

    async def events(self, since: Timestamp | None) -> AsyncIterator[ContainerEvent]:
        """What has happened `since`, one without an action, and then what happens."""
        queue: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            if since is not None:
                first = since.ToNanoseconds()
                for event in [one for one in self._past if one.at.ToNanoseconds() >= first]:
                    yield event
            yield ContainerEvent()
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)


def actions(before: TaskStatus, now: TaskStatus) -> list[str]:
    """What has happened to a task's container between two of its statuses, in order."""
    found = []
    if before.state < READY <= now.state <= RUNNING:
        found.append("create")
    if now.container.pid and not before.container.pid:
        found.append("start")
    if (health := health_action(before, now)) is not None:
        found.append(health)
    if is_over(now.state) and not is_over(before.state) and now.HasField("container"):
        found.append("die")
    return found


def health_action(before: TaskStatus, now: TaskStatus) -> str | None:
    """Whether its health check has another answer than before."""
    if is_over(now.state):
        return "health_status: unhealthy" if now.container.unhealthy and not before.container.unhealthy else None
    if now.unready != before.unready:
        return f"health_status: {'unhealthy' if now.unready else 'healthy'}"
    # One that is RUNNING without having been seen in STARTING as a process has no check.
    begun = before.state == STARTING and before.container.pid
    return "health_status: healthy" if begun and now.state == RUNNING and not now.unready else None
