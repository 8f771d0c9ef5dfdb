"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# fine; worth knowing; it will not work, or not for long.
Verdict = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    area: str
    verdict: Verdict
    what: str
    # What to do, when something is wrong.
    advice: str = ""


def ok(area: str, what: str) -> Finding:
    """All is well."""
    return Finding(area, "ok", what)


def warning(area: str, what: str, advice: str) -> Finding:
    """It works, but."""
    return Finding(area, "warning", what, advice)


def failure(area: str, what: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(area, "failure", what, advice)
