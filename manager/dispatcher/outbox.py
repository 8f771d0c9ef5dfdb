"""What one worker is still to be told: keys that were touched, made into messages when they may be sent.

The first message is the complete set, from then on each carries the changes since. An idle worker hears of a change
at once. One that was told something just now gets the next things together, after a gap that depends on their urgency
and, for what many nodes hear, on how many they are: so a storm of changes costs every node few messages, and the
manager a bounded share of its time. Nothing is queued but keys: a worker that does not read costs no more than a set of
those, and is then told how things are, not how they came to be.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator

from flota.manager.dispatcher.assignments import Assignments, Key, Urgency
from flota.manager.dispatcher.metrics import CHANGES, MESSAGES
from flota.manager.dispatcher.pace import Pace
from flota.rpc.errors import FlotaError
from flota.v1.dispatcher_pb2 import AssignmentChange, AssignmentsMessage

# Changes, and about as many bytes, that go into one message.
MAX_CHANGES = 100
MAX_BYTES = 1 << 20
# Of a part of the complete set; gRPC takes up to 64 MiB.
MAX_PART_BYTES = 16 << 20

# Seconds between messages to one worker: at least, and for each node that hears of the same change. Behind each message
# about peers is work for the worker too (names, forwarding, nftables), so those are few when there is much going on.
_GAPS = {
    Urgency.OWN: (0.002, 0.0),
    Urgency.STOP: (0.002, 0.0),
    Urgency.WITHDRAWN: (0.002, 0.0001),
    Urgency.SPREAD: (0.05, 0.0004),
}
# What a task rests on goes before it.
_ORDER = {"network": 0, "secret": 1, "config": 2, "service": 3, "peer": 4, "task": 5}
# What many nodes hear of.
_SHARED = (_ORDER["service"], _ORDER["peer"])


def gap(urgency: Urgency, nodes: int) -> float:
    """Seconds that have to pass after a worker's last message before it hears of a change that `nodes` nodes hear."""
    least, each = _GAPS[urgency]
    return least + each * nodes


class Outbox:
    """One open assignments stream. Make it when `assignments` has taken over all events: it begins with that state."""

    def __init__(self, node_id: str, assignments: Assignments, pace: Pace) -> None:
        self._pace = pace
        self._node_id = node_id
        self._assignments = assignments
        self._complete = list(assignments.complete(node_id))
        self._waiting: tuple[dict[Key, None], ...] = tuple({} for _ in _ORDER)
        # Keys whose withdrawal somebody waits for; the tasks of those that were sent, by the message's number.
        self._asked: set[Key] = set()
        self._unconfirmed: dict[int, list[str]] = {}
        self._sequence = 0
        self._sent_at = -math.inf
        self._due = math.inf
        self._ended = False
        self._error: FlotaError | None = None
        self._wake = asyncio.Event()
        self._time = asyncio.get_running_loop().time

    def touch(self, key: Key, gap: float) -> None:
        """The worker has to hear of this key, and not before `gap` seconds after the last message."""
        self._waiting[_ORDER[key[0]]][key] = None
        due = self._sent_at + gap
        if due < self._due:
            self._due = due
            self._wake.set()

    def ask(self, keys: Iterable[Key]) -> None:
        """The worker shall confirm that these keys of peers, which wait to be sent, are in force."""
        self._asked.update(keys)

    def confirm(self, sequence: int) -> list[str]:
        """Messages up to this one are in force: the tasks that were asked for in them."""
        done = [number for number in self._unconfirmed if number <= sequence]
        return [task_id for number in done for task_id in self._unconfirmed.pop(number)]

    def end(self, error: FlotaError | None) -> None:
        """End the stream: with `error`, or quietly with None."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake.set()

    async def messages(self) -> AsyncIterator[AssignmentsMessage]:
        """The stream. Raises what it is ended with."""
        for message in self._parts():
            yield message
            self._sent_at = self._time()
        while await self._until_due():
            if not any(keys for order, keys in enumerate(self._waiting) if order not in _SHARED):
                await self._pace.turn()
            message = self._next()
            MESSAGES.inc()
            CHANGES.inc(len(message.changes))
            yield message
            self._sent_at = self._time()

    def _parts(self) -> Iterator[AssignmentsMessage]:
        """The complete set, in as many messages as it needs."""
        changes, self._complete = self._complete, []
        part, size = self._message(AssignmentsMessage.TYPE_COMPLETE), 0
        for change in changes:
            length = change.ByteSize()
            if size and size + length > MAX_PART_BYTES:
                part.more = True
                yield part
                part, size = self._message(AssignmentsMessage.TYPE_COMPLETE), 0
            part.changes.append(change)
            size += length
        yield part

    def _next(self) -> AssignmentsMessage:
        """As much of what waits as goes into one message, as it is now."""
        message, size = self._message(AssignmentsMessage.TYPE_INCREMENTAL), 0
        for keys in self._waiting:
            while keys and len(message.changes) < MAX_CHANGES and size < MAX_BYTES:
                key = next(iter(keys))
                del keys[key]
                change: AssignmentChange = self._assignments.change(self._node_id, key)
                message.changes.append(change)
                if key in self._asked:
                    self._asked.discard(key)
                    message.confirm = True
                    self._unconfirmed.setdefault(message.results_in, []).append(key[2])
                if key[0] in ("secret", "config", "task"):
                    size += change.ByteSize()
        self._due = -math.inf if any(self._waiting) else math.inf
        return message

    def _message(self, kind: "AssignmentsMessage.Type.ValueType") -> AssignmentsMessage:
        before = self._sequence
        self._sequence += 1
        return AssignmentsMessage(type=kind, applies_to=before, results_in=self._sequence)

    async def _until_due(self) -> bool:
        """Wait until there is something that may be sent; False when the stream has ended quietly."""
        while not self._ended:
            delay = self._due - self._time()
            if delay <= 0:
                return True
            self._wake.clear()
            try:
                async with asyncio.timeout(None if math.isinf(delay) else delay):
                    await self._wake.wait()
            except TimeoutError:
                continue
        if self._error is not None:
            raise self._error
        return False
