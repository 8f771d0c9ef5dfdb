"""One subscriber: the nodes that were asked for it, and the lines on their way.

Lines wait in a buffer of bounded size; a worker whose lines find it full waits in its call, and so does not read more.
A node's part is `open` until it says that it has sent everything, or is given up. Without follow, nodes that are silent
while the subscriber waits are given up with a warning; with follow a node that cannot be asked is only warned of, since
it may come back: then it goes on after the last line it sent.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.logbroker.metrics import LINES
from flota.manager.logbroker.selection import Selection
from flota.rpc.errors import FlotaError
from flota.v1.logs_pb2 import LogMessage, LogOptions, SubscribeLogsMessage, SubscribeLogsRequest, SubscriptionMessage

# Bytes that wait for a subscriber, and that go into one message to it (each about: a worker's message is never cut).
MAX_WAITING = 1 << 20
MAX_MESSAGE = 256 << 10
# Seconds in which those who followed get the last lines of what has ended.
_LAST_LINES = 1.0


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
        self._waiting: deque[LogMessage] = deque()
        self._size = 0
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
        asked.part, asked.warned, asked.publisher = Part.OPEN, False, None
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
            self._news.set()

    # Lines.

    def begin(self, node_id: str, publisher: object) -> None:
        """A call of the node brings lines. What an older one still has to say is of no account from now on."""
        self._nodes[node_id].publisher = publisher

    async def put(self, node_id: str, publisher: object, messages: Iterable[LogMessage]) -> None:
        """Lines from a node. Waits while the subscriber does not read."""
        while self._size >= MAX_WAITING and not self._ended:
            self._room.clear()
            await self._room.wait()
        asked = self._nodes[node_id]
        if self._ended or asked.publisher is not publisher:
            return
        for message in messages:
            self._waiting.append(message)
            self._size += message.ByteSize()
            if asked.newest is None or message.timestamp.ToNanoseconds() > asked.newest.ToNanoseconds():
                asked.newest = message.timestamp
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
            if self._waiting or self._warnings:
                yield self._next()
            elif self._ended or self._is_over():
                return
            else:
                await self._wait()

    def _is_over(self) -> bool:
        return not self._follows and all(asked.part is Part.DONE for asked in self._nodes.values())

    def _next(self) -> SubscribeLogsMessage:
        message = SubscribeLogsMessage(warnings=self._warnings)
        self._warnings = []
        size = 0
        while self._waiting and size < MAX_MESSAGE:
            line = self._waiting.popleft()
            size += line.ByteSize()
            message.messages.append(line)
        self._size -= size
        LINES.inc(len(message.messages))
        self._room.set()
        return message

    async def _wait(self) -> None:
        """Until there is news; nodes that are silent for too long are warned of."""
        self._news.clear()
        now = self._time()
        if self._follows:
            unasked = [a.at for a in self._nodes.values() if a.part is Part.UNASKED and not a.warned]
            delay = max(0.0, min(unasked) + self._limit - now) if unasked else None
        else:
            delay = self._limit
        try:
            async with asyncio.timeout(delay):
                await self._news.wait()
        except TimeoutError:
            for node_id, asked in self._nodes.items():
                if self._leaving and asked.part is Part.OPEN:
                    asked.part = Part.DONE
                late = asked.part is Part.UNASKED and asked.at + self._limit <= self._time()
                if late or (not self._follows and asked.part is not Part.DONE):
                    self.warn(node_id, f"does not answer (for {self._limit:g} s): lines are missing")
