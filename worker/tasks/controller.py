"""One task on its node, from its assignment until nothing of it is left.

    live (life.LIFE, step by step) ──► finish: off the network, report, clean up ──► wait to be removed ──► discard
      └─ wanted to end: what is being done is given up ──► stop: signal, grace, SIGKILL ─┘

A task is off its networks before it is reported ended, because its addresses go to another task then. The container is
taken apart after that, but for its log, which people ask for as long as the managers know the task. Cancelling `run`
means that the worker stops: the container goes on, and a controller of the next worker takes it up (`found`).

Never decides what is wanted, and never talks to managers: `observed` hears of every change.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import count
from typing import Any

import structlog

from flota.overlay import BadAddress, OverlayError
from flota.rpc.errors import DeadlineExceeded, FlotaError, ResourceExhausted, Unavailable
from flota.v1.ids import container_id
from flota.v1.objects_pb2 import Task
from flota.v1.process_pb2 import PreparedTask
from flota.v1.types_pb2 import ContainerHealth, HealthConfig, TaskState, TaskStatus
from flota.worker.runtime.container import BadContainer, ContainerError, ContainerState, Exit, Phase, signal_number
from flota.worker.runtime.processes import Completed
from flota.worker.tasks.health import Check, Health, Unhealthy, seconds
from flota.worker.tasks.life import (
    ASSIGNED,
    ENDINGS,
    FAILED,
    LIFE,
    PREPARING,
    RUNNING,
    SHUTDOWN,
    STARTING,
    Outcome,
    State,
    Step,
    Work,
    is_over,
    outcome_of,
    resume,
)
from flota.worker.tasks.parts import Parts
from flota.worker.tasks.preparing import prepare

_log = structlog.get_logger("tasks")

_GRACE = 10.0
# Between tries of what may pass by itself, and how many there are before the task is given up: the managers may then
# put another one elsewhere.
_PAUSE = 1.0
_TRIES = 10
# Faults that people can read about; what of them will be the same the next time, but for some that may pass.
_FAULTS = (ContainerError, OverlayError, FlotaError)
_LASTING = (BadContainer, BadAddress, FlotaError)
_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)
_REMOVE = TaskState.TASK_STATE_REMOVE
_HEALTHY, _UNHEALTHY = ContainerHealth.STATE_HEALTHY, ContainerHealth.STATE_UNHEALTHY


class Controller:
    """See the module's docstring. `run` it; tell it what is wanted by `assign` and `remove`."""

    def __init__(
        self,
        task: Task,
        parts: Parts,
        observed: "Callable[[Controller], None]",
        *,
        status: TaskStatus | None = None,
        prepared: PreparedTask | None = None,
        found: ContainerState | None = None,
    ) -> None:
        """`status`, `prepared` and `found`: what is left of the task's life under an earlier worker."""
        self.task = task
        self.status = status or TaskStatus(state=max(task.status.state, ASSIGNED))
        self.prepared = prepared
        # When this controller began, for measurements.
        self.since = asyncio.get_running_loop().time()
        self._parts = parts
        self._observed = observed
        self._launched = found is not None and (
            found.phase == Phase.RUNNING or (found.phase == Phase.ENDED and self.status.state >= STARTING)
        )
        # Whether anything of it may be on this node.
        self._made = found is not None
        # Was made and ended before it was started; its place is needed.
        self._spoilt = found is not None and found.phase == Phase.ENDED and not self._launched
        there = found is not None and not self._spoilt
        self._stage = resume(self.status.state, container=there, started=self._launched)
        self._pid = found.pid if found is not None else 0
        self._health: Health | None = None
        self._changed = asyncio.Event()
        self._ends = self._is_to_end()
        self._hasty = False
        self._unwanted = asyncio.Event()
        # What ran is taken apart: only what is kept of it is left.
        self.cleared = asyncio.Event()
        # The task that lives this life, while it may be interrupted.
        self._living: asyncio.Task[Any] | None = None

    @property
    def id(self) -> str:
        """The task's id, and its container's."""
        return self.task.id

    @property
    def needs_managers(self) -> bool:
        """Whether it cannot go on before the managers have said what it needs (after a restart)."""
        return self._stage is not None and self._stage <= PREPARING

    @property
    def runs(self) -> bool:
        """Whether its program runs, as far as is known."""
        return self._launched and not is_over(self.status.state)

    @property
    def health(self) -> ContainerHealth | None:
        """What its health checks found; None without one, and before its program was let run. Not to be changed."""
        return self._health.found if self._health is not None else None

    def assign(self, task: Task) -> None:
        """The task as the managers have it now."""
        self.task = task
        if self._is_to_end():
            self._end()
        self._changed.set()

    def remove(self) -> None:
        """The managers do not know the task any longer: end it if need be, and leave nothing of it."""
        self._unwanted.set()
        self._end()

    async def kill(self) -> None:
        """End it without its grace."""
        self._hasty = True
        self._end()
        await self._parts.containers.signal(self.id, signal.SIGKILL)

    async def run(self) -> None:
        """Returns when nothing of the task is left. Cancelled: the worker stops, the container runs on."""
        if not is_over(self.status.state):
            outcome = await self._life()
            await self._leave_networks()
            self._observe(outcome.state, outcome.message, outcome.error, outcome.exit)
        else:
            await self._leave_networks()
        if not self._unwanted.is_set() and self.task.desired_state != _REMOVE:
            await self._take_apart(keep=True)
            self.cleared.set()
            await self._unwanted.wait()
        await self._take_apart(keep=False)
        self.cleared.set()
        await self._unwanted.wait()

    # Its life.

    async def _life(self) -> Outcome:
        try:
            if not self._ends:
                if self._stage is None:
                    return Outcome(FAILED, "failed", "the container is gone: the node lost it, or was started anew")
                self._living = asyncio.current_task()
                return await self._live(self._stage)
        except asyncio.CancelledError:
            assert self._living is not None
            # Twice cancelled: the worker stops as well.
            if not self._ends or self._living.uncancel():
                raise
        finally:
            self._living = None
        return Outcome(SHUTDOWN, "shutdown", exit=await self._stop())

    async def _live(self, stage: State) -> Outcome:
        while True:
            step = LIFE[stage]
            while self.task.desired_state < step.wanted:
                self._changed.clear()
                await self._changed.wait()
            outcome = await self._take(step)
            if outcome is not None:
                return outcome
            stage = step.leads_to
            # What the step has told by itself stays told: that it runs, but is not ready.
            if stage != self.status.state or not self.status.unready:
                self._observe(stage, step.message)

    async def _take(self, step: Step) -> Outcome | None:
        """Do what the step takes; an outcome if life ended by it."""
        for tries in count(1):
            try:
                return await self._do(step.work)
            except Unhealthy as error:
                self._observe(self.status.state, _word(self.status.state), str(error), unhealthy=True)
                return Outcome(step.failure, _word(step.failure), str(error), await self._stop())
            except _FAULTS as error:
                if isinstance(error, _LASTING) and not isinstance(error, _PASSING):
                    return Outcome(step.failure, _word(step.failure), str(error))
                if tries == _TRIES or self._parts.again:
                    return Outcome(step.failure, _word(step.failure), str(error))
                self._observe(self.status.state, f"{_word(self.status.state)}: trying again", str(error))
            except Exception as error:  # noqa: BLE001 - one task's trouble is not the others'
                _log.exception("a defect ends a task", task=self.id, state=_word(self.status.state))
                return Outcome(step.failure, _word(step.failure), f"a defect of flota: {type(error).__name__}: {error}")
            await asyncio.sleep(_PAUSE)
        raise AssertionError("counting ended")

    async def _do(self, work: Work) -> Outcome | None:
        match work:
            case Work.PREPARE:
                await self._prepare()
            case Work.START:
                return await self._start()
            case Work.WATCH:
                return outcome_of(await self._watch())
        return None

    async def _prepare(self) -> None:
        self._made = True
        if self._spoilt:
            await self._parts.containers.remove(self.id)
            self._spoilt = False
        self.prepared = await prepare(self.task, self._parts)

    async def _start(self) -> Outcome | None:
        if not self._launched:
            self._launched = True
            try:
                self._pid = (await self._parts.containers.launch(self.id)).pid
            except ContainerError as error:
                return Outcome(FAILED, "failed", str(error))
        check = self._check()
        if check is None:
            return None
        self._observe(STARTING, "waiting for the first successful health check")
        self._health = Health(check, self._execute)
        try:
            exit = await self._end_or(self._health.until_healthy())
        except Unhealthy as error:
            if not self._parts.again:
                raise
            # A container without a service runs on, as Docker has it.
            self._observe(RUNNING, "running, but not ready", str(error), unready=True)
            return None
        return outcome_of(exit) if exit is not None else None

    async def _watch(self) -> Exit:
        check = self._check()
        if check is None:
            return await self._parts.containers.wait(self.id)
        if self._health is None:
            # An earlier worker has followed it so far.
            self._health = Health(check, self._execute, _UNHEALTHY if self.status.unready else _HEALTHY)
        health = self._health
        assert self.prepared is not None
        tolerant = self.prepared.healthcheck.action == HealthConfig.ACTION_UNREADY
        exit = await self._end_or(self._tell_readiness(health) if tolerant else health.until_unhealthy())
        assert exit is not None
        return exit

    async def _tell_readiness(self, health: Health) -> None:
        """The task runs on while it is unhealthy, without visitors. Runs until cancelled."""
        message = self.status.message
        if self.status.unready:
            # An earlier worker said so.
            message = LIFE[STARTING].message
            await health.until_healthy_again()
            self._observe(self.status.state, message)
        while True:
            try:
                await health.until_unhealthy()
            except Unhealthy as error:
                self._observe(self.status.state, "running, but not ready", str(error), unready=True)
            await health.until_healthy_again()
            self._observe(self.status.state, message)

    def _check(self) -> Check | None:
        return Check.of(self.prepared.healthcheck) if self.prepared is not None else None

    def _execute(self, command: Sequence[str], limit: float) -> Awaitable[Completed]:
        return self._parts.containers.execute(self.id, command, limit=limit)

    async def _end_or(self, checks: Coroutine[Any, Any, None]) -> Exit | None:
        """The program's end, or None when `checks` is done before. Raises Unhealthy."""
        end = asyncio.create_task(self._parts.containers.wait(self.id))
        checking = asyncio.create_task(checks)
        try:
            await asyncio.wait((end, checking), return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
            checking.result()
            return None
        finally:
            end.cancel()
            checking.cancel()
            await asyncio.gather(end, checking, return_exceptions=True)

    # Its end.

    def _is_to_end(self) -> bool:
        """Managers want it to stop, or have given it up."""
        return self.task.desired_state in ENDINGS or is_over(self.task.status.state)

    def _end(self) -> None:
        if not self._ends:
            self._ends = True
            if self._living is not None:
                self._living.cancel()

    async def _stop(self) -> Exit | None:
        """Have the program end, if it was started."""
        if not self._launched:
            return None
        containers, grace = self._parts.containers, self._grace()
        if self.task.service_id:
            # Others of its service answer in its place.
            await self._parts.networks.close(self.id)
        try:
            if grace > 0:
                await containers.signal(self.id, self._stop_signal())
                try:
                    async with asyncio.timeout(grace):
                        return await containers.wait(self.id)
                except TimeoutError:
                    pass
            await containers.signal(self.id, signal.SIGKILL)
            return await containers.wait(self.id)
        except ContainerError:
            # It is not there (any longer).
            return None

    def _grace(self) -> float:
        container = self.task.spec.container
        if self._hasty:
            return 0.0
        return seconds(container.stop_grace_period) if container.HasField("stop_grace_period") else _GRACE

    def _stop_signal(self) -> int:
        name = self.prepared.stop_signal if self.prepared is not None else self.task.spec.container.stop_signal
        try:
            return signal_number(name)
        except ValueError:
            # An image's mistake; as Docker has it.
            return signal.SIGTERM

    async def _leave_networks(self) -> None:
        if self._made:
            await self._insist(lambda: self._parts.networks.detach(self.id))

    async def _take_apart(self, *, keep: bool) -> None:
        """Remove the container but, if it is to `keep` that, its log; and all it wrote when it may live again."""
        again = keep and self._parts.again
        if self._made:
            await self._insist(lambda: self._parts.containers.remove(self.id, keep_log=keep, keep_files=again))
        if not again:
            self._parts.images.release(self.id)

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Clean up, however often it takes."""
        while True:
            try:
                return await work()
            except (ContainerError, OverlayError, OSError) as error:
                _log.warning("cannot clean up after a task yet", task=self.id, reason=str(error))
            await asyncio.sleep(_PAUSE)

    # What is told of it.

    def _observe(
        self,
        state: State,
        message: str,
        error: str = "",
        exit: Exit | None = None,
        *,
        unhealthy: bool = False,
        unready: bool = False,
    ) -> None:
        known = self.status
        if state < known.state or (state, message, error) == (known.state, known.message, known.error):
            return
        now = time.time_ns()
        self.status = status = TaskStatus(state=state, message=message, error=error, unready=unready)
        status.timestamp.seconds, status.timestamp.nanos = divmod(now, 1_000_000_000)
        if self._launched:
            status.container.container_id = container_id(self.id)
            status.container.pid = 0 if is_over(state) else self._pid
            status.container.unhealthy = unhealthy or unready
            self._remember_start(known, status)
        if self.prepared is not None and self.prepared.ports and not is_over(state):
            status.ports.ports.extend(self.prepared.ports)
        if exit is not None:
            status.container.exit_code = -1 if exit.code is None else exit.code
            status.container.oom_killed = exit.oom_killed
        self._observed(self)

    def _remember_start(self, known: TaskStatus, status: TaskStatus) -> None:
        if known.container.HasField("started_at"):
            status.container.started_at.CopyFrom(known.container.started_at)
        elif self._pid:
            status.container.started_at.CopyFrom(status.timestamp)


def _word(state: State) -> str:
    return TaskState.Name(state).removeprefix("TASK_STATE_").lower()
