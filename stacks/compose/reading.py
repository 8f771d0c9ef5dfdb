"""YAML to a tree (tree.py): anchors and merge keys resolved, `!reset` and `!override` marked, all within limits.

ruamel.yaml parses; what its scalars mean is decided here, the way Docker's tools do (YAML 1.2, but 0440 is octal), and
so is what becomes of aliases: each use is a copy, and a file that grows beyond all measure by them is refused.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from flota.stacks.compose.tree import Items, Map, Place, WrittenFloat, WrittenInt
from flota.stacks.errors import ComposeError

MAX_CHARACTERS = 4 << 20
# Values after all aliases are resolved.
MAX_VALUES = 200_000
MAX_DEPTH = 60

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(
    f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp", "value")
)
RESET, OVERRIDE = "!reset", "!override"
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"([-+]?)(?:0o([0-7_]+)|0x([0-9a-fA-F_]+)|0b([01_]+)|0([0-7_]+)|(0|[1-9][0-9_]*))")
_BASES = (8, 16, 2, 8, 10)
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_LONGEST_NUMBER = 100


def read_document(text: str, file: str) -> Map:
    """The one document of a file. Raises ComposeError."""
    if len(text) > MAX_CHARACTERS:
        raise ComposeError(f"the file has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read", file)
    node = _parse(text, file)
    if node is None:
        raise ComposeError("the file is empty; it needs at least services: with one service", file)
    if not isinstance(node, MappingNode):
        raise ComposeError(f"a mapping with services: is needed, not {_kind(node)}", file, node.start_mark.line + 1)
    tree = _Builder(file).value(node)
    assert isinstance(tree, Map)
    return tree


def _parse(text: str, file: str) -> Node | None:
    try:
        return YAML(typ="safe", pure=True).compose(text)  # type: ignore[no-any-return]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "it cannot be read"
        raise ComposeError(_explained(str(what)), file, mark.line + 1 if mark is not None else 0) from None
    except YAMLError as error:
        raise ComposeError(f"not YAML: {' '.join(str(error).split())}", file) from None
    except RecursionError:
        raise ComposeError(f"it is nested too deeply: at most {MAX_DEPTH} levels are read", file) from None
    except (ValueError, IndexError, KeyError, AttributeError, TypeError, AssertionError) as error:
        # What the parser does not foresee, such as directives that make no sense.
        raise ComposeError(f"not YAML: {' '.join(str(error).split()) or type(error).__name__}", file) from None


def _explained(problem: str) -> str:
    hints = {
        "mapping values are not allowed here": "quote the value, or check the indentation of this line",
        "found undefined alias": "an anchor (&name) must stand above its alias (*name)",
        "cannot start any token": "indent with spaces, and quote values that begin with @, ` or %",
        "but found another document": "one document per file: use several -c FILE instead of ---",
        "expected ',' or '}', but got '{'": 'within { } quote what has variables: {replicas: "${REPLICAS}"}',
        "could not find expected ':'": "check the indentation of the lines around it",
    }
    hint = next((f" ({hint})" for part, hint in hints.items() if part in problem), "")
    return f"not YAML: {problem}{hint}"


def _kind(node: Node) -> str:
    return "a list" if isinstance(node, SequenceNode) else "a mapping" if isinstance(node, MappingNode) else "a value"


def resolve(text: str) -> Any:
    """What an unquoted scalar means: None, a bool, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    match = _INT.fullmatch(text)
    if match is not None:
        for base, digits in zip(_BASES, match.groups()[1:], strict=True):
            if digits is not None and (plain := digits.replace("_", "")):
                number = int(plain, base)
                return WrittenInt(-number if match[1] == "-" else number, text)
    if _FLOAT.fullmatch(text):
        return WrittenFloat(float(text.lower().replace(".inf", "inf").replace(".nan", "nan")), text)
    return text


class _Builder:
    """Makes the tree of one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = MAX_VALUES
        self._open: set[int] = set()

    def value(self, node: Node, depth: int = 0) -> Any:
        """The value of a node; every use of an alias makes it anew."""
        self._left -= 1
        if self._left < 0:
            self._fail(node, f"with all aliases resolved it has more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            self._fail(node, f"it is nested too deeply: at most {MAX_DEPTH} levels are read")
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            self._fail(node, f"the anchor {node.anchor!r} contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._map(node, depth)
            assert isinstance(node, SequenceNode)
            return self._items(node, depth)
        finally:
            self._open.discard(id(node))

    def _fail(self, node: Node, message: str) -> None:
        raise ComposeError(message, self._file, self._place(node).line)

    def _place(self, node: Node) -> Place:
        return Place(self._file, node.start_mark.line + 1)

    def _tag(self, node: Node) -> str:
        tag = str(node.tag)
        if tag not in _KNOWN_TAGS and tag not in (RESET, OVERRIDE):
            self._fail(node, f"the tag {tag.replace(_TAG, '!!')!r} is not known; {RESET} and {OVERRIDE} are")
        return tag

    def _scalar(self, node: ScalarNode) -> Any:
        tag = self._tag(node)
        if tag in (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value", f"{_TAG}merge") or (
            node.style is not None and tag in (RESET, OVERRIDE)
        ):
            return node.value
        return resolve(node.value)

    def _items(self, node: SequenceNode, depth: int) -> Items:
        self._tag(node)
        items = Items(self._place(node))
        for each in node.value:
            if str(each.tag) == RESET:
                self._fail(each, f"{RESET} belongs before the value of a key, not before an item of a list")
            items.put(self.value(each, depth + 1), self._place(each))
        return items

    def _map(self, node: MappingNode, depth: int) -> Map:
        self._tag(node)
        tree = Map(self._place(node))
        merged: list[Map] = []
        for key_node, value_node in node.value:
            if isinstance(key_node, ScalarNode) and str(key_node.tag) == f"{_TAG}merge":
                merged += self._merged(value_node, depth)
                continue
            key = self._key(key_node)
            if key in tree or key in tree.resets:
                self._fail(key_node, f"the key {key!r} is given twice (first on line {tree.place_of(key).line})")
            self._put(tree, key, value_node, self._place(key_node), depth)
        for other in merged:
            for key, value in other.items():
                if key not in tree and key not in tree.resets:
                    tree.put(key, value, other.place_of(key))
                    tree.overrides |= {key} & other.overrides
            tree.resets |= other.resets - tree.keys()
        return tree

    def _put(self, tree: Map, key: str, node: Node, place: Place, depth: int) -> None:
        tag = str(node.tag)
        if tag == RESET:
            tree.resets.add(key)
            tree.places[key] = place
            return
        if tag == OVERRIDE:
            tree.overrides.add(key)
        tree.put(key, self.value(node, depth + 1), place)

    def _key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode):
            self._fail(node, f"a key must be a word, not {_kind(node)}")
        self._tag(node)
        if not node.value:
            self._fail(node, "a key is empty")
        return str(node.value)

    def _merged(self, node: Node, depth: int) -> list[Map]:
        """What << takes over: one mapping or a list of them, the first of which wins."""
        values = self.value(node, depth + 1)
        sources = values if isinstance(values, Items) else [values]
        for source in sources:
            if not isinstance(source, Map):
                self._fail(node, "<< takes a mapping or a list of mappings, such as <<: *defaults")
        return list(sources)
