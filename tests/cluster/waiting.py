"""Waiting on conditions of real clusters: poll with a limit, never sleep for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(check: Callable[[], T], what: str, limit: float = 60, step: float = 0.02) -> T:
    """What `check` gives, once that is true. Fails with `what` and the last value after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit:.0f} s: {what} (last seen: {value!r})")
        time.sleep(step)
