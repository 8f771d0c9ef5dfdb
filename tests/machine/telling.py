"""How stories are told: lines for people, and what is not so counted."""

import time
import traceback
from collections.abc import Callable

_not_so: list[str] = []


def say(*words: object) -> None:
    """A line of the story, or more."""
    for line in " ".join(map(str, words)).splitlines():
        print("STORY", line, flush=True)


def must(what: str, holds: bool, seen: object = "") -> None:
    """What is to be so."""
    say("✓" if holds else "✗ not so:", what, seen)
    if not holds:
        _not_so.append(what)


def tried(what: str, act: Callable[[], object]) -> None:
    """A part of the story; when it breaks off, the others are told all the same."""
    say("##", what)
    start = time.monotonic()
    try:
        act()
    except (Exception, SystemExit):  # noqa: BLE001 - it is told
        must(f"{what}: told to its end", False, traceback.format_exc())
    say(f"   ({time.monotonic() - start:.0f} s)")


def end() -> int:
    """The exit status."""
    say("end:", f"not so: {'; '.join(_not_so)}" if _not_so else "everything is as it should be")
    return 1 if _not_so else 0
