"""One log, read part by part: from where on somebody wants it, through the files that were full before (chain), and on
into the file that takes the place of the last one.

What was not read of a file that is replaced or removed is read to its end, as long as it is open here; files that came
and went in between are lost, as they are for everybody.

Everything here blocks: it is called in threads.
"""

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

from flota.v1.logs_pb2 import LogStream
from flota.worker.logs import chain
from flota.worker.logs.entries import LogEntry, Parser

# What is read at once: bounds what waits in memory for somebody who does not read.
CHUNK = 64 << 10
# Of a line that has no end: conmon's own are of 8 KiB.
_LONGEST = 1 << 20
# A time and the space after it.
_STAMP = 64


class LogFile:
    """The log of one container. Close it."""

    def __init__(
        self,
        path: Path,
        *,
        tail: int | None = None,
        since: int = 0,
        streams: Collection["LogStream.ValueType"] = (),
    ) -> None:
        """`tail` lines from the end, None = all; not before `since` (nanoseconds); of these streams, none = all."""
        self.path = path
        self._tail = tail
        self._since = since
        self._streams = frozenset(streams)
        self._parser = Parser()
        self._file: BinaryIO | None = None
        # Of the open file, or the last one before it.
        self._number = 0
        self._inode = 0
        self._rest = b""

    def read(self) -> list[LogEntry] | None:
        """The next entries; empty if they are all of no interest, None if there are no more now. Raises OSError."""
        if self._file is None:
            self._open()
        while self._file is not None:
            chunk = self._file.read(CHUNK)
            if chunk:
                return self._entries(chunk)
            if self._was_cut(self._file):
                self._file.seek(0)
                self._rest = b""
                continue
            if not self._was_replaced(self._file):
                break
            # Between our last look and the change more may have been written.
            chunk = self._file.read(CHUNK)
            if chunk:
                return self._entries(chunk)
            if not self._go_on():
                break
        return None

    def close(self) -> None:
        """Read no more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._rest = b""

    def _open(self) -> None:
        """The files there are now, if any. They are not read from their beginning if less is wanted."""
        there = self._later()
        begin = (0, 0)
        if self._since:
            begin = self._place_since([path for _, path in there])
        if self._tail is not None:
            begin = max(begin, self._place_of_tail([path for _, path in there], self._tail))
        # A file that comes later is wanted whole.
        self._tail = None
        index, position = begin
        for number, path in there[index:]:
            if self._take(number, path, position):
                return
            # Removed just now.
            position = 0

    def _go_on(self) -> bool:
        """The file after the one that is open, if it is there."""
        # As long as it is open, no other file can have its inode.
        with contextlib.ExitStack() as stack:
            if self._file is not None:
                stack.enter_context(self._file)
            for number, path in self._later():
                if self._take(number, path):
                    self._rest = b""
                    return True
            stack.pop_all()
        return False

    def _later(self) -> list[tuple[int, Path]]:
        """Those after the last one that was open."""
        try:
            there = chain.in_order(self.path)
        except FileNotFoundError:
            return []
        return [(number, path) for number, path in there if not number or number > self._number]

    def _take(self, number: int, path: Path, position: int = 0) -> bool:
        """Have it open; False if it is there no more, or was what was open last."""
        try:
            file = chain.opened(path)
        except FileNotFoundError:
            return False
        inode = os.fstat(file.fileno()).st_ino
        if inode == self._inode:
            # It got its number since.
            file.close()
            self._number = max(self._number, number)
            return False
        file.seek(position)
        self._file, self._inode = file, inode
        # One without a number comes after all that have one.
        self._number = number or max((one for one, _ in chain.full(self.path)), default=self._number)
        return True

    def _was_replaced(self, file: BinaryIO) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        ours = os.fstat(file.fileno())
        return (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev)

    def _was_cut(self, file: BinaryIO) -> bool:
        return os.fstat(file.fileno()).st_size < file.tell()

    def _entries(self, chunk: bytes) -> list[LogEntry]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST:
            self._rest = b""
        found = (self._parser.entry(line) for line in lines)
        return [one for one in found if one is not None and one.time >= self._since and self._wants(one.stream)]

    def _wants(self, stream: "LogStream.ValueType") -> bool:
        return not self._streams or stream in self._streams

    # Where to begin: in which file, and where in it.

    def _place_since(self, paths: Sequence[Path]) -> tuple[int, int]:
        """The line that is the first one not before `since`, or somewhat before it."""
        for index in range(len(paths) - 1, -1, -1):
            try:
                first = self._parser.time(chain.beginning(paths[index], _STAMP).partition(b" ")[0])
                if index == 0 or (first is not None and first < self._since):
                    with chain.opened(paths[index]) as file:
                        return index, self._position_since(file)
            except FileNotFoundError:
                # It was removed just now, and those before it too.
                return index, 0
        return 0, 0

    def _place_of_tail(self, paths: Sequence[Path], count: int) -> tuple[int, int]:
        """The beginning of the last `count` lines."""
        for index in range(len(paths) - 1, -1, -1):
            try:
                with chain.opened(paths[index]) as file:
                    position, seen = self._position_of_tail(file, count)
            except FileNotFoundError:
                return index, 0
            if seen > count or count == 0:
                return index, position
            count -= seen
            if count == 0:
                # Unfinished lines before it would be in the file before.
                return index, position
        return 0, 0

    def _position_since(self, file: BinaryIO) -> int:
        """The beginning of the line that is the first one not before `since`, or somewhat before it.

        Times go up with the file, so it is halved until little is left.
        """
        low, high = 0, os.fstat(file.fileno()).st_size
        while high - low > CHUNK:
            middle = (low + high) // 2
            found = self._line_after(file, middle)
            if found is None or found[1] >= self._since:
                high = middle
            else:
                low = found[0]
        return low

    def _line_after(self, file: BinaryIO, position: int) -> tuple[int, int] | None:
        """Beginning and time of the first whole line that begins after `position`, within a chunk."""
        data = os.pread(file.fileno(), CHUNK, position)
        at = data.find(b"\n") + 1
        while at > 0:
            time = self._parser.time(data[at:].partition(b" ")[0])
            if time is not None:
                return position + at, time
            at = data.find(b"\n", at) + 1
        return None

    def _position_of_tail(self, file: BinaryIO, count: int) -> tuple[int, int]:
        """The beginning of the last `count` lines of the wanted streams, and how many there are if not so many.

        Unfinished lines come with those before; one more than `count` was seen when there are more.
        """
        end = os.fstat(file.fileno()).st_size
        if count == 0:
            return end, 0
        rest = b""
        seen = 0
        while end > 0:
            begin = max(0, end - CHUNK)
            block = os.pread(file.fileno(), end - begin, begin) + rest
            lines = block.split(b"\n")
            # The first may have begun before.
            rest = lines[0] if begin else b""
            place = begin + len(block)
            for number in range(len(lines) - 1, 0 if begin else -1, -1):
                place -= len(lines[number])
                entry = self._parser.entry(lines[number])
                if entry is not None and entry.ends and self._wants(entry.stream):
                    seen += 1
                    if seen > count:
                        return place + len(lines[number]) + 1, seen
                place -= 1
            end = begin
            if len(rest) > _LONGEST:
                rest = b""
        return 0, seen
