"""Watching the store: every committed transaction as one list of events, in order, without gaps.

Opening a watch and reading the tables without an `await` in between gives a consistent picture and everything after
it. A watcher that falls behind keeps its events in memory; loops that only want "something changed" take all that is
waiting at once (`drain`).
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.store.schema import StoreObject
from flota.v1.store_pb2 import StoreAction


@dataclass(frozen=True, slots=True)
class Event:
    """One object was created, updated or removed. A removal carries the last state of the object."""

    word: str
    kind: "StoreAction.Kind.ValueType"
    object: StoreObject
    old: StoreObject | None
    index: int
    # When the leader proposed the transaction; the same on every manager.
    at: Timestamp


class WatchClosed(Exception):
    """The store was replaced (a snapshot was installed): read everything anew."""


class Watcher:
    """An open watch; use it as a context manager, iterate to wait."""

    def __init__(self, hub: "WatchHub", words: frozenset[str]) -> None:
        self._hub = hub
        self._words = words
        self._waiting: deque[list[Event]] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._closed = False

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.forget(self)

    def __aiter__(self) -> "Watcher":
        return self

    async def __anext__(self) -> list[Event]:
        """The events of the next transaction that touched a watched kind. Raises WatchClosed."""
        while not self._waiting:
            if self._closed:
                raise WatchClosed
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        return self._waiting.popleft()

    async def next(self) -> list[Event]:
        """Same as iterating once."""
        return await self.__anext__()

    def drain(self) -> list[Event]:
        """Everything that is waiting now, of all transactions, without waiting for more."""
        events = [event for batch in self._waiting for event in batch]
        self._waiting.clear()
        return events

    @property
    def behind(self) -> int:
        """Transactions that wait to be read."""
        return len(self._waiting)

    def offer(self, events: list[Event]) -> None:
        """Called by the hub with the events of one transaction."""
        mine = [event for event in events if event.word in self._words] if self._words else events
        if mine:
            self._waiting.append(mine)
            self._wake()

    def close(self) -> None:
        """Called by the hub when the store is replaced."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


class Compacted(Exception):
    """A watch asked to resume from a version whose events are no longer kept."""


class WatchHub:
    """All open watches, and the last events for those who resume."""

    def __init__(self, retained: int = 10_000) -> None:
        """`retained` events are kept: a transaction may have hundreds, and each keeps an object in memory."""
        self._watchers: list[Watcher] = []
        self._history: deque[list[Event]] = deque()
        self._retained, self._kept = retained, 0
        self._complete_since = 0

    def open(self, words: Iterable[str], after: int | None) -> Watcher:
        """A new watch; with `after`, it begins with everything later than that version. Raises Compacted."""
        watcher = Watcher(self, frozenset(words))
        if after is not None:
            if after < self._complete_since:
                raise Compacted(f"events after version {after} are no longer kept (kept: after {self._complete_since})")
            for events in self._history:
                if events[0].index > after:
                    watcher.offer(events)
        self._watchers.append(watcher)
        return watcher

    @property
    def complete_since(self) -> int:
        """Everything later than this version is still kept."""
        return self._complete_since

    def kept(self) -> list[list[Event]]:
        """The transactions that are still kept, oldest first."""
        return list(self._history)

    def forget(self, watcher: Watcher) -> None:
        """The watch is not needed any longer."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def publish(self, events: list[Event]) -> None:
        """One transaction was committed."""
        if not events:
            return
        self._history.append(events)
        self._kept += len(events)
        while self._kept > self._retained and len(self._history) > 1:
            oldest = self._history.popleft()
            self._kept -= len(oldest)
            self._complete_since = oldest[0].index
        for watcher in self._watchers:
            watcher.offer(events)

    def reset(self, index: int) -> None:
        """The store was replaced by a snapshot at `index`."""
        self._history.clear()
        self._kept = 0
        self._complete_since = index
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()
