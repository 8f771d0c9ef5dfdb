"""Times, durations and enums as Docker's API writes them."""

from __future__ import annotations

import datetime
import re
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

NANO = 1_000_000_000
# Go's zero time: what Docker says for "never".
NEVER = "0001-01-01T00:00:00Z"


def word(name: str, prefix: str, dash: str = "-") -> str:
    """An enum's name as Docker writes it: FAILURE_ACTION_PAUSE → pause."""
    return name.removeprefix(prefix).lower().replace("_", dash)


def iso_time(timestamp: Timestamp) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    moment = datetime.datetime.fromtimestamp(timestamp.seconds, datetime.UTC)
    fraction = f".{timestamp.nanos:09d}".rstrip("0").rstrip(".") if timestamp.nanos else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def time_of(message: Any, field: str) -> str:
    """A message's time, or Go's zero time when it has none."""
    return iso_time(getattr(message, field)) if message.HasField(field) else NEVER


def nanoseconds_of(duration: Duration) -> int:
    """Nanoseconds of a protobuf duration."""
    return duration.seconds * NANO + duration.nanos


def duration_message(nanoseconds: int) -> Duration:
    """The protobuf message of a duration."""
    return Duration(seconds=nanoseconds // NANO, nanos=nanoseconds % NANO)


_UNIX = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> Timestamp:
    """A time in a query: Unix seconds with a fraction, or RFC 3339. Raises ValueError."""
    if match := _UNIX.fullmatch(text):
        return Timestamp(seconds=int(match[1]), nanos=int((match[2] or "0").ljust(9, "0")))
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(text)
    moment = datetime.datetime.fromisoformat(match[1].upper() + match[3].upper())
    return Timestamp(seconds=int(moment.timestamp()), nanos=int((match[2] or "0").ljust(9, "0")))
