"""Durations ("1m30s"), sizes ("64m"), CPUs ("1.5") as people write them, read and written.

Durations are Go's, sizes are Docker's (multiples of 1024, whatever the letter's case). Every reader raises BadValue.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from google.protobuf.duration_pb2 import Duration

from flota.stacks.errors import BadValue

NANO = 1_000_000_000
_DURATION_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": NANO, "m": 60 * NANO, "h": 3600 * NANO}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d|w)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])i?)?b?", re.ASCII | re.IGNORECASE)
_LARGEST = 2**63 - 1

DURATION_FORM = "a duration such as 10s, 1m30s or 500ms is needed"
SIZE_FORM = "a size such as 512k, 64m or 1g is needed"
CPUS_FORM = "a number of CPUs such as 0.5 or 2 is needed, with at most 9 decimals"


def parse_duration(text: str, days: bool = False) -> int:
    """Nanoseconds of a duration. With `days`, d and w are units too (Compose knows them, Docker's flags do not)."""
    if text.strip() == "0":
        return 0
    units = _DURATION_UNITS | ({"d": 24 * 3600 * NANO, "w": 7 * 24 * 3600 * NANO} if days else {})
    total, end = Decimal(0), 0
    body = text.strip()
    negative = body.startswith("-")
    body = body.lstrip("-") if negative else body
    while end < len(body):
        part = _DURATION_PART.match(body, end)
        if part is None or part[2] not in units:
            raise BadValue(text, DURATION_FORM)
        total += Decimal(part[1]) * units[part[2]]
        end = part.end()
    if not body or total > _LARGEST:
        raise BadValue(text, DURATION_FORM)
    if negative and total:
        raise BadValue(text, "a duration cannot be negative")
    return int(total)


def format_duration(nanoseconds: int) -> str:
    """Write a duration the way Go does: 1m30s, 500ms, 0s."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < NANO:
        for unit in ("ms", "µs", "ns"):
            if nanoseconds >= _DURATION_UNITS[unit]:
                return f"{_plain(Decimal(nanoseconds) / _DURATION_UNITS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * NANO)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_plain(Decimal(rest) / NANO)}s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + seconds


def duration_message(nanoseconds: int) -> Duration:
    """The protobuf message of a duration."""
    return Duration(seconds=nanoseconds // NANO, nanos=nanoseconds % NANO)


def nanoseconds_of(duration: Duration) -> int:
    """Nanoseconds of a protobuf duration."""
    return duration.seconds * NANO + duration.nanos


def parse_size(text: str) -> int:
    """Bytes of a size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadValue(text, SIZE_FORM)
    factor = 1024 ** ("kmgtp".index(match[2].lower()) + 1) if match[2] else 1
    size = int(Decimal(match[1]) * factor)
    if size > _LARGEST:
        raise BadValue(text, "that is more than any machine has")
    return size


def format_size(size: int) -> str:
    """Write a number of bytes shortly, as Docker's tables do: 64MiB."""
    value = Decimal(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{_plain(Decimal(f'{value:.4g}'))}{unit}"
        value /= 1024
    raise AssertionError


def parse_cpus(text: str) -> int:
    """Billionths of a CPU."""
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise BadValue(text, CPUS_FORM) from None
    if not value.is_finite() or value < 0 or value > 1_000_000:
        raise BadValue(text, CPUS_FORM)
    nano = value * NANO
    if nano != int(nano):
        raise BadValue(text, CPUS_FORM)
    return int(nano)


def format_cpus(nano_cpus: int) -> str:
    """Write billionths of a CPU as a number of CPUs: 1.5"""
    return _plain(Decimal(nano_cpus) / NANO)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
