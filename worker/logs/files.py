"""One log file, read part by part: from where on somebody wants it, and on into the file that takes its place.

conmon puts a new file in the place of a full one. What was not read of the old one is read to its end, as long as it
is open here; files that came and went in between are lost, as they are for everybody.

Everything here blocks: it is called in threads.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from flota.v1.logs_pb2 import LogStream
from flota.worker.logs.entries import LogEntry, Parser

# What is read at once: bounds what waits in memory for somebody who does not read.
CHUNK = 64 << 10
# Of a line that has no end: conmon's own are of 8 KiB.
_LONGEST = 1 << 20


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
        self._rest = b""

    def read(self) -> list[LogEntry] | None:
        """The next entries; empty if they are all of no interest, None if there are no more now. Raises OSError."""
        if self._file is None:
            self._open()
        while self._file is not None:
            chunk = self._file.read(CHUNK)
            if chunk:
                return self._entries(chunk)
            if not self._was_replaced(self._file) and not self._was_cut(self._file):
                break
            # Between our last look and the change more may have been written.
            chunk = self._file.read(CHUNK)
            if chunk:
                return self._entries(chunk)
            self.close()
            self._open()
        return None

    def close(self) -> None:
        """Read no more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._rest = b""

    def _open(self) -> None:
        """The file there is now, if any. The first one is not read from its beginning if less is wanted."""
        try:
            self._file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            # A file that comes later is wanted whole.
            self._tail = None
            return
        begin = 0
        if self._since:
            begin = self._position_since(self._file)
        if self._tail is not None:
            begin = max(begin, self._position_of_tail(self._file, self._tail))
            self._tail = None
        self._file.seek(begin)

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

    # Where to begin.

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

    def _position_of_tail(self, file: BinaryIO, count: int) -> int:
        """The beginning of the last `count` lines of the wanted streams; unfinished lines come with those before."""
        end = os.fstat(file.fileno()).st_size
        if count == 0:
            return end
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
                        return place + len(lines[number]) + 1
                place -= 1
            end = begin
            if len(rest) > _LONGEST:
                rest = b""
        return 0
