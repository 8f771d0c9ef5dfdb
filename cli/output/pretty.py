"""Things for people: `Field:   value` in lines, one below the other, parts indented by a space (`inspect --pretty`).

Words and order are Docker's, so that scripts which grep for `State:` find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_WIDTH = 24


class Lines:
    """Collects lines; values begin in column `width` (0: right behind their names)."""

    def __init__(self, width: int = _WIDTH) -> None:
        self._lines: list[str] = []
        self._width = width

    def field(self, name: str, value: Any, depth: int = 0) -> None:
        """`name: value`, the values below each other."""
        self._lines.append(f"{' ' * depth}{f'{name}: ':<{max(0, self._width - depth)}}{value}".rstrip())

    def some(self, name: str, value: Any, depth: int = 0) -> None:
        """A field, unless its value is empty."""
        if value not in (None, "", 0, [], (), {}):
            self.field(name, value, depth)

    def title(self, name: str, depth: int = 0) -> None:
        """What the lines below are about."""
        self._lines.append(f"{' ' * depth}{name}:")

    def text(self, text: str) -> None:
        """A text as it is."""
        self._lines.append(text.rstrip("\n"))

    def mapping(self, name: str, values: Mapping[str, str], depth: int = 0, mark: str = "") -> None:
        """A title and KEY=VALUE lines, when there are any."""
        if values:
            self.title(name, depth)
            for key, value in sorted(values.items()):
                self._lines.append(f"{' ' * (depth + 1)}{mark}{key}{f'={value}' if value else ''}")

    def listed(self, name: str, values: Iterable[str], depth: int = 0) -> None:
        """A title and one line per value, when there are any."""
        found = list(values)
        if found:
            self.title(name, depth)
            self._lines += [f"{' ' * (depth + 1)}{value}" for value in found]

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)
