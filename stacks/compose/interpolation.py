"""Variables in values: $NAME, ${NAME}, ${NAME-d} ${NAME:-d} (default), ${NAME?e} ${NAME:?e} (error), ${NAME+a}
${NAME:+a} (alternative), nested as deep as anybody wants, and $$ for a dollar.

With the colon an empty value counts as none. A dollar that begins none of these stays what it is. Keys are never
touched, nor are extension fields (x-…) at the top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flota.stacks.compose.tree import Items, Map, Place, Spot
from flota.stacks.errors import ComposeError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
_MAX_DEPTH = 40
_MAX_LENGTH = 1 << 20


class BadTemplate(ValueError):
    """A text whose variables cannot be filled in; the message is for people."""


class Variables:
    """What there is to fill in, and which names were asked for in vain."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        # name → where it was first missed.
        self.unset: dict[str, Place] = {}

    def expand(self, text: str, place: Place | None = None) -> str:
        """`text` with everything filled in. Raises BadTemplate."""
        if "$" not in text:
            return text
        return self._expand(text, place or Place(""), 0)

    def _expand(self, text: str, place: Place, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise BadTemplate(f"variables are nested more than {_MAX_DEPTH} levels deep")
        parts: list[str] = []
        at, size = 0, 0
        while (dollar := text.find("$", at)) >= 0:
            parts.append(text[at:dollar])
            part, at = self._one(text, dollar, place, depth)
            parts.append(part)
            size += len(part)
            if size > _MAX_LENGTH:
                raise BadTemplate(f"the text grows beyond {_MAX_LENGTH:,} characters")
        parts.append(text[at:])
        return "".join(parts)

    def _one(self, text: str, dollar: int, place: Place, depth: int) -> tuple[str, int]:
        """What stands for the dollar at `dollar`, and where the text goes on."""
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            return "$", dollar + 2
        if following == "{":
            end = _closing_brace(text, dollar + 2)
            return self._braced(text[dollar + 2 : end], place, depth), end + 1
        name = _NAME.match(text, dollar + 1)
        if name is None:
            return "$", dollar + 1
        return self._value(name[0], place), name.end()

    def _value(self, name: str, place: Place) -> str:
        value = self.values.get(name)
        if value is None:
            self.unset.setdefault(name, place)
            return ""
        return value

    def _braced(self, inside: str, place: Place, depth: int) -> str:
        name = _NAME.match(inside)
        if name is None:
            raise BadTemplate(f"${{{inside}}} names no variable: ${{NAME}} is needed, or $$ for a dollar")
        rest = inside[name.end() :]
        if not rest:
            return self._value(name[0], place)
        operator = _OPERATOR.match(rest)
        if operator is None:
            raise BadTemplate(
                f"${{{inside}}} cannot be read: after the name -, :-, ?, :?, + or :+ may follow ($$ is a dollar)"
            )
        word = rest[operator.end() :]
        value = self.values.get(name[0])
        there = bool(value) if operator[0].startswith(":") else value is not None
        match operator[0][-1]:
            case "+":
                return self._expand(word, place, depth + 1) if there else ""
            case "-":
                return (value or "") if there else self._expand(word, place, depth + 1)
        if not there:
            what = self._expand(word, place, depth + 1)
            empty = "empty" if value is not None else "not set"
            raise BadTemplate(f"the variable {name[0]} is {empty}{f': {what}' if what else ', and it is required'}")
        return value or ""


def _closing_brace(text: str, start: int) -> int:
    """The index of the brace that closes ${ ; braces of variables within count, others do not."""
    depth, at = 0, start
    while at < len(text):
        if text.startswith("$$", at):
            at += 2
        elif text.startswith("${", at):
            depth, at = depth + 1, at + 2
        elif text[at] == "}":
            if not depth:
                return at
            depth, at = depth - 1, at + 1
        else:
            at += 1
    raise BadTemplate(f"${{{text[start : start + 30]} has no closing brace (write $$ for a dollar)")


def interpolate(tree: Map, variables: Variables) -> None:
    """Fill in every value of a file. Raises ComposeError."""
    for key in tree:
        if not key.startswith("x-"):
            spot = Spot(tree.place, ())
            tree[key] = _filled(tree[key], variables, spot.of(tree, key))


def _filled(value: object, variables: Variables, spot: Spot) -> object:
    if isinstance(value, str):
        try:
            return variables.expand(value, spot.place)
        except BadTemplate as error:
            raise spot.error(str(error)) from None
    if isinstance(value, Map):
        for key in value:
            value[key] = _filled(value[key], variables, spot.of(value, key))
    elif isinstance(value, Items):
        for index, each in enumerate(value):
            value[index] = _filled(each, variables, spot.of(value, index))
    return value


def filled_text(text: str, variables: Variables, file: str, line: int, key: str) -> str:
    """One value of a file that is not YAML. Raises ComposeError."""
    try:
        return variables.expand(text, Place(file, line))
    except BadTemplate as error:
        raise ComposeError(str(error), file, line, key) from None
