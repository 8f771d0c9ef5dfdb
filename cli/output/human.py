"""Times, ids and names as people read them: `3 minutes ago`, 12 characters of an id, web.2 before web.10."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

SHORT_ID = 12
_MINUTE, _HOUR = 60, 3600
# Up to so many hours: this unit, of so many hours.
_LONG = ((48, "hours", 1), (24 * 14, "days", 24), (24 * 60, "weeks", 168), (24 * 730, "months", 720))


def short_id(identifier: str, no_trunc: bool = False) -> str:
    """The first characters of an id, or all of it."""
    return identifier if no_trunc else identifier[:SHORT_ID]


def duration_in_words(seconds: float) -> str:
    """About how long, in Docker's words."""
    count = int(seconds)
    if count < 1:
        return "Less than a second"
    if count < _MINUTE:
        return "1 second" if count == 1 else f"{count} seconds"
    if count < 2 * _MINUTE:
        return "About a minute"
    if count < _HOUR:
        return f"{count // _MINUTE} minutes"
    hours = round(seconds / _HOUR)
    if hours <= 1:
        return "About an hour"
    for limit, unit, length in _LONG:
        if hours < limit:
            return f"{hours // length} {unit}"
    return f"{hours // 24 // 365} years"


def ago(seconds: float) -> str:
    """How long ago, in words."""
    return f"{duration_in_words(max(0.0, seconds))} ago"


def since(timestamp: Timestamp) -> str:
    """How long ago a protobuf timestamp was, in words."""
    return ago(time.time() - seconds_of(timestamp))


def seconds_of(timestamp: Timestamp) -> float:
    """A protobuf timestamp as seconds since 1970."""
    return timestamp.seconds + timestamp.nanos / 1e9


def ellipsis(text: str, length: int) -> str:
    """At most `length` characters; the last one says that some are missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def capital(text: str) -> str:
    """Running, Drain: Docker's words in tables begin with a capital letter."""
    return text[:1].upper() + text[1:]


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers within names by their value: web.2 before web.10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def short_image(image: str, no_trunc: bool = False) -> str:
    """An image without the digest, when it has a tag, too."""
    name, at, _ = image.partition("@")
    return name if at and ":" in name.rpartition("/")[2] and not no_trunc else image


def decimal_size(size: int) -> str:
    """A number of bytes in powers of 1000, as Docker shows the sizes of images: 4.26MB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels in a table's cell: a=1,b=2"""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
