"""All tasks of this node: a controller for each, made and told by what managers assign, remembered in the journal.

After a restart `start` takes up what earlier workers left: containers go on under new controllers before any manager
has been heard. A task that has no container yet waits for the managers' word, because it needs secrets and networks;
so do containers nobody remembers, which the managers may still know.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import structlog

from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import short_name
from flota.v1.types_pb2 import ContainerHealth, TaskStatus
from flota.worker import metrics
from flota.worker.runtime.container import ContainerState
from flota.worker.tasks.controller import Controller
from flota.worker.tasks.journal import Journal, Remembered
from flota.worker.tasks.life import READY, RUNNING, is_over
from flota.worker.tasks.parts import Parts

_log = structlog.get_logger("tasks")

Report = Callable[[str, TaskStatus], None]


class Tasks:
    """See the module's docstring. `report` hears of every status that managers have to know, `forgotten` of tasks of
    which nothing is left."""

    def __init__(
        self, parts: Parts, journal: Journal, report: Report, forgotten: Callable[[Task], None] = lambda task: None
    ) -> None:
        self._parts = parts
        self._journal = journal
        self._report = report
        self._forgotten = forgotten
        self._controllers: dict[str, Controller] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        # Containers that no controller looks after yet.
        self._strays: dict[str, ContainerState] = {}
        self._closed = False

    # What others want to know.

    def __len__(self) -> int:
        return len(self._controllers)

    def get(self, task_id: str) -> Task | None:
        """A task of this node, also one that has ended, as long as managers know it."""
        controller = self._controllers.get(task_id)
        return controller.task if controller is not None else None

    def all(self) -> list[Task]:
        """Every task that `get` knows."""
        return [controller.task for controller in self._controllers.values()]

    def status(self, task_id: str) -> TaskStatus | None:
        """How far a task is."""
        controller = self._controllers.get(task_id)
        return controller.status if controller is not None else None

    def image_id(self, task_id: str) -> str:
        """What a task runs, or ran; empty before it is prepared."""
        controller = self._controllers.get(task_id)
        return controller.prepared.image_id if controller is not None and controller.prepared is not None else ""

    def health(self, task_id: str) -> ContainerHealth | None:
        """What a task's health checks found; None without one."""
        controller = self._controllers.get(task_id)
        return controller.health if controller is not None else None

    @property
    def running(self) -> int:
        """How many programs run."""
        return sum(controller.runs for controller in self._controllers.values())

    def by_state(self) -> Mapping[str, int]:
        """How many tasks are in which state. May be called from another thread."""
        return Counter(short_name(controller.status.state).lower() for controller in list(self._controllers.values()))

    # What happens to them.

    def start(self, remembered: Mapping[str, Remembered], found: Mapping[str, ContainerState]) -> None:
        """Take up what earlier workers left: the journal's tasks, and the containers there are."""
        self._strays = dict(found)
        for known in remembered.values():
            controller = self._make(known.task, known)
            if not controller.needs_managers:
                self._run(controller)

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        """Take over tasks (other kinds are skipped). `complete`: there are no others."""
        if self._closed:
            return
        seen = set()
        for change in changes:
            if change.WhichOneof("item") != "task" or change.task.attachment_of:
                continue
            if change.action == AssignmentChange.ACTION_REMOVE:
                self._remove(change.task.id)
            else:
                seen.add(change.task.id)
                self._assign(change.task)
                if complete:
                    self._catch_up(change.task)
        if complete:
            for task_id in [one for one in self._controllers if one not in seen]:
                self._remove(task_id)
            self._discard_strays()

    async def remove_all(self, kill: bool) -> int:
        """End all tasks and leave nothing of them, for a node that leaves; none are taken from then on.

        Gives back how many there were.
        """
        self._closed = True
        self._discard_strays()
        count = len(self._controllers)
        for task_id in list(self._controllers):
            self._remove(task_id)
        if kill:
            await asyncio.gather(*(controller.kill() for controller in self._controllers.values()))
        while self._running:
            await asyncio.wait(list(self._running.values()))
        return count

    async def stop(self) -> None:
        """The worker stops: look after containers no longer. They run on."""
        self._closed = True
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _assign(self, task: Task) -> None:
        controller = self._controllers.get(task.id)
        if controller is None:
            controller = self._make(task, None)
            self._journal.assigned(task)
            self._run(controller)
            return
        if controller.task.desired_state != task.desired_state or is_over(task.status.state):
            self._journal.assigned(task)
        controller.assign(task)
        if task.id not in self._running:
            self._run(controller)

    def _catch_up(self, told: Task) -> None:
        """Report again what managers do not know, perhaps because the one who was told is gone."""
        status = self._controllers[told.id].status
        if status.state > told.status.state:
            self._report(told.id, status)

    def _make(self, task: Task, known: Remembered | None) -> Controller:
        found = self._strays.pop(task.id, None)
        status, prepared = (known.status, known.prepared) if known is not None else (None, None)
        controller = Controller(task, self._parts, self._observed, status=status, prepared=prepared, found=found)
        if prepared is not None and not is_over(controller.status.state):
            self._parts.images.hold(task.id, prepared.image_id)
        self._controllers[task.id] = controller
        return controller

    def _run(self, controller: Controller) -> None:
        running = asyncio.create_task(self._to_the_end(controller), name=f"task {controller.id}")
        self._running[controller.id] = running

    async def _to_the_end(self, controller: Controller) -> None:
        try:
            await controller.run()
            del self._controllers[controller.id]
            self._journal.forget(controller.id)
            self._forgotten(controller.task)
        except Exception:  # noqa: BLE001 - told in the log; the other tasks go on
            _log.exception("a defect leaves a task to itself", task=controller.id)
        finally:
            del self._running[controller.id]

    def _remove(self, task_id: str) -> None:
        controller = self._controllers.get(task_id)
        if controller is not None:
            controller.remove()
            if task_id not in self._running:
                self._run(controller)

    def _discard_strays(self) -> None:
        """Containers neither the journal nor the managers know."""
        for task_id in list(self._strays):
            _log.warning("removing a container that nobody knows", task=task_id)
            self._make(Task(id=task_id), None)
            self._remove(task_id)

    def _observed(self, controller: Controller) -> None:
        status = controller.status
        # Of what comes before READY nothing needs to be remembered: it is made anew.
        if status.state >= READY:
            prepared = controller.prepared if status.state == READY else None
            self._journal.observed(controller.id, status, prepared)
        if status.state == RUNNING:
            metrics.STARTED.inc()
            metrics.START.observe(asyncio.get_running_loop().time() - controller.since)
        elif is_over(status.state):
            metrics.ENDED.labels(short_name(status.state).lower()).inc()
        self._report(controller.id, status)
