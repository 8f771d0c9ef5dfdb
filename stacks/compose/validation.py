"""Holds a file's tree against the schema (schema.json), and says what is wrong in words that name line, key and fix.

The schema decides structure: which keys there are, and whether a list, a mapping or a value stands there. What a value
may say is decided in canonical.py, after this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from flota.stacks.compose.tree import Items, Map, key_path, place_at
from flota.stacks.errors import ComposeError, did_you_mean

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
}
_LONGEST_SHOWN = 40
# So many keys are all named when one of them may be meant.
_FEW = 12


@cache
def _schema() -> Any:
    return json.loads(files(__package__).joinpath("schema.json").read_text(encoding="utf-8"))


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_schema())


def validate(tree: Map) -> None:
    """Raises the first ComposeError, by line."""
    found = problems(tree)
    if found:
        raise found[0]


def problems(tree: Map) -> list[ComposeError]:
    """Everything that does not fit the schema, by line."""
    found = [problem for error in _validator().iter_errors(tree) for problem in _explained(tree, error)]
    return sorted(found, key=lambda error: (error.line, error.key, error.message))


def known_keys(*path: str) -> list[str]:
    """The keys that the schema knows at `path` of its definitions: ("service",), ("deploy",)."""
    return list(_schema()["$defs"][path[0]]["properties"])


def _explained(tree: Map, error: Any) -> Iterable[ComposeError]:
    path = list(error.absolute_path)
    if error.validator == "additionalProperties":
        for key in _unknown(error):
            yield _error(tree, [*path, key], _unknown_key(path, key, error))
        return
    if "propertyNames" in error.absolute_schema_path:
        # A key itself is wrong: `instance` is the key.
        path.append(error.instance)
    yield _error(tree, path, _message(error))


def _error(tree: Map, path: list[str | int], message: str) -> ComposeError:
    place = place_at(tree, path)
    return ComposeError(message, place.file, place.line, key_path(path))


def _unknown(error: Any) -> list[str]:
    known = error.schema.get("properties", {})
    return [key for key in error.instance if key not in known and not key.startswith("x-")]


def _unknown_key(path: list[str | int], key: str, error: Any) -> str:
    known: Mapping[str, Any] = error.schema.get("properties", {})
    value = error.instance[key]
    if not path and isinstance(value, Map) and ("image" in value or "build" in value):
        return "the key is not known at the top of a file; services stand under services:"
    if not path and key in known_keys("service"):
        return "the key is not known at the top of a file; it belongs into a service"
    if len(path) == 2 and path[0] == "services" and key in known_keys("deploy"):
        return f"the key is not known in a service; it belongs under deploy: (deploy.{key})"
    few = f"; known are {', '.join(known)}" if len(known) <= _FEW else ""
    return f"the key is not known here{did_you_mean(key, known) or few}"


def _message(error: Any) -> str:
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    match error.validator:
        case "type":
            return f"{_types(error.validator_value)} is needed, not {_shown(error.instance)}"
        case "enum":
            allowed = [str(each) for each in error.validator_value]
            hint = did_you_mean(error.instance, allowed) if isinstance(error.instance, str) else ""
            return f"{_shown(error.instance)} is not allowed; one of {', '.join(allowed)} is needed{hint}"
        case "required":
            missing = [key for key in error.validator_value if key not in error.instance]
            return f"{missing[0]}: is missing"
        case "pattern":
            return f"{error.instance!r}: {schema.get('description', f'{error.validator_value} is needed')}"
    return f"{_shown(error.instance)} does not fit ({error.validator})"


def _types(types: str | list[str]) -> str:
    words = [_WORDS[each] for each in ([types] if isinstance(types, str) else types) if each != "null"]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Map | dict):
        return "a mapping"
    if isinstance(value, Items | list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 1] + "…"
        return f"the text {text!r}"
    return f"the number {value}"
