"""Reading a JSON object whose fields have Go's manners: null is as good as absent, case does not matter, what nobody
asks for is ignored. Whatever has the wrong type is refused with its path, its value and what is needed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from flota.gateway.translation.words import duration_message, word
from flota.rpc.errors import InvalidArgument

E = TypeVar("E")
_INT64 = range(-(1 << 63), 1 << 63)
UINT64 = range(1 << 64)
UINT32 = range(1 << 32)
INT32 = range(-(1 << 31), 1 << 31)
PORTS = range(1 << 16)


class Fields:
    """One JSON object. Every reader raises InvalidArgument."""

    def __init__(self, value: Any, path: str = "") -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise InvalidArgument.of(path or "request", _short(value), "a JSON object is needed")
        self.path = path
        self._values: dict[str, Any] = value
        self._folded: dict[str, Any] | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in self._values.values())

    def names(self) -> list[str]:
        """The fields there are."""
        return list(self._values)

    def at(self, name: str) -> str:
        """The path of a field."""
        return _below(self.path, name)

    def raw(self, name: str) -> Any:
        """The value as it came; None when it is absent."""
        if name in self._values:
            return self._values[name]
        if self._folded is None:
            self._folded = {key.lower(): value for key, value in self._values.items()}
        return self._folded.get(name.lower())

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw(name) is not None

    def _typed(self, name: str, kind: type[E], needed: str, default: E) -> E:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise InvalidArgument.of(self.at(name), _short(value), f"{needed} is needed")
        return value

    def text(self, name: str) -> str:
        """A string; empty when absent."""
        return self._typed(name, str, "a string", "")

    def flag(self, name: str) -> bool:
        """A boolean; false when absent."""
        return self._typed(name, bool, "true or false", False)

    def number(self, name: str, allowed: range = _INT64) -> int:
        """A whole number; 0 when absent."""
        value: Any = self.raw(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidArgument.of(self.at(name), _short(value), "a whole number is needed")
        if value not in allowed:
            raise InvalidArgument.of(self.at(name), value, f"{allowed.start} to {allowed.stop - 1} is allowed")
        return value

    def ratio(self, name: str) -> float:
        """A number; 0 when absent."""
        value: Any = self.raw(name)
        if value is None:
            return 0.0
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidArgument.of(self.at(name), _short(value), "a number is needed")
        return float(value)

    def duration(self, name: str) -> Duration | None:
        """Nanoseconds as a message; None when absent."""
        return duration_message(self.number(name)) if self.has(name) else None

    def items(self, name: str) -> list[Any]:
        """A list; empty when absent."""
        value: list[Any] = self._typed(name, list, "a list", [])
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when absent."""
        values = self.items(name)
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise InvalidArgument.of(f"{self.at(name)}[{position}]", _short(value), "a string is needed")
        return values

    def labels(self, name: str) -> dict[str, str]:
        """An object of strings; empty when absent."""
        values = self._typed(name, dict, "an object of strings", {})
        for key, value in values.items():
            if not isinstance(value, str):
                raise InvalidArgument.of(_below(self.at(name), key), _short(value), "a string is needed")
        return values

    def part(self, name: str) -> Fields:
        """An object within; empty when absent."""
        return Fields(self.raw(name), self.at(name))

    def parts(self, name: str) -> list[Fields]:
        """A list of objects; empty when absent."""
        return [Fields(value, f"{self.at(name)}[{index}]") for index, value in enumerate(self.items(name))]

    def choice(self, name: str, enum: Any, prefix: str) -> Any:
        """The number of an enum's value by Docker's word for it; 0 when absent or empty."""
        text = self.text(name)
        if not text:
            return 0
        words: dict[str, int] = {word(key, prefix): number for key, number in enum.items()}
        number = words.get(text.lower())
        if number is None:
            raise InvalidArgument.of(self.at(name), text, f"one of {', '.join(words)} is needed")
        return number


def _below(path: str, name: str) -> str:
    shown = name if name.isprintable() else repr(name)
    return f"{path}.{shown}" if path else shown


def _short(value: Any) -> Any:
    text = repr(value)
    return value if len(text) <= 60 else f"{text[:57]}..."
