"""One subscriber: the nodes that were asked for it, and the lines on their way.

Lines wait in a buffer of bounded size for each node; a worker whose lines find it full waits in its call, and so does
not read more. What had been written when it was asked for is passed on in order of time over all nodes: each sends its
own in order, so what is no later than the last line of every node's buffer can go. A node that has caught up with what
its tasks write (or cannot be asked) holds up nobody; from then on lines go as they come.

A node's part is `open` until it says that it has sent everything, or is given up. Without follow, nodes that are silent
while the subscriber waits are given up with a warning; with follow a node that cannot be asked is only warned of, since
it may come back: then it goes on after the last line it sent.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.logbroker.metrics import LINES
from flota.manager.logbroker.selection import Selection
from flota.rpc.errors import FlotaError
from flota.v1.logs_pb2 import LogMessage, LogOptions, SubscribeLogsMessage, SubscribeLogsRequest, SubscriptionMessage

# Bytes that wait for a subscriber, of one node and of all, and that go into one message to it (each about: a worker's
# message is never cut, and each of very many nodes may have one).
MAX_WAITING = 1 << 20
_MAX_TOGETHER = 16 << 20
MAX_MESSAGE = 256 << 10
# Seconds in which those who followed get the last lines of what has ended.
_LAST_LINES = 1.0
# Seconds for which those who follow wait for the earlier lines of a node that says nothing.
_ORDER = 1.0
# So that a moment that is waited for has passed.
_MOMENT = 0.001


class Part(Enum):
    """How far a node is with its part."""

    # Nobody could be told yet.
    UNASKED = 0
    OPEN = 1
    DONE = 2


@dataclass(slots=True)
class _Asked:
    part: Part
    at: float
    warned: bool = False
    # Time of the newest line it sent.
    newest: Timestamp | None = None
    # The call that brings its lines now.
    publisher: object = None
    # It has sent what had been written when it was asked, or is not waited for any longer.
    caught_up: bool = False
    # Its lines on their way, and from when on they are at least: no earlier than the one before, whatever clocks say.
    waiting: deque[tuple[int, LogMessage]] = field(default_factory=deque)
    size: int = 0
    order: int = 0


class Subscription:
    """`limit` is how long a node may be silent; `name_of` gives a node's name for people."""

    def __init__(self, id: str, request: SubscribeLogsRequest, limit: float, name_of: Callable[[str], str]) -> None:
        self.id = id
        self.selection = Selection(request.selector)
        self._request = request
        self._limit = limit
        self._name_of = name_of
        self._follows = request.options.follow
        self._leaving = False
        self._nodes: dict[str, _Asked] = {}
        self._warnings: list[str] = []
        self._ready: deque[LogMessage] = deque()
        self._until = request.options.until.ToNanoseconds() if request.options.HasField("until") else None
        self._ended = False
        self._error: FlotaError | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._time = asyncio.get_running_loop().time

    # Nodes.

    def add(self, node_id: str) -> None:
        """The node has tasks that are selected."""
        if node_id not in self._nodes:
            self._nodes[node_id] = _Asked(Part.UNASKED, self._time())
            self._news.set()

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._nodes

    @property
    def open_nodes(self) -> list[str]:
        """Nodes that were told and are not done."""
        return [node_id for node_id, asked in self._nodes.items() if asked.part is Part.OPEN]

    def is_done(self, node_id: str) -> bool:
        """Whether the node's part is over."""
        return self._nodes[node_id].part is Part.DONE

    def question(self, node_id: str) -> SubscriptionMessage:
        """What to ask the node, now that it can be told: everything, or what comes after its newest line."""
        asked = self._nodes[node_id]
        asked.part, asked.warned, asked.publisher, asked.at = Part.OPEN, False, None, self._time()
        options = LogOptions()
        options.CopyFrom(self._request.options)
        if asked.newest is not None:
            options.since.FromNanoseconds(asked.newest.ToNanoseconds() + 1)
            options.ClearField("tail")
        return SubscriptionMessage(id=self.id, selector=self._request.selector, options=options)

    def warn(self, node_id: str, why: str) -> None:
        """Its lines are missing. Said once until it can be asked again; without follow it is given up."""
        asked = self._nodes[node_id]
        if asked.part is Part.DONE and not self._follows:
            return
        if not self._follows:
            asked.part = Part.DONE
        if not asked.warned:
            asked.warned = True
            self._warnings.append(f"node {self._name_of(node_id)} {why}")
            self._news.set()

    @property
    def follows(self) -> bool:
        """Whether lines may come that are not written yet."""
        return self._follows

    def leave(self) -> None:
        """Nothing more will be written. What is on its way still comes; nobody is blamed for having nothing to say."""
        if self._follows:
            self._follows, self._leaving = False, True
            self._limit = min(self._limit, _LAST_LINES)
            for asked in self._nodes.values():
                asked.at = self._time()
            self._news.set()

    # Lines.

    def begin(self, node_id: str, publisher: object) -> None:
        """A call of the node brings lines. What an older one still has to say is of no account from now on."""
        self._nodes[node_id].publisher = publisher

    async def put(
        self, node_id: str, publisher: object, messages: Iterable[LogMessage], *, caught_up: bool = False
    ) -> None:
        """Lines from a node, in order of time until it has `caught_up`. Waits while the subscriber does not read."""
        asked = self._nodes[node_id]
        while asked.size >= min(MAX_WAITING, _MAX_TOGETHER // len(self._nodes)) and not self._ended:
            self._room.clear()
            await self._room.wait()
        if self._ended or asked.publisher is not publisher:
            return
        asked.at = self._time()
        for message in messages:
            moment = message.timestamp.ToNanoseconds()
            asked.order = max(asked.order, moment)
            asked.waiting.append((asked.order, message))
            asked.size += message.ByteSize()
            if asked.newest is None or moment > asked.newest.ToNanoseconds():
                asked.newest = message.timestamp
        asked.caught_up = asked.caught_up or caught_up
        self._news.set()

    def done(self, node_id: str, publisher: object) -> None:
        """The node has sent all it will."""
        asked = self._nodes[node_id]
        if asked.publisher is publisher:
            asked.part = Part.DONE
            self._news.set()

    def broken(self, node_id: str, publisher: object) -> None:
        """The call that brought the node's lines broke."""
        asked = self._nodes[node_id]
        if asked.publisher is publisher and asked.part is Part.OPEN:
            self.warn(node_id, "broke off: lines may be missing")

    # The subscriber.

    def end(self, error: FlotaError | None = None) -> None:
        """The subscriber has gone, or leadership has: nobody waits any longer."""
        self._ended, self._error = True, error
        self._news.set()
        self._room.set()

    async def messages(self) -> AsyncIterator[SubscribeLogsMessage]:
        """The subscriber's stream. Raises what `end` was given."""
        while True:
            if self._error is not None:
                raise self._error
            if self._until is not None and self._follows and self._past(self._until):
                self.leave()
            self._merge()
            if self._ready or self._warnings:
                yield self._next()
            elif self._ended or self._is_over():
                return
            else:
                await self._wait()

    def _is_over(self) -> bool:
        return not self._follows and all(
            asked.part is Part.DONE and not asked.waiting for asked in self._nodes.values()
        )

    def _merge(self) -> None:
        """Make ready what is next in order of time, if it is known."""
        if self._ready:
            return
        waited_for = [asked for asked in self._nodes.values() if self._holds_up(asked)]
        if any(not asked.waiting for asked in waited_for):
            return
        horizon = min((asked.waiting[-1][0] for asked in waited_for), default=None)
        taken: list[tuple[int, LogMessage]] = []
        for asked in self._nodes.values():
            while asked.waiting and (horizon is None or asked.waiting[0][0] <= horizon):
                one = asked.waiting.popleft()
                asked.size -= one[1].ByteSize()
                taken.append(one)
        if taken:
            taken.sort(key=lambda one: one[0])
            self._ready.extend(message for _, message in taken)
            self._room.set()

    def _holds_up(self, asked: _Asked) -> bool:
        """Whether earlier lines than others have may still come from the node."""
        return asked.part is not Part.DONE and not asked.caught_up and not asked.warned and not self._leaving

    def _past(self, moment: int) -> bool:
        return time.time_ns() > moment

    def _next(self) -> SubscribeLogsMessage:
        message = SubscribeLogsMessage(warnings=self._warnings)
        self._warnings = []
        size = 0
        while self._ready and size < MAX_MESSAGE:
            line = self._ready.popleft()
            size += len(line.data)
            message.messages.append(line)
        LINES.inc(len(message.messages))
        return message

    async def _wait(self) -> None:
        """Until there is news; nodes that are silent for too long are warned of, or not waited for any longer."""
        self._news.clear()
        deadlines = [deadline for asked in self._nodes.values() if (deadline := self._deadline(asked)) is not None]
        if self._until is not None and self._follows:
            deadlines.append(self._time() + max(0.0, (self._until - time.time_ns()) / 1e9) + _MOMENT)
        try:
            async with asyncio.timeout_at(min(deadlines, default=None)):
                await self._news.wait()
        except TimeoutError:
            self._lose_patience()

    def _deadline(self, asked: _Asked) -> float | None:
        """Until when the subscriber waits for this node; None if it does not."""
        if asked.waiting or asked.warned or asked.part is Part.DONE:
            return None
        if self._follows and not asked.caught_up:
            return asked.at + min(_ORDER, self._limit)
        return asked.at + self._limit if not self._follows or asked.part is Part.UNASKED else None

    def _lose_patience(self) -> None:
        now = self._time()
        for node_id, asked in self._nodes.items():
            deadline = self._deadline(asked)
            if deadline is None or deadline > now:
                continue
            if self._leaving and asked.part is Part.OPEN:
                asked.part = Part.DONE
            elif self._follows and not asked.caught_up:
                # It may have much to read before it finds what is wanted: others go on without it.
                asked.caught_up = True
            else:
                self.warn(node_id, f"does not answer (for {self._limit:g} s): lines are missing")
