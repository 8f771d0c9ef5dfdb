"""One container of this node alone, from its creation to its removal.

    created ──► start: a run ──► ended ──► by its restart policy, or by a person: another run ──► … ──► removed

A run is a task's life under a task's controller (worker/tasks), so that what is true of tasks' images, networks, health
checks, signals and ends is true of these containers. Between runs there is the record and what the container wrote.
The record follows what is observed; it is what a worker that starts again goes on from.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import structlog
from google.protobuf.duration_pb2 import Duration

from flota.rpc.errors import FailedPrecondition, FlotaError, Unavailable
from flota.v1.containers_pb2 import PlainContainer, UpdateContainerRequest
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import is_terminal, task_name
from flota.v1.types_pb2 import ContainerHealth, HealthConfig, RestartPolicy, TaskState, TaskStatus
from flota.worker.containers.bridges import Bridges
from flota.worker.containers.history import health_action
from flota.worker.containers.records import Records
from flota.worker.containers.wiring import Wiring, attachment
from flota.worker.runtime.container import ContainerError, ContainerState
from flota.worker.tasks.controller import Controller
from flota.worker.tasks.life import ASSIGNED, READY, RUNNING, SHUTDOWN, STARTING, State, is_over
from flota.worker.tasks.parts import Parts

_log = structlog.get_logger("containers")

# Of restarts: doubled each time, from the first one on again after a run that lasted.
_FIRST_PAUSE, _LONGEST_PAUSE, _LASTING = 0.1, 60.0, 10.0
# People who said that they attach, and then do not, are waited for so long.
_ATTACHING = 10.0
# Seconds that who kills one waits for its end, as with Docker.
DYING = 10.0
# The exit code of one whose end nobody saw.
_LOST = 255
_ELSEWHERE = "the node begins to look after this container anew: try again"

Told = Callable[[str, PlainContainer], None]
Remove = Callable[[str], Awaitable[None]]


class Left(Exception):
    """Nobody is here any longer who would see what is waited for."""


class Life:
    """See the module's docstring. All methods on the event loop."""

    def __init__(
        self,
        record: PlainContainer,
        parts: Parts,
        bridges: Bridges,
        records: Records[PlainContainer],
        told: Told,
        remove: Remove,
    ) -> None:
        """`told` hears of every event in Docker's words; `remove` takes the container's files away."""
        self.record = record
        self.wiring = Wiring(record, bridges, self._save, partial(parts.containers.edit_hosts, record.task.id))
        self._parts = parts
        self._records = records
        self._told = told
        self._remove = remove
        self._lock = asyncio.Lock()
        self._controller: Controller | None = None
        self._runs: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._halt = asyncio.Event()
        self._attaching: set[asyncio.Future[None]] = set()
        self._ends = 0
        self.removed = False
        self._left = False

    @property
    def id(self) -> str:
        """The container's."""
        return self.record.task.id

    @property
    def name(self) -> str:
        """The container's."""
        return task_name(self.record.task)

    @property
    def networks(self) -> list[str]:
        """The ids of those it is to be on."""
        return [wanted.target for wanted in self.record.task.spec.networks]

    @property
    def is_running(self) -> bool:
        """Whether its program runs."""
        return STARTING <= self.record.task.status.state <= RUNNING

    @property
    def health(self) -> ContainerHealth | None:
        """What health checks found in its last run under this worker; None without any."""
        return self._controller.health if self._controller is not None else None

    @property
    def is_active(self) -> bool:
        """Whether it runs, or will again by its restart policy."""
        return self._runs is not None and not self._runs.done()

    # What people want of it.

    def resume(self, found: ContainerState | None) -> None:
        """Go on after an earlier worker, which left `found`."""
        status = self.record.task.status
        if ASSIGNED < status.state <= RUNNING:
            controller = self._make_controller(status=status, found=found)
            controller.assign(_wanted(controller.task, RUNNING))
            self._runs = asyncio.create_task(self._supervise(controller, None), name=f"container {self.id}")
        elif self._may_restart(is_start=True):
            self._runs = asyncio.create_task(self._supervise(None, None), name=f"container {self.id}")

    async def start(self) -> bool:
        """Let it run; false if it does already. Raises FailedPrecondition when it cannot."""
        async with self._lock:
            if self.is_active:
                if self.is_running or not self._ends_soon():
                    return False
                await self._quiet()
            self._halt.clear()
            self.record.stopped, self.record.restarts = False, 0
            begun = asyncio.get_running_loop().create_future()
            self._runs = asyncio.create_task(self._supervise(None, begun), name=f"container {self.id}")
            await begun
            return True

    async def stop(self, signal_name: str = "", grace: Duration | None = None) -> bool:
        """Have it end, and not start again by itself; false if it did not run."""
        async with self._lock:
            if not self.is_active:
                return False
            self.record.stopped = True
            self._save()
            self._halt.set()
            if self.is_running:
                self._told("kill", self.record)
            self._end(signal_name, grace)
            await self._quiet()
            return True

    async def kill(self, number: int) -> None:
        """Send a signal. Raises FailedPrecondition."""
        if not self.is_running:
            raise FailedPrecondition(f"container {self.id} is not running")
        if number in (signal.SIGKILL, signal.SIGTERM):
            # As Docker has it: that is meant.
            self.record.stopped = True
            self._halt.set()
        before = self._ends
        await self._parts.containers.signal(self.id, number)
        self._told("kill", self.record)
        if number == signal.SIGKILL:
            # Docker answers when it is dead.
            with suppress(TimeoutError, Left):
                async with asyncio.timeout(DYING):
                    await self._until(lambda: self._ends > before or self.removed)

    def revise(self, wanted: UpdateContainerRequest) -> None:
        """Remember other limits and another restart policy. Raises FailedPrecondition."""
        spec = self.record.task.spec
        if wanted.HasField("restart"):
            if self.record.auto_remove and wanted.restart.condition != RestartPolicy.CONDITION_NONE:
                raise FailedPrecondition(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            spec.restart.CopyFrom(wanted.restart)
            self.record.unless_stopped = wanted.unless_stopped
        if wanted.HasField("resources"):
            spec.resources.CopyFrom(wanted.resources)
        self._save()
        self._told("update", self.record)

    async def discard(self, *, force: bool) -> None:
        """Leave nothing of it. Raises FailedPrecondition when it runs and `force` is not said, ContainerError."""
        if self.is_active:
            if not force:
                raise FailedPrecondition(
                    f'cannot remove container "/{self.name}": container is running: stop the container before '
                    "removing or force remove"
                )
            await self.stop(grace=Duration())
        if not self.removed:
            await self._forget()

    async def leave(self) -> None:
        """The worker stops, or has it looked after by another one: look after it no longer. It runs on."""
        self._left = True
        await self.wiring.leave()
        if self._runs is not None:
            self._runs.cancel()
            await asyncio.gather(self._runs, return_exceptions=True)
        self._changed()

    # What people wait for.

    @contextmanager
    def attaching(self) -> Iterator[Callable[[], None]]:
        """Somebody will be attached before it runs: call what this gives, or leave the block, once that is so."""
        attached = asyncio.get_running_loop().create_future()
        self._attaching.add(attached)

        def done() -> None:
            self._attaching.discard(attached)
            if not attached.done():
                attached.set_result(None)

        try:
            yield done
        finally:
            done()

    async def made(self) -> None:
        """Until its container is there, started or just about to be."""
        await self._until(lambda: READY <= self.record.task.status.state <= RUNNING or self.removed)

    async def stopped(self) -> None:
        """Until it does not run."""
        await self._until(lambda: not self.is_active)

    def next_end(self) -> Awaitable[None]:
        """Until it has ended once more than now: when this is called, not when it is awaited."""
        before = self._ends
        return self._until(lambda: self._ends > before or self.removed)

    async def gone(self) -> None:
        """Until it is removed."""
        await self._until(lambda: self.removed)

    async def _until(self, so: Callable[[], bool]) -> None:
        while True:
            if self._left:
                raise Left
            if so():
                return
            await self._news.wait()

    def _changed(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # Its runs.

    async def _supervise(self, controller: Controller | None, begun: "asyncio.Future[None] | None") -> None:
        """Run after run, as long as there is to be another one."""
        pause = _FIRST_PAUSE
        try:
            while True:
                since = time.monotonic()
                await self._run(controller or self._make_controller(), begun)
                if begun is not None and begun.exception() is not None:
                    break
                controller = begun = None
                pause = _FIRST_PAUSE if time.monotonic() - since > _LASTING else pause
                if not self._may_restart():
                    break
                try:
                    async with asyncio.timeout(pause):
                        await self._halt.wait()
                    break
                except TimeoutError:
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    self.record.restarts += 1
        except Exception as error:  # noqa: BLE001 - one container's trouble is not the others'
            if begun is not None and not begun.done():
                begun.set_exception(FailedPrecondition(str(error)))
            _log.exception("a defect ends a container's run", container=self.id)
        finally:
            if begun is not None and not begun.done():
                begun.set_exception(Unavailable(_ELSEWHERE))
            asyncio.get_running_loop().call_soon(self._changed)
        if self.record.auto_remove:
            with suppress(ContainerError, FlotaError):
                await self._forget()

    async def _run(self, controller: Controller, begun: "asyncio.Future[None] | None") -> None:
        self._controller = controller
        running = asyncio.create_task(controller.run(), name=f"container {self.id}: run")
        settling = asyncio.create_task(self._settle(controller), name=f"container {self.id}: networks")
        try:
            await self._until(lambda: controller.status.state >= READY)
            if not is_over(controller.status.state) and self._attaching:
                await asyncio.wait(self._attaching, timeout=_ATTACHING)
            if not self._halt.is_set():
                controller.assign(_wanted(controller.task, RUNNING))
            await self._until(lambda: controller.status.container.pid > 0 or is_over(controller.status.state))
            if begun is not None:
                _tell(begun, controller)
            await controller.cleared.wait()
        finally:
            running.cancel()
            settling.cancel()
            await asyncio.gather(running, settling, return_exceptions=True)

    async def _settle(self, controller: Controller) -> None:
        """What was asked of its networks while it was made, or before a crash."""
        await self._until(lambda: controller.status.state >= READY)
        await self.wiring.settle()

    def _make_controller(self, status: TaskStatus | None = None, found: ContainerState | None = None) -> Controller:
        task = Task()
        task.CopyFrom(self.record.task)
        task.status.Clear()
        task.status.state = ASSIGNED
        task.desired_state = READY
        task.spec.container.image = self.record.image_id
        # One that is unhealthy says so and runs on, as Docker has it.
        task.spec.container.healthcheck.action = HealthConfig.ACTION_UNREADY
        if found is None:
            del task.networks[:]
            priorities = self.record.gateway_priorities
            for wanted in task.spec.networks:
                task.networks.append(attachment(wanted, priorities.get(wanted.target, 0)))
        prepared = self.record.prepared if found is not None and self.record.HasField("prepared") else None
        return Controller(task, self._parts, self._observed, status=status, prepared=prepared, found=found)

    def _observed(self, controller: Controller) -> None:
        record, status = self.record, controller.status
        before = record.task.status.state
        had = record.task.status.container.pid if not is_over(before) else 0
        health = health_action(record.task.status, status) if not is_over(before) else None
        record.task.status.CopyFrom(status)
        if controller.prepared is not None:
            record.prepared.CopyFrom(controller.prepared)
        if status.container.pid and not had:
            record.started_at.GetCurrentTime()
            self._told("start", record)
        if health is not None:
            self._told(health, record)
        if is_over(status.state):
            record.finished_at.GetCurrentTime()
            if status.HasField("container"):
                self._told("die", record)
            elif before >= STARTING:
                record.task.status.container.exit_code = _LOST
            self._ends += 1
        if status.state >= READY:
            self._save()
        self._changed()

    def _may_restart(self, *, is_start: bool = False) -> bool:
        """By its restart policy; `is_start`: the worker starts, and it does not run."""
        policy, status = self.record.task.spec.restart, self.record.task.status
        if self._halt.is_set() or not is_terminal(self.record.task):
            return False
        if self.record.stopped:
            return is_start and policy.condition == RestartPolicy.CONDITION_ANY and not self.record.unless_stopped
        match policy.condition:
            case RestartPolicy.CONDITION_ANY:
                return True
            case RestartPolicy.CONDITION_ON_FAILURE:
                left = not policy.max_attempts or self.record.restarts < policy.max_attempts
                return left and status.state != TaskState.TASK_STATE_COMPLETE
        return False

    def _ends_soon(self) -> bool:
        """Its last run is over, and it will have no other by itself."""
        return is_terminal(self.record.task) and not self._may_restart()

    def _end(self, signal_name: str, grace: Duration | None) -> None:
        controller = self._controller
        if controller is None or is_over(controller.status.state):
            return
        task = _wanted(controller.task, SHUTDOWN)
        if grace is not None:
            task.spec.container.stop_grace_period.CopyFrom(grace)
        if signal_name and controller.prepared is not None:
            controller.prepared.stop_signal = signal_name
        controller.assign(task)

    async def _quiet(self) -> None:
        """Until its runs are over. Raises Unavailable when somebody else looks after it now."""
        if self._runs is not None:
            await asyncio.wait([self._runs])
        if self._left:
            raise Unavailable(_ELSEWHERE)

    async def _forget(self) -> None:
        try:
            await self._remove(self.id)
        except (ContainerError, FlotaError) as error:
            _log.warning("a container cannot be removed", container=self.id, reason=str(error))
            raise
        self._records.delete(self.id)
        self.removed = True
        self._told("destroy", self.record)
        self._changed()

    def _save(self) -> None:
        if self.removed:
            return
        try:
            self._records.save(self.id, self.record)
        except OSError as error:
            # A full disk is no reason to stop: what is not written down is what an earlier record says.
            _log.warning("cannot write down what became of a container", container=self.id, reason=str(error))


def _wanted(task: Task, state: State) -> Task:
    result = Task()
    result.CopyFrom(task)
    result.desired_state = state
    return result


def _tell(begun: "asyncio.Future[None]", controller: Controller) -> None:
    """Whether the program was let run."""
    if begun.done():
        return
    status = controller.status
    if is_over(status.state) and not status.HasField("container"):
        begun.set_exception(FailedPrecondition(status.error or status.message))
    else:
        begun.set_result(None)
