"""What the leader's loops over the store have in common: they watch, note what is to be done, and do it.

A loop notes and never acts on what an event says: its rounds look at the store as it is then. So beginning, taking over
from another leader, and a watch that was closed (the store was replaced, or the loop was too slow) are all the same:
look at everything anew. What arrives during a round is taken together in the next one.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import ClassVar

from flota.manager.clock import Clock
from flota.manager.store import Event, Store, WatchClosed, Watcher

# Seconds before consensus is asked again when it could not take a transaction.
RETRY_DELAY = 0.2
# Alarms this near are as good as now; the event loop's clock need not be the wall's.
_SHORTEST_WAIT = 0.001


class WatchLoop(ABC):
    """One loop of the leader."""

    # For logs.
    name: ClassVar[str]
    # The kinds of objects whose events it notes.
    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            with suppress(WatchClosed), self._store.watch(*self.kinds) as changes:
                self._begin()
                await self._follow(changes)

    async def _follow(self, changes: Watcher) -> None:
        while True:
            self._note(changes.drain())
            if self._is_due():
                await asyncio.sleep(await self._round())
                continue
            at = self._wake_at()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else max(at - self._clock.now(), _SHORTEST_WAIT)):
                    self._note(await changes.next())

    @abstractmethod
    def _begin(self) -> None:
        """Forget what was noted, and note all that is in the store."""

    @abstractmethod
    def _note(self, events: Iterable[Event]) -> None:
        """Note what these concern; cheap."""

    @abstractmethod
    def _is_due(self) -> bool:
        """Whether there is something to do now."""

    @abstractmethod
    async def _round(self) -> float:
        """Do it, or some of it. Gives back the seconds to rest before the next round."""

    def _wake_at(self) -> float | None:
        """When to look again even if nothing happens (wall seconds); None = never."""
        return None
