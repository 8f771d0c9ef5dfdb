"""Events: what has happened in the cluster, as a stream.

The past is what the store still keeps: its last changes, and before them what the snapshot it started from could tell.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.control.base import ControlBase
from flota.manager.control.happenings import KINDS, told
from flota.manager.control.watch import EventBuffer, Selection
from flota.rpc.errors import InvalidArgument
from flota.v1.control_pb2 import EventsRequest
from flota.v1.store_pb2 import SwarmEvent

# So many changes of the past are read before others get their turn.
_AT_ONCE = 500


class Events(ControlBase):
    """The call that tells what happens."""

    max_waiting: int

    async def Events(self, request: EventsRequest, context: Any) -> AsyncIterator[SwarmEvent]:
        """Raises InvalidArgument, ResourceExhausted (too slow), Unavailable (leadership is lost)."""
        since = _nanoseconds(request.since) if request.HasField("since") else None
        until = _nanoseconds(request.until) if request.HasField("until") else None
        if since is not None and until is not None and until < since:
            raise InvalidArgument("since is later than until")
        store = await self._fresh()
        with store.watch(*KINDS, after=store.kept_since if since is not None else None) as watcher:
            before, past = store.told_before if since is not None else (), watcher.drain()
            buffer = EventBuffer(self.max_waiting)
            self._streams.add(buffer)
            pump = asyncio.create_task(buffer.fill(watcher, Selection(())))
            try:
                for event in before:
                    if _within(event.at, since, until):
                        yield event
                for index, change in enumerate(past):
                    if index % _AT_ONCE == _AT_ONCE - 1:
                        await asyncio.sleep(0)
                    if _within(change.at, since, until) and (news := told(change, store)) is not None:
                        yield news
                while request.follow:
                    change = await buffer.take()
                    if until is not None and _nanoseconds(change.at) > until:
                        return
                    if (news := told(change, store)) is not None:
                        yield news
            finally:
                self._streams.discard(buffer)
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)


def _within(at: Timestamp, since: int | None, until: int | None) -> bool:
    return (since or 0) <= _nanoseconds(at) and (until is None or _nanoseconds(at) <= until)


def _nanoseconds(stamp: Timestamp) -> int:
    return stamp.seconds * 1_000_000_000 + stamp.nanos
