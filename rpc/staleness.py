"""Answers that may be old: without a quorum a manager tells what it knows, and says that it does.

A caller may also ask for that (CONSISTENCY_KEY): the manager that is asked then answers at once, for itself.

The gate gives every call an Answer; whatever finds out that it cannot be fresh marks it, and the caller finds the
reason in the trailing metadata. Other managers and the daemon hand it on.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

STALE_KEY = "flota-stale"
# In a call's metadata, with the value STALE: what the manager that is asked knows will do.
CONSISTENCY_KEY = "flota-consistency"
STALE = "stale"
AS_ASKED = "that was asked for"
# gRPC allows 8 KiB for all metadata of a call.
_LONGEST = 2000


@dataclass
class Answer:
    """What is known of the answer that is being made."""

    stale: str = ""


_current: ContextVar[Answer | None] = ContextVar("answer", default=None)


def begin_answer(stale: str = "") -> Answer:
    """A new answer of the current call; with `stale` it is old from the start."""
    answer = Answer(stale)
    _current.set(answer)
    return answer


def why_stale() -> str:
    """Why the answer being made may be old; empty when it is not."""
    answer = _current.get()
    return answer.stale if answer is not None else ""


def mark_stale(reason: str) -> bool:
    """The answer being made may be old; False when nobody could tell the caller."""
    answer = _current.get()
    if answer is None:
        return False
    answer.stale = reason
    return True


def stale_metadata(reason: str) -> tuple[tuple[str, str], ...]:
    """The reason as it goes over the wire."""
    text = " ".join(reason.split()).encode("ascii", "replace").decode()[:_LONGEST]
    return ((STALE_KEY, text),) if text else ()


def stale_reason(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """What `stale_metadata` wrote; empty when the answer is fresh."""
    for key, value in metadata or ():
        if key == STALE_KEY:
            return value if isinstance(value, str) else bytes(value).decode()
    return ""
