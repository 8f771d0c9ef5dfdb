"""Health checks, as Docker does them: a command run in the container again and again.

Until the first success failures within the start period do not count, and checks come every start interval; after it,
or after the period, `retries` failures in a row make the container unhealthy: for good, or (action unready) until a
check succeeds again. A check that takes longer than its timeout has failed. What the last checks found is kept for
people. Semantics: Docker's daemon/health.go.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from flota.v1.types_pb2 import ContainerHealth, HealthConfig, HealthProbe
from flota.worker.runtime.container import BadContainer, ContainerError
from flota.worker.runtime.processes import Completed

_INTERVAL = _TIMEOUT = 30.0
_START_INTERVAL = 5.0
_RETRIES = 3
_SHELL = ("/bin/sh", "-c")
# Of a check's output: in errors, and in what is kept of the last few checks.
_MAX_OUTPUT = 512
_MAX_KEPT_OUTPUT = 4096
_KEPT = 5
_NOT_RUN = -1

# Runs a command in the container for at most so many seconds; raises TimeoutError, ContainerError.
Execute = Callable[[Sequence[str], float], Awaitable[Completed]]


class Unhealthy(Exception):
    """Too many checks failed one after the other. The message is for people."""


def merged(spec: HealthConfig | None, image: HealthConfig | None) -> HealthConfig:
    """What counts: the image's, with whatever the spec says in its place."""
    result = HealthConfig()
    if image is not None:
        result.CopyFrom(image)
    if spec is not None:
        if spec.test:
            result.test[:] = spec.test
        result.retries = spec.retries or result.retries
        result.action = spec.action
        for name in ("interval", "timeout", "start_period", "start_interval"):
            value = getattr(spec, name)
            if seconds(value):
                getattr(result, name).CopyFrom(value)
    return result


def seconds(value: Duration) -> float:
    """A duration in seconds."""
    return value.seconds + value.nanos / 1e9


@dataclass(frozen=True)
class Check:
    """What to run, and when. Times in seconds."""

    command: tuple[str, ...]
    interval: float = _INTERVAL
    timeout: float = _TIMEOUT
    retries: int = _RETRIES
    start_period: float = 0.0
    start_interval: float = _START_INTERVAL

    @classmethod
    def of(cls, config: HealthConfig) -> "Check | None":
        """None when there is none. Raises BadContainer."""
        if not config.test or config.test[0] == "NONE":
            return None
        kind, *words = config.test
        if kind == "CMD" and words:
            command = tuple(words)
        elif kind == "CMD-SHELL" and len(words) == 1:
            command = (*_SHELL, words[0])
        else:
            raise BadContainer(f"invalid health check {list(config.test)!r}: NONE, CMD with a command, CMD-SHELL LINE")
        return cls(
            command,
            seconds(config.interval) or _INTERVAL,
            seconds(config.timeout) or _TIMEOUT,
            config.retries or _RETRIES,
            seconds(config.start_period),
            seconds(config.start_interval) or _START_INTERVAL,
        )


class Health:
    """The health of one container, from its start on. Await `until_healthy`, then `until_unhealthy`."""

    def __init__(
        self, check: Check, execute: Execute, state: "ContainerHealth.State.ValueType" = ContainerHealth.STATE_STARTING
    ) -> None:
        """`state` is what an earlier worker found."""
        # What there is to show; whoever gives it away copies it.
        self.found = ContainerHealth(state=state)
        self._check = check
        self._execute = execute
        self._time = asyncio.get_running_loop().time
        self._started = self._time()

    async def until_healthy(self) -> None:
        """Raises Unhealthy."""
        while not await self._probe(starting=True):
            pass

    async def until_unhealthy(self) -> None:
        """Runs until cancelled, or raises Unhealthy."""
        while True:
            await self._probe(starting=False)

    async def until_healthy_again(self) -> None:
        """After `until_unhealthy` raised: until one check succeeds."""
        while True:
            await asyncio.sleep(self._check.interval)
            if await self._failure() is None:
                return
            self.found.failing_streak += 1

    async def _probe(self, *, starting: bool) -> bool:
        """Wait for the next check's time, and check. Raises Unhealthy when it was one too many."""
        check, found = self._check, self.found
        forgiven = starting and self._time() - self._started < check.start_period
        await asyncio.sleep(check.start_interval if forgiven else check.interval)
        forgiven = starting and self._time() - self._started < check.start_period
        failure = await self._failure()
        if failure is None:
            return True
        if not forgiven:
            found.failing_streak += 1
            if found.failing_streak >= check.retries:
                found.state = ContainerHealth.STATE_UNHEALTHY
                times = "the health check failed" + (f" {check.retries} times in a row" if check.retries > 1 else "")
                raise Unhealthy(f"unhealthy: {times}, at last: {failure}")
        return False

    async def _failure(self) -> str | None:
        """Run the command once; why it failed."""
        since = time.time_ns()
        try:
            done = await self._execute(self._check.command, self._check.timeout)
        except TimeoutError:
            return self._failed(since, f"not done within {self._check.timeout:g} s")
        except ContainerError as error:
            return self._failed(since, str(error))
        self._keep(since, done.code, done.output)
        if done.code == 0:
            self.found.state, self.found.failing_streak = ContainerHealth.STATE_HEALTHY, 0
            return None
        output = done.output if len(done.output) <= _MAX_OUTPUT else done.output[:_MAX_OUTPUT] + "…"
        return f"exit code {done.code}" + (f": {output}" if output else "")

    def _failed(self, since: int, why: str) -> str:
        self._keep(since, _NOT_RUN, why)
        return why

    def _keep(self, since: int, code: int, output: str) -> None:
        probe = HealthProbe(exit_code=code, output=output.encode()[:_MAX_KEPT_OUTPUT].decode(errors="ignore"))
        probe.started_at.FromNanoseconds(since)
        probe.ended_at.FromNanoseconds(time.time_ns())
        log = self.found.log
        log.append(probe)
        del log[:-_KEPT]
