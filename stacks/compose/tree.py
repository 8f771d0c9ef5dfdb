"""The tree a Compose file is read into: plain dicts, lists and scalars that remember where they stood.

`Map` and `Items` are a dict and a list, so everything that takes those takes them; beside their values they keep the
file and line of each. Numbers keep how they were written, because `VERSION: 1.10` is a text for an environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from flota.stacks.errors import BadValue, ComposeError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; line 0 is the file as a whole."""

    file: str
    line: int = 0


class Map(dict[str, Any]):
    """A mapping whose keys know their places."""

    __slots__ = ("overrides", "place", "places", "resets")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, Place] = {}
        # Keys marked !reset (no value here, and the one below goes) and !override (replaces, never merges).
        self.resets: set[str] = set()
        self.overrides: set[str] = set()

    def put(self, key: str, value: Any, place: Place | None = None) -> None:
        """Set a key; without `place` it stays where the key was, or stands where the mapping stands."""
        self[key] = value
        self.places[key] = place or self.places.get(key, self.place)

    def drop(self, key: str) -> Any:
        """Take a key out; gives its value, None when it was not there."""
        self.places.pop(key, None)
        return self.pop(key, None)

    def place_of(self, key: str) -> Place:
        """Where a key stands."""
        return self.places.get(key, self.place)


class Items(list[Any]):
    """A sequence whose items know their places."""

    __slots__ = ("place", "places")

    def __init__(self, place: Place, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.place = place
        self.places: list[Place] = [place] * len(self)

    def put(self, value: Any, place: Place | None = None) -> None:
        """Append."""
        self.append(value)
        self.places.append(place or self.place)

    def place_of(self, index: int) -> Place:
        """Where an item stands."""
        return self.places[index] if index < len(self.places) else self.place


class WrittenInt(int):
    """A whole number, and how it was written: 0440, 0x1F, 1_000."""

    written: str

    def __new__(cls, value: int, written: str) -> WrittenInt:
        number = super().__new__(cls, value)
        number.written = written
        return number


class WrittenFloat(float):
    """A fraction, and how it was written: 1.10, 1e3."""

    written: str

    def __new__(cls, value: float, written: str) -> WrittenFloat:
        number = super().__new__(cls, value)
        number.written = written
        return number


def text_of(scalar: Any) -> str:
    """A scalar as a text, as it was written."""
    if isinstance(scalar, str):
        return scalar
    if isinstance(scalar, bool):
        return "true" if scalar else "false"
    if isinstance(scalar, WrittenInt | WrittenFloat):
        return scalar.written
    return "" if scalar is None else str(scalar)


def key_path(path: Iterable[str | int]) -> str:
    """services.web.ports[0]"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def place_at(tree: Any, path: Iterable[str | int]) -> Place:
    """Where the value at `path` stands; as much of the path as there is counts."""
    place: Place = tree.place
    for part in path:
        match tree, part:
            case Map(), str(key) if key in tree:
                place, tree = tree.place_of(key), tree[key]
            case Items(), int(index) if index < len(tree):
                place, tree = tree.place_of(index), tree[index]
            case _:
                break
    return place


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value stands, for people: the file and line, and the keys that lead to it."""

    place: Place
    path: tuple[str | int, ...]

    def of(self, tree: Map | Items, key: str | int) -> Spot:
        """The spot of a key or an item of `tree`, which stands here."""
        place = tree.place_of(key)  # type: ignore[arg-type]
        return Spot(place, (*self.path, key))

    def error(self, message: str) -> ComposeError:
        """An error about the value."""
        return ComposeError(message, self.place.file, self.place.line, key_path(self.path))

    def fail(self, message: str) -> NoReturn:
        """Raise an error about the value."""
        raise self.error(message)

    def bad(self, error: BadValue) -> ComposeError:
        """An error about the value, from a parser that knows nothing of places."""
        return self.error(f"invalid value {error.value!r}: {error.allowed}")


def copy(value: T) -> T:
    """A deep copy; scalars are shared."""
    if isinstance(value, Map):
        twin = Map(value.place)
        for key, each in value.items():
            twin.put(key, copy(each), value.place_of(key))
        twin.resets, twin.overrides = set(value.resets), set(value.overrides)
        return twin  # type: ignore[return-value]
    if isinstance(value, Items):
        twins = Items(value.place)
        for index, each in enumerate(value):
            twins.put(copy(each), value.place_of(index))
        return twins  # type: ignore[return-value]
    return value
