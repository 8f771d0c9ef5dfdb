"""Readers of single values and of simple lists and mappings. Each takes a value and its spot, and gives the canonical
value back; each raises ComposeError."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from typing import Any

from flota.stacks.compose.tree import Items, Map, Spot, text_of
from flota.stacks.errors import BadValue, ComposeError
from flota.stacks.units import format_cpus, format_duration, parse_cpus, parse_duration, parse_size

Reader = Callable[[Any, Spot], Any]

_TRUE = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE = frozenset({"false", "no", "off", "n", "f", "0"})
_LARGEST = 2**63 - 1
# Set while variables stay as they are written: what cannot be read because of one is left alone.
_KEEPING: ContextVar[bool] = ContextVar("keeping", default=False)


@contextmanager
def keeping_variables(keep: bool) -> Iterator[None]:
    """Within it values with variables may stay as they are."""
    token = _KEEPING.set(keep)
    try:
        yield
    finally:
        _KEEPING.reset(token)


def keeps_variables() -> bool:
    """Whether values may be texts with variables in them, which nobody can check yet."""
    return _KEEPING.get()


def same(value: Any, spot: Spot) -> Any:
    """As it is."""
    return value


def text(value: Any, spot: Spot) -> str:
    """A scalar as a text."""
    return text_of(value)


def flag(value: Any, spot: Spot) -> bool:
    """true or false; words that YAML once took for them, too."""
    if isinstance(value, bool):
        return value
    word = text_of(value).strip().lower()
    if word not in _TRUE | _FALSE:
        spot.fail(f"{value!r} is neither true nor false")
    return word in _TRUE


def count(least: int = 0, most: int = _LARGEST) -> Reader:
    """A whole number."""

    def read(value: Any, spot: Spot) -> int:
        try:
            number = int(value if not isinstance(value, float) else Decimal(value))
        except (ValueError, OverflowError, InvalidOperation):
            spot.fail(f"{text_of(value)!r} is not a whole number")
        if not least <= number <= most:
            upper = f" to {most:,}" if most < _LARGEST else " or more"
            spot.fail(f"{number} is not allowed; {least:,}{upper} is")
        return number

    return read


def _parsed(value: Any, spot: Spot, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text_of(value))
    except BadValue as error:
        raise spot.bad(error) from None


def duration(value: Any, spot: Spot) -> str:
    """A duration, as Go writes it."""
    return format_duration(_parsed(value, spot, lambda text: parse_duration(text, days=True)))


def size(value: Any, spot: Spot) -> str:
    """A number of bytes."""
    return str(_parsed(value, spot, parse_size))


def size_or_unlimited(value: Any, spot: Spot) -> str:
    """A number of bytes, or -1."""
    return "-1" if text_of(value).strip() == "-1" else size(value, spot)


def cpus(value: Any, spot: Spot) -> str:
    """A number of CPUs."""
    return format_cpus(_parsed(value, spot, parse_cpus))


def ratio(value: Any, spot: Spot) -> str:
    """A share from 0 to 1."""
    try:
        number = Decimal(text_of(value).strip())
        good = number.is_finite() and 0 <= number <= 1
    except InvalidOperation:
        good = False
    if not good:
        spot.fail(f"{text_of(value)!r} is not a number from 0 to 1")
    plain = f"{number:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def words(value: Any, spot: Spot) -> Items:
    """A command: a text that a shell would split, or a list."""
    if not isinstance(value, Items):
        try:
            return Items(spot.place, shlex.split(text_of(value)))
        except ValueError as error:
            spot.fail(f"{value!r} cannot be split into words ({str(error).lower()})")
    return texts(value, spot)


def texts(value: Any, spot: Spot) -> Items:
    """A list of texts; one text alone is a list of it."""
    if not isinstance(value, Items):
        return Items(spot.place, [text_of(value)])
    made = Items(value.place)
    for index, each in enumerate(value):
        made.put(text_of(each), value.place_of(index))
    return made


def unique_texts(value: Any, spot: Spot) -> Items:
    """A list of texts, each once."""
    listed = texts(value, spot)
    made = Items(listed.place)
    for index, each in enumerate(listed):
        if each not in made:
            made.put(each, listed.place_of(index))
    return made


def pairs(missing: str | None = "") -> Reader:
    """A mapping of texts, also when written as a list of KEY=VALUE. A key without a value has `missing`."""

    def read(value: Any, spot: Spot) -> Map:
        if isinstance(value, Map):
            for key, each in value.items():
                value[key] = missing if each is None else text_of(each)
            return value
        made = Map(value.place)
        for index, each in enumerate(value):
            key, equals, rest = each.partition("=")
            if not key.strip():
                spot.of(value, index).fail(f"{each!r} has no key: KEY=VALUE is needed")
            made.put(key.strip(), rest if equals else missing, value.place_of(index))
        return made

    return read


def fields(readers: Mapping[str, Reader]) -> Reader:
    """A mapping whose keys each have a reader; keys without a value go, other keys (x-…) stay."""

    def read(value: Any, spot: Spot) -> Map:
        if not isinstance(value, Map):
            return Map(spot.place)
        for key in list(value):
            if value[key] is None:
                value.drop(key)
            elif key in readers:
                try:
                    value[key] = readers[key](value[key], spot.of(value, key))
                except ComposeError:
                    if not _KEEPING.get() or "$" not in str(value[key]):
                        raise
        return value

    return read


def each_item(reader: Reader) -> Reader:
    """A list, every item of which has the same reader."""

    def read(value: Any, spot: Spot) -> Items:
        for index, item in enumerate(value):
            value[index] = reader(item, spot.of(value, index))
        return value  # type: ignore[no-any-return]

    return read


def each_value(reader: Reader) -> Reader:
    """A mapping, every value of which has the same reader."""

    def read(value: Any, spot: Spot) -> Map:
        for key, item in value.items():
            value[key] = reader(item, spot.of(value, key))
        return value  # type: ignore[no-any-return]

    return read
