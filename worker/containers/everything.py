"""Tasks and containers without a service as one row of containers, whoever looks after them at the moment."""

import asyncio
from collections.abc import Callable

from flota.rpc.errors import NotFound, Unavailable
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import TaskStatus
from flota.worker.containers.containers import Containers
from flota.worker.containers.life import Life
from flota.worker.tasks.life import is_over
from flota.worker.tasks.tasks import Tasks


class Everything:
    """Tasks and plain containers alike, as the Tasks service knows tasks."""

    def __init__(self, tasks: Callable[[], Tasks | None], plain: Callable[[], Containers | None]) -> None:
        """Each gives None while there is nothing of the kind."""
        self._tasks = tasks
        self._plain = plain
        self._news = asyncio.Event()

    @property
    def plain(self) -> Containers:
        """Those without a service. Raises FailedPrecondition."""
        if (plain := self._plain()) is None:
            raise Unavailable("this node's containers are not looked after just now: try again")
        return plain

    def all(self) -> list[Task]:
        """Every one of this node."""
        tasks, plain = self._tasks(), self._plain()
        return [*(tasks.all() if tasks else ()), *(task for task, _ in (plain.tasks() if plain else ()))]

    def status(self, task_id: str) -> TaskStatus | None:
        """How far one is."""
        tasks, plain = self._tasks(), self._plain()
        life = plain.known(task_id) if plain else None
        return life.record.task.status if life else tasks.status(task_id) if tasks else None

    def image_id(self, task_id: str) -> str:
        """What one runs or ran; empty before there is an image."""
        tasks, plain = self._tasks(), self._plain()
        life = plain.known(task_id) if plain else None
        return life.record.image_id if life else tasks.image_id(task_id) if tasks else ""

    def known(self, container_id: str) -> Life | None:
        """One without a service, by its whole id."""
        plain = self._plain()
        return plain.known(container_id) if plain else None

    async def again(self, container_id: str) -> Life:
        """One without a service, once it is looked after again. Raises NotFound."""
        while (plain := self._plain()) is None:
            await self._news.wait()
        return plain.find(container_id)

    def changed(self) -> None:
        """A task's status has changed, a task is gone, or containers are looked after again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def ended(self, task_id: str) -> TaskStatus:
        """How a task ended, once it has. Raises NotFound when that is not known any longer."""
        while True:
            status = self.status(task_id)
            if status is None:
                raise NotFound(f"No such container: {task_id}")
            if is_over(status.state):
                return status
            await self._news.wait()

    async def gone(self, task_id: str) -> None:
        """Until nothing is left of a task."""
        while self.status(task_id) is not None:
            await self._news.wait()
