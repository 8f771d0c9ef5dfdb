"""Writes a project out as YAML: sorted, quoted where another reader could take a text for something else.

Dollars in values are doubled, so that what is written means the same when it is read again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from flota.stacks.compose.reading import resolve
from flota.stacks.compose.tree import text_of

_TOP = ("name", "services", "networks", "volumes", "secrets", "configs")
# Words that YAML 1.1 takes for true and false.
_OLD_WORDS = frozenset(
    form(word) for word in ("y", "yes", "n", "no", "on", "off") for form in (str, str.upper, str.title)
)
# And what it takes for numbers to the base of 60: 22:22
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9]*)?")


class _Representer(SafeRepresenter):
    """Texts that would be read as something else get quotes, those of several lines a block."""

    def represent_text(self, text: str) -> ScalarNode:
        style = None
        if "\n" in text and not any(line != line.rstrip() for line in text.split("\n")):
            style = "|"
        elif resolve(text) is not text or text in _OLD_WORDS or _BASE_60.fullmatch(text):
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def ignore_aliases(self, data: object) -> bool:
        """Never write anchors."""
        return True


_Representer.add_representer(str, _Representer.represent_text)


def to_yaml(tree: Mapping[str, Any], escape: bool = True) -> str:
    """The YAML text of a project. With `escape`, dollars are doubled."""
    return _dumped({key: _plain(tree[key], escape and not key.startswith("x-")) for key in sorted(tree, key=_rank)})


def any_to_yaml(value: Any) -> str:
    """The YAML text of any data, keys sorted, dollars as they are."""
    return _dumped(_plain(value, False))


def _dumped(plain: Any) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 10_000
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(plain, out)
    return out.getvalue()


def _rank(key: str) -> tuple[int, str]:
    return (_TOP.index(key) if key in _TOP else len(_TOP), key)


def _plain(value: Any, escape: bool) -> Any:
    """Plain dicts, sorted, and lists; numbers as they were written are numbers again."""
    if isinstance(value, Mapping):
        return {key: _plain(value[key], escape) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(each, escape) for each in value]
    if isinstance(value, str):
        return value.replace("$", "$$") if escape else value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return text_of(value)
