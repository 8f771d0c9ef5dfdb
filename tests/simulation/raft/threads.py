"""An event loop on virtual time whose threads are made up: a call takes a while, and then happens at once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation import virtual_time


@dataclass(eq=False)
class Job:
    """A call that a thread is to make."""

    executor: Any
    call: Callable[[], Any]
    future: "asyncio.Future[Any]"
    timer: asyncio.TimerHandle | None = None


class Loop(virtual_time.VirtualLoop):
    """Threads are made up too: a call takes a while, then it happens at once, unless nobody waits for it any more."""

    takes: Callable[[], float] = staticmethod(lambda: 0.001)

    def __init__(self) -> None:
        super().__init__()
        self._jobs: list[Job] = []
        # Executors of one thread: when it is free.
        self._busy_until: dict[int, float] = {}

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        job = Job(executor, lambda: func(*args), self.create_future())
        begins = self.time() if executor is None else max(self.time(), self._busy_until.get(id(executor), 0.0))
        ends = self._busy_until[id(executor)] = begins + self.takes()
        self._jobs.append(job)

        def run() -> None:
            self._jobs.remove(job)
            if job.future.done():
                return
            try:
                job.future.set_result(job.call())
            except Exception as error:  # noqa: BLE001 - as a thread would hand it on
                job.future.set_exception(error)

        job.timer = self.call_at(ends, run)
        return job.future

    def interrupt(self, executor: Any) -> Callable[[], Any] | None:
        """Stop a thread for good; gives back the call that it is in the middle of."""
        mine = [job for job in self._jobs if job.executor is executor]
        for job in mine:
            self._jobs.remove(job)
            assert job.timer is not None
            job.timer.cancel()
        return mine[0].call if mine else None
