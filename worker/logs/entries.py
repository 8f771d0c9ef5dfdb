"""One line of a log file in the format of conmon's k8s-file driver (that of Kubernetes' container runtimes):

    2026-01-31T13:45:00.123456789+01:00 stdout F a whole line, or the end of a long one
    2026-01-31T13:45:00.123456789+01:00 stderr P a part of a line that goes on

Pure.
"""

from datetime import datetime
from typing import NamedTuple

from flota.v1.logs_pb2 import LogStream

_STREAMS = {b"stdout": LogStream.LOG_STREAM_STDOUT, b"stderr": LogStream.LOG_STREAM_STDERR}
_SECOND = 1_000_000_000
# Where the fraction of a second and the zone begin.
_FRACTION = 19
_ZONE = 29


class LogEntry(NamedTuple):
    """A line, or a part of one; `data` has the newline of a line that ends."""

    # Nanoseconds since 1970.
    time: int
    stream: LogStream.ValueType
    data: bytes

    @property
    def ends(self) -> bool:
        """Whether the line ends here."""
        return self.data.endswith(b"\n")


class Parser:
    """Reads lines. The time of lines of one second is looked up once."""

    def __init__(self) -> None:
        self._second = b""
        self._at = 0

    def entry(self, line: bytes) -> LogEntry | None:
        """A line without its newline; None if it is none of conmon's, such as one that a crash left incomplete."""
        stamp, _, rest = line.partition(b" ")
        name, _, rest = rest.partition(b" ")
        mark, space, data = rest.partition(b" ")
        stream = _STREAMS.get(name)
        time = self.time(stamp)
        if stream is None or time is None or not space or mark not in (b"F", b"P"):
            return None
        return LogEntry(time, stream, data + b"\n" if mark == b"F" else data)

    def time(self, stamp: bytes) -> int | None:
        """Nanoseconds since 1970; None if it is no time."""
        second = stamp[:_FRACTION] + stamp[_ZONE:]
        if second != self._second:
            try:
                moment = datetime.fromisoformat(second.decode())
            except ValueError:
                return None
            if moment.tzinfo is None:
                return None
            self._second, self._at = second, int(moment.timestamp()) * _SECOND
        fraction = stamp[_FRACTION + 1 : _ZONE]
        return self._at + int(fraction) if len(fraction) == 9 and fraction.isdigit() else None
