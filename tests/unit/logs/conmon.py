"""Writes log files as conmon does."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flota.v1.logs_pb2 import LogStream
from flota.worker.logs.entries import LogEntry

OUT, ERR = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
BEGIN = int(_BEGIN.timestamp()) * 1_000_000_000


class Conmon:
    """One container's log. Each line is a millisecond after the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, *texts: str, stream: str = "stdout", mark: str = "F") -> None:
        for text in texts:
            moment = _BEGIN + timedelta(milliseconds=self.lines)
            stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000+00:00"
            self._file.write(f"{stamp} {stream} {mark} {text}\n".encode())
            self.lines += 1

    def raw(self, data: bytes) -> None:
        self._file.write(data)

    def rotate(self) -> None:
        """A new file takes the place of the old one."""
        new = self.path.with_suffix(".tmp")
        file = new.open("wb", buffering=0)
        os.rename(new, self.path)
        self._file.close()
        self._file = file

    def close(self) -> None:
        self._file.close()


def line(number: int, text: str, stream: "LogStream.ValueType" = OUT) -> LogEntry:
    """The entry of the line that was written as `number`."""
    return LogEntry(BEGIN + number * 1_000_000, stream, f"{text}\n".encode())
