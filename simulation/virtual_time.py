"""An event loop on virtual time: sleeping costs nothing, so weeks run in seconds, in the same order every time.

Nothing here waits for anything real: when no callback is ready, time jumps to the next timer. A loop that has neither
callbacks nor timers can never go on, and says so instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class Deadlock(Exception):
    """Everything waits and no timer is set."""


class _NoWait(selectors.SelectSelector):
    """Looks at file descriptors without waiting, and moves the loop's clock by what the wait would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("all tasks wait, and no timer is set")
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio on virtual time, beginning at 0 s."""

    def __init__(self) -> None:
        self._virtual = _NoWait()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualClock:
    """Wall time of a simulation: a fixed morning plus the virtual loop's time."""

    # 2026-01-01T00:00:00Z
    EPOCH = 1_767_225_600.0

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        try:
            return self.EPOCH + asyncio.get_running_loop().time()
        except RuntimeError:
            return self.EPOCH


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end on a fresh virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
