"""Health checks, as Docker does them: a command run in the container again and again.

Until the first success failures within the start period do not count, and checks come every start interval; after it,
or after the period, `retries` failures in a row make the container unhealthy: for good, or (action unready) until a
check succeeds again. A check that takes longer than
its timeout has failed. Semantics: Docker's daemon/health.go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from flota.v1.types_pb2 import HealthConfig
from flota.worker.runtime.container import BadContainer, ContainerError
from flota.worker.runtime.processes import Completed

_INTERVAL = _TIMEOUT = 30.0
_START_INTERVAL = 5.0
_RETRIES = 3
_SHELL = ("/bin/sh", "-c")
_MAX_OUTPUT = 512

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

    def __init__(self, check: Check, execute: Execute) -> None:
        self._check = check
        self._execute = execute
        self._failures = 0
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
                self._failures = 0
                return

    async def _probe(self, *, starting: bool) -> bool:
        """Wait for the next check's time, and check. Raises Unhealthy when it was one too many."""
        check = self._check
        forgiven = starting and self._time() - self._started < check.start_period
        await asyncio.sleep(check.start_interval if forgiven else check.interval)
        forgiven = starting and self._time() - self._started < check.start_period
        failure = await self._failure()
        if failure is None:
            self._failures = 0
            return True
        if not forgiven:
            self._failures += 1
            if self._failures >= check.retries:
                times = "the health check failed" + (f" {check.retries} times in a row" if check.retries > 1 else "")
                raise Unhealthy(f"unhealthy: {times}, at last: {failure}")
        return False

    async def _failure(self) -> str | None:
        """Run the command once; why it failed."""
        try:
            done = await self._execute(self._check.command, self._check.timeout)
        except TimeoutError:
            return f"not done within {self._check.timeout:g} s"
        except ContainerError as error:
            return str(error)
        if done.code == 0:
            return None
        output = done.output if len(done.output) <= _MAX_OUTPUT else done.output[:_MAX_OUTPUT] + "…"
        return f"exit code {done.code}" + (f": {output}" if output else "")
