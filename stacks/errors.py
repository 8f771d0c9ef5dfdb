"""What is wrong with something a person wrote.

A parser of one value knows the value and what is allowed (BadValue); whoever called it knows where it stood: a flag's
name, or a key in a line of a Compose file.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BadValue(ValueError):
    """A value that cannot be read; `allowed` says what could stand there."""

    def __init__(self, value: object, allowed: str) -> None:
        super().__init__(f"{value!r}: {allowed}")
        self.value = value
        self.allowed = allowed

    def of(self, field: str) -> str:
        """The whole sentence: field, value, what is allowed."""
        return f"invalid {field} {self.value!r}: {self.allowed}"


def one_line(text: str) -> str:
    """`text` with what would break the line, or cannot be seen, written as escapes."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class ComposeError(Exception):
    """A Compose file that cannot be used: where, what, and how to mend it."""

    def __init__(self, message: str, file: str = "", line: int = 0, key: str = "") -> None:
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(one_line(place + (f"{key}: " if key else "") + message))
        self.file = file
        self.line = line
        self.key = key
        self.message = message


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
