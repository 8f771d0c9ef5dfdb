"""Wall time as a parameter.

Waiting is asyncio's business (a virtual event loop can run weeks in a second); only reading the wall clock needs a
value of its own, so that timestamps in a simulation follow virtual time.
"""

import time
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp


class Clock(Protocol):
    """Where a component reads the time of day."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()


def timestamp(seconds: float) -> Timestamp:
    """A protobuf Timestamp for `seconds` since the Unix epoch."""
    whole = int(seconds // 1)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1_000_000_000))


def seconds(stamp: Timestamp) -> float:
    """Seconds since the Unix epoch of a Timestamp."""
    return stamp.seconds + stamp.nanos / 1_000_000_000
