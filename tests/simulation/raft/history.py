"""What clients saw, and whether one register per key could have behaved so (linearizability).

The search is Wing and Gong's with Lowe's memory of (operations done, value): an operation may come next if it was
called before the earliest answer among those that are left. One without an answer may have happened at any time after
its call, or never. ("Testing and verifying concurrent objects", 1993; "Testing for linearizability", 2017.)
"""

from collections.abc import Iterable
from dataclasses import dataclass

INFINITY = float("inf")


@dataclass
class Operation:
    """One call of a client. `returned` stays infinite when it never learned how it ended."""

    kind: str
    key: str
    called: float
    value: int = 0
    expected: int = 0
    returned: float = INFINITY
    # What a read gave, or whether a compare-and-swap did swap.
    result: int | bool | None = None
    # It certainly did not happen.
    failed: bool = False

    def __str__(self) -> str:
        """One line for whoever looks for what is wrong."""
        what = {"write": f"write {self.value}", "cas": f"swap {self.expected} for {self.value}"}.get(self.kind, "read")
        if self.returned == INFINITY:
            return f"{self.called:8.3f} …   ?     {what}"
        gave = "" if self.kind == "write" else f" → {self.result}"
        return f"{self.called:8.3f} … {self.returned:8.3f}  {what}{gave}"

    def after(self, register: int) -> tuple[bool, int]:
        """Whether it may happen when the register holds this, and what it holds then."""
        known = self.returned < INFINITY
        if self.kind == "write":
            return True, self.value
        if self.kind == "read":
            return not known or self.result == register, register
        swaps = register == self.expected
        if known and self.result != swaps:
            return False, register
        return True, self.value if swaps else register


def is_linearizable(operations: Iterable[Operation], initial: int = 0) -> bool:
    """Whether some order of one key's operations explains all that was seen."""
    todo = [one for one in operations if not one.failed and not (one.kind == "read" and one.returned == INFINITY)]
    todo.sort(key=lambda one: one.called)
    certain = sum(1 << number for number, one in enumerate(todo) if one.returned < INFINITY)
    stack = [(0, initial)]
    seen: set[tuple[int, int]] = set(stack)
    while stack:
        done, register = stack.pop()
        if done & certain == certain:
            return True
        deadline = min(one.returned for number, one in enumerate(todo) if not done >> number & 1)
        for number, one in enumerate(todo):
            if one.called > deadline:
                break
            if done >> number & 1:
                continue
            fits, now = one.after(register)
            state = (done | 1 << number, now)
            if fits and state not in seen:
                seen.add(state)
                stack.append(state)
    return False


def check(history: Iterable[Operation]) -> None:
    """Raises AssertionError with the operations of a key that no order explains."""
    by_key: dict[str, list[Operation]] = {}
    for one in history:
        by_key.setdefault(one.key, []).append(one)
    for key, operations in by_key.items():
        if not is_linearizable(operations):
            told = [one for one in operations if not one.failed]
            lines = "\n".join(f"  {one}" for one in sorted(told, key=lambda one: one.called))
            raise AssertionError(f"no order explains what clients saw of {key}:\n{lines}")
