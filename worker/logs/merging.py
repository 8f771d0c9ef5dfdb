"""Logs of many tasks as one stream in order of time, with no more than a part of each in memory.

Each reader holds the next part of its task's log. What is no later than the last line of every part is in order and can
go; then those that have nothing left read on. A task's own order is never changed: a line counts as no earlier than the
one before it, whatever a clock that was set back says.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flota.v1.logs_pb2 import LogContext, LogMessage, LogOptions
from flota.worker.logs.files import LogFile

_TO_THE_END = 1 << 63
# What a message takes beside its data, about.
_FRAME = 100


@dataclass(frozen=True)
class TaskLog:
    """A task of this node and where its log is, or will be once it has a container."""

    task_id: str
    service_id: str
    path: Path
    # Nothing more will be written.
    ended: bool


class News(asyncio.Event):
    """What the watch of files wakes: it is told to `reader`, and to `subscription`."""

    def __init__(self, reader: asyncio.Event, subscription: asyncio.Event) -> None:
        super().__init__()
        self._both = (reader, subscription)

    def set(self) -> None:
        """Something has changed."""
        for one in self._both:
            one.set()


class Reader:
    """One task's log, read for one subscriber. `news` is set when there may be more to read."""

    def __init__(self, log: TaskLog, options: LogOptions, *, with_tail: bool) -> None:
        tail = options.tail if with_tail and options.HasField("tail") else None
        self.news = asyncio.Event()
        self.news.set()
        self.ended = False
        # Nothing is left, and nothing will come.
        self.finished = False
        self.waiting: list[tuple[int, LogMessage]] = []
        self._file = LogFile(log.path, tail=tail, since=max(0, options.since.ToNanoseconds()), streams=options.streams)
        self._context = LogContext(service_id=log.service_id, task_id=log.task_id)
        self._until = options.until.ToNanoseconds() if options.HasField("until") else _TO_THE_END
        self._newest = 0

    def end(self) -> None:
        """Nothing more will be written."""
        if not self.ended:
            self.ended = True
            self.news.set()

    @property
    def needs_more(self) -> bool:
        """Whether it may have lines that nobody knows yet."""
        return not self.waiting and not self.finished and self.news.is_set()

    def read_part(self) -> None:
        """Read on. Blocks; raises OSError."""
        ended = self.ended
        self.news.clear()
        entries = self._file.read()
        if entries is None:
            self.finished = ended
            return
        self.news.set()
        for entry in entries:
            if entry.time > self._until:
                self.finished = True
                return
            self._newest = max(self._newest, entry.time)
            message = LogMessage(context=self._context, stream=entry.stream, data=entry.data)
            message.timestamp.FromNanoseconds(entry.time)
            self.waiting.append((self._newest, message))

    def close(self) -> None:
        """Read no more."""
        self.finished = True
        self._file.close()


def merged(readers: Iterable[Reader]) -> list[LogMessage]:
    """Take the lines that are next in order of time; none if no reader has any."""
    holding = [reader for reader in readers if reader.waiting]
    # A reader that has nothing more at the moment holds up nobody.
    going_on = [reader.waiting[-1][0] for reader in holding if not reader.finished]
    horizon = min(going_on, default=_TO_THE_END)
    if len(holding) == 1:
        taken, holding[0].waiting = holding[0].waiting, []
        return [message for _, message in taken]
    ready: list[tuple[int, LogMessage]] = []
    for reader in holding:
        count = _count_until(reader.waiting, horizon)
        ready += reader.waiting[:count]
        del reader.waiting[:count]
    ready.sort(key=lambda one: one[0])
    return [message for _, message in ready]


def _count_until(waiting: Sequence[tuple[int, LogMessage]], horizon: int) -> int:
    if waiting[-1][0] <= horizon:
        return len(waiting)
    low, high = 0, len(waiting)
    while low < high:
        middle = (low + high) // 2
        if waiting[middle][0] <= horizon:
            low = middle + 1
        else:
            high = middle
    return low


def parts(messages: Sequence[LogMessage], most: int) -> Iterator[list[LogMessage]]:
    """Messages in groups of about `most` bytes."""
    group: list[LogMessage] = []
    size = 0
    for message in messages:
        group.append(message)
        size += len(message.data) + _FRAME
        if size >= most:
            yield group
            group, size = [], 0
    if group:
        yield group
