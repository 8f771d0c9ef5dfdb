"""One thread for calls that block, with as little as possible between it and the event loop.

Every commit crosses it twice on each manager, and an executor's futures, locks and work items cost more than the write
of a small record itself. Calls are made one after the other, in the order they were given.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class BlockingThread:
    """See the module's docstring. It begins with its first call; `shutdown` ends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    def call(self, what: "Callable[[], T]") -> "asyncio.Future[T]":
        """Have the thread call `what`. Who does not wait for the answer any more does not stop it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((what, future, loop))
        if self._thread is None:
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return future

    def shutdown(self) -> None:
        """Make the calls that are waiting, then end. Blocks until then."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            what, future, loop = job
            result, error = None, None
            try:
                result = what()
            except BaseException as raised:  # noqa: BLE001 - it is the caller's
                error = raised
            # A loop that is closed has nobody who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)
            # Until the next job, keep nothing of this one alive.
            del job, what, future, result, error


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
