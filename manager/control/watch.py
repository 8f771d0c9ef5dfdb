"""Watch: a stream of committed changes, what clients wait with instead of asking again and again.

A pump reads the store's watch and keeps what the client selected, up to a limit; the stream hands it out as fast as
the client takes it. A client that falls too far behind is cut with an error that says so: it then asks again, with
include_existing. So a slow client costs a bounded amount of memory and holds up nobody.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any

from flota.manager.control.base import ControlBase
from flota.manager.control.shown import shown
from flota.manager.store import Event, Store, WatchClosed, Watcher
from flota.manager.store.schema import KINDS, StoreObject, wrap
from flota.rpc.errors import FlotaError, InvalidArgument, ResourceExhausted, Unavailable
from flota.v1.control_pb2 import WatchMessage, WatchRequest
from flota.v1.objects_pb2 import Task
from flota.v1.store_pb2 import StoreAction

# Changes that may wait for a client.
MAX_WAITING = 20_000


class Selection:
    """What a client wants to see."""

    def __init__(self, selectors: Iterable[WatchRequest.Selector]) -> None:
        """Raises InvalidArgument for a kind that does not exist. No selectors = everything."""
        self._selectors: dict[str, list[WatchRequest.Selector]] = {}
        for selector in selectors:
            if selector.kind not in KINDS:
                raise InvalidArgument.of("watch kind", selector.kind, f"allowed are {', '.join(sorted(KINDS))}")
            if selector.service_ids and selector.kind != "task":
                raise InvalidArgument.of("watch kind", selector.kind, "only tasks are selected by service")
            if selector.node_ids and selector.kind != "task":
                raise InvalidArgument.of("watch kind", selector.kind, "only tasks are selected by node")
            self._selectors.setdefault(selector.kind, []).append(selector)

    @property
    def words(self) -> tuple[str, ...]:
        """Kinds to watch; none = all."""
        return tuple(self._selectors)

    def takes(self, word: str, thing: StoreObject) -> bool:
        """Whether the client wants to hear of this object."""
        if not self._selectors:
            # What services were is no news.
            return word != "service_history"
        return any(_selects(selector, thing) for selector in self._selectors.get(word, ()))


def _selects(selector: WatchRequest.Selector, thing: StoreObject) -> bool:
    if selector.ids and thing.id not in selector.ids:
        return False
    if selector.service_ids and not (isinstance(thing, Task) and thing.service_id in selector.service_ids):
        return False
    return not selector.node_ids or (isinstance(thing, Task) and thing.node_id in selector.node_ids)


class EventBuffer:
    """What waits for one client."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Event] = deque()
        self._wakeup = asyncio.Event()
        self._error: FlotaError | None = None

    async def fill(self, watcher: Watcher, selection: Selection) -> None:
        """Runs until the client has fallen behind, or the watch has ended."""
        try:
            async for batch in watcher:
                self._waiting.extend(event for event in batch if selection.takes(event.word, event.object))
                if len(self._waiting) > self._limit:
                    self.cut(
                        ResourceExhausted(
                            f"this watch fell {len(self._waiting):,} changes behind and was ended: "
                            "open it again with include_existing"
                        )
                    )
                    return
                self._wakeup.set()
        except WatchClosed:
            self.cut(Unavailable("the store was replaced by a snapshot: open the watch again with include_existing"))
        finally:
            # Nothing more will come, whatever the reason; a stream must not wait for it.
            if self._error is None:
                self.cut(Unavailable("this watch has ended: open it again"))

    def cut(self, error: FlotaError) -> None:
        """End the stream; what waits is dropped."""
        self._waiting.clear()
        self._error = error
        self._wakeup.set()

    async def take(self) -> Event:
        """The next change. Raises what `cut` was given."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._waiting.popleft()


class Watch(ControlBase):
    """The call that streams changes."""

    max_waiting = MAX_WAITING

    async def Watch(self, request: WatchRequest, context: Any) -> AsyncIterator[WatchMessage]:
        """Raises InvalidArgument, ResourceExhausted (too slow), Unavailable (leadership is lost)."""
        selection = Selection(request.selectors)
        store = await self._fresh()
        buffer = EventBuffer(self.max_waiting)
        with store.watch(*selection.words) as watcher:
            existing = _existing(store, selection) if request.include_existing else []
            version = store.index
            self._streams.add(buffer)
            # Owned by this stream: cancelled and awaited when the stream ends, in whatever way.
            pump = asyncio.create_task(buffer.fill(watcher, selection))
            try:
                for word, thing in existing:
                    yield _message(StoreAction.KIND_CREATE, word, thing, None, thing.meta.version.index)
                if request.include_existing:
                    mark = WatchMessage()
                    mark.version.index = version
                    yield mark
                while True:
                    event = await buffer.take()
                    yield _message(event.kind, event.word, event.object, event.old, event.index)
            finally:
                self._streams.discard(buffer)
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    async def run(self) -> None:
        """Runs until cancelled; then open Watch streams end with Unavailable, as another manager leads."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for buffer in list(self._streams):
                buffer.cut(Unavailable("this manager does not lead any longer: open the watch again"))


def _existing(store: Store, selection: Selection) -> list[tuple[str, StoreObject]]:
    tables: dict[str, Iterable[StoreObject]] = {
        "node": store.nodes, "network": store.networks, "secret": store.secrets, "config": store.configs,
        "cluster": store.clusters, "service": store.services, "task": store.tasks, "service_history": store.histories,
    }  # fmt: skip
    return [
        (word, thing)
        for word in tables
        if not selection.words or word in selection.words
        for thing in tables[word]
        if selection.takes(word, thing)
    ]


def _message(
    kind: "StoreAction.Kind.ValueType", word: str, thing: StoreObject, old: StoreObject | None, version: int
) -> WatchMessage:
    message = WatchMessage(kind=kind, object=wrap(shown(thing)))
    if old is not None and kind == StoreAction.KIND_UPDATE:
        message.old.CopyFrom(wrap(shown(old)))
    message.version.index = version
    return message
