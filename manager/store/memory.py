"""What people were told of lately, kept over restarts and changes of the leader.

The watch hub keeps the last changes as objects, and only as long as the process runs. A snapshot carries the newest of
what those changes mean to people, so a manager that starts, or is sent a snapshot, can tell of the time before, too.
What is older, or would leave a gap before what the hub keeps, is forgotten.
"""

import time
from collections.abc import Callable, Sequence
from itertools import chain

from flota.manager.store.watch import Event, WatchHub
from flota.v1.store_pb2 import SwarmEvent

# What a change means to people; None = nothing.
Tell = Callable[[Event], SwarmEvent | None]

KEPT = 1_000
# So many changes are told in one go, and the pause after them in seconds: the event loop's thread must not wait.
_TOLD_AT_ONCE = 100
_BREATH = 0.0002


class Memory:
    """The events of before what the hub keeps."""

    def __init__(self, hub: WatchHub, tell: Tell | None) -> None:
        """Without `tell`, only what a snapshot brought is handed on."""
        self._hub = hub
        self._tell = tell
        self._before: list[SwarmEvent] = []
        # `_before` is complete up to this version.
        self._until = 0

    @property
    def before(self) -> Sequence[SwarmEvent]:
        """What went before the first change that the hub keeps; empty when there would be a gap."""
        return self._before if self._hub.complete_since == self._until else ()

    def freeze(self) -> Callable[[], list[SwarmEvent]]:
        """Take what there is now; the function that comes back gives the newest events, and may run in any thread."""
        before, changes = list(self.before), self._hub.kept()

        def newest() -> list[SwarmEvent]:
            found: list[SwarmEvent] = []
            for number, event in enumerate(chain.from_iterable(reversed(batch) for batch in reversed(changes))):
                if len(found) == KEPT or self._tell is None:
                    break
                if (told := self._tell(event)) is not None:
                    found.append(told)
                if number % _TOLD_AT_ONCE == _TOLD_AT_ONCE - 1:
                    time.sleep(_BREATH)
            return (before + found[::-1])[-KEPT:]

        return newest

    def replace(self, events: Sequence[SwarmEvent], index: int) -> None:
        """The store was replaced by a snapshot at `index`, which carried these."""
        self._before, self._until = list(events), index
