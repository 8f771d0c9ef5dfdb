"""Things that a service about to be stored refers to, so that nobody removes them while it is on its way.

A removal looks for users in the store. A service whose transaction is proposed but not yet applied is not there, so it
claims what it refers to until it is. The other way round needs no claim: a service requires the version of what it
refers to, and a removal that is applied first makes it fail. Only the leader writes, so memory is enough.
"""

from collections import Counter
from types import TracebackType


class Claims:
    """All claims of writes in flight."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def open(self) -> "Claim":
        """A claim that holds nothing yet; a context manager, whose end gives everything back."""
        return Claim(self._held)

    def is_held(self, id: str) -> bool:
        """Whether something on its way refers to this object."""
        return self._held[id] > 0


class Claim:
    """What one write in flight refers to."""

    def __init__(self, held: Counter[str]) -> None:
        self._held = held
        self._mine: set[str] = set()

    def add(self, id: str) -> None:
        """Claim an object; twice is once."""
        if id not in self._mine:
            self._mine.add(id)
            self._held[id] += 1

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for id in self._mine:
            self._held[id] -= 1
            if not self._held[id]:
                del self._held[id]
        self._mine.clear()
