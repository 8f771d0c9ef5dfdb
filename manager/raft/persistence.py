"""What a member does with its disk before it promises anything, and what it does when the disk refuses.

All that promises rest on is written by one thread, in order. A disk that refuses is told of (`disk_trouble`), whoever
waits is told so, and the same is tried again until the disk takes it: nothing that rests on it leaves before.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from flota.manager.raft.standing import Standing
from flota.v1.raft_pb2 import Entry, HardState

_log = structlog.get_logger("raft")
T = TypeVar("T")
_DISK_PAUSE = 0.5


class Persistence(Standing):
    """See the module's docstring."""

    # What of the hard state is on the disk.
    _promised = HardState()

    def _on_disk(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        return self._disk.call(call)

    async def _persist(
        self, state: HardState | None, entries: list[Entry], restored: int, meanwhile: Callable[[], None]
    ) -> None:
        while True:
            start = self._writing_since = time.monotonic()
            try:
                written = self._on_disk(lambda: self._storage.persist(state, entries, restored))
                meanwhile()
                meanwhile = _nothing
                await written
            except OSError as error:
                await self._disk_refuses(error)
                continue
            self._disk_takes()
            self._metrics.sync_seconds.observe(time.monotonic() - start)
            if state is not None:
                self._promised = state
            return

    async def _disk_refuses(self, error: OSError) -> None:
        """Say so, fail whoever waits, and let some time pass before the next attempt."""
        self._writing_since = None
        self._say_that_the_disk_refuses(error)
        self._fail_waiting(self._stuck())
        await asyncio.sleep(_DISK_PAUSE)

    def _say_that_the_disk_refuses(self, error: OSError) -> None:
        self._metrics.sync_failures.inc()
        if not self._disk_trouble:
            _log.error("the disk cannot be written: not taking part until it can", reason=str(error))
        self._disk_trouble = str(error)
        self._notify()

    def _fail_waiting(self, error: Exception) -> None:
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    def _disk_takes(self) -> None:
        self._writing_since = None
        if self._disk_trouble:
            _log.info("the disk can be written again")
            self._disk_trouble = ""
            self._notify()


def _nothing() -> None:
    pass
