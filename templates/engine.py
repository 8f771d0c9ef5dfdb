"""Evaluates Go templates over plain data (dicts, lists, strings, numbers, bools).

Functions: Go's own that make sense here, and Docker's (json, join, split, lower, upper, title, pad, truncate, println).
Values print as Go prints them (lists as [a b], maps as map[k:v], nothing as <no value>).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from flota.templates.parser import (
    Branch,
    Call,
    Dot,
    Field,
    Literal,
    Method,
    Node,
    Pipeline,
    TemplateError,
    Text,
    Variable,
    parse_template,
)

_NOTHING = object()
_PRINTF = re.compile(r"%([-+ #0]*\d*(?:\.\d+)?)([vsdqfgx%])")


class Template:
    """A template that has been read. Raises TemplateError when it cannot be."""

    def __init__(self, text: str, *, literal: bool = False) -> None:
        """`literal`: a backslash is nothing special. A shell passes \\t and \\n on as two characters; on a command
        line Docker takes them for what they mean."""
        self._nodes = parse_template(text if literal else text.replace("\\t", "\t").replace("\\n", "\n"))

    def render(self, data: object, functions: Mapping[str, Callable[..., object]] | None = None) -> str:
        """The text for `data`, with more functions than the usual ones. Raises TemplateError."""
        output: list[str] = []
        _Run(data, output, _FUNCTIONS if functions is None else {**_FUNCTIONS, **functions}).nodes(self._nodes, data)
        return "".join(output)

    def fields(self) -> list[str]:
        """Names of the top-level fields that are printed, in order: what a table's header is made of."""
        return [name for node in self._nodes for name in _fields_of(node)]


def _fields_of(node: object) -> list[str]:
    match node:
        case Field(base=Dot(), names=names):
            return [names[0]]
        case Pipeline(commands=parts) | Call(arguments=parts):
            return [name for part in parts for name in _fields_of(part)]
        case Branch(pipeline=_, body=body, otherwise=otherwise):
            return [name for part in (*body, *otherwise) for name in _fields_of(part)]
    return []


class _Run:
    def __init__(self, root: object, output: list[str], functions: Mapping[str, Callable[..., object]]) -> None:
        self._functions = functions
        self._variables: list[dict[str, object]] = [{"$": root}]
        self._output = output

    def nodes(self, nodes: Sequence[Node], dot: object) -> None:
        for node in nodes:
            match node:
                case Text(text=text):
                    self._output.append(text)
                case Branch():
                    self._branch(node, dot)
                case Pipeline():
                    value = self._pipeline(node, dot)
                    if not node.assigned:
                        self._output.append(to_text(value))

    def _branch(self, node: Branch, dot: object) -> None:
        self._variables.append({})
        try:
            if node.kind == "range":
                self._range(node, dot)
            else:
                value = self._pipeline(node.pipeline, dot)
                chosen = node.body if _truth(value) else node.otherwise
                self.nodes(chosen, value if node.kind == "with" and chosen is node.body else dot)
        finally:
            self._variables.pop()

    def _range(self, node: Branch, dot: object) -> None:
        value = self._evaluate(Pipeline(node.pipeline.commands), dot)
        items: list[tuple[object, object]]
        if isinstance(value, Mapping):
            items = sorted(value.items())
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            items = [(number, number) for number in range(value)]
        elif value is None or value is _NOTHING:
            items = []
        else:
            raise TemplateError(f"range cannot go over {to_text(value)}")
        for key, item in items:
            names = node.pipeline.assigned
            if len(names) == 1:
                self._variables[-1][names[0]] = item
            elif names:
                self._variables[-1].update({names[0]: key, names[1]: item})
            self.nodes(node.body, item)
        if not items:
            self.nodes(node.otherwise, dot)

    def _pipeline(self, pipeline: Pipeline, dot: object) -> object:
        value = self._evaluate(pipeline, dot)
        for name in pipeline.assigned:
            scope = self._variables[-1]
            if not pipeline.declares:
                scope = next((each for each in reversed(self._variables) if name in each), scope)
            scope[name] = value
        return value

    def _evaluate(self, part: object, dot: object) -> object:
        match part:
            case Literal(value=value):
                return value
            case Dot():
                return dot
            case Variable(name=name):
                for scope in reversed(self._variables):
                    if name in scope:
                        return scope[name]
                raise TemplateError(f"undefined variable {name!r}")
            case Field(base=base, names=names):
                return _field(self._evaluate(base, dot), names)
            case Call():
                return self._call(part, dot, ())
            case Method(field=Field(base=base, names=(*path, name)), arguments=arguments):
                owner = _field(self._evaluate(base, dot), tuple(path))
                method = getattr(owner, "methods", {}).get(name)
                if method is None:
                    raise TemplateError(f".{name} is not a method and takes no arguments")
                return _applied(name, method, [self._evaluate(argument, dot) for argument in arguments])
            case Pipeline(commands=commands):
                value = self._evaluate(commands[0], dot)
                for command in commands[1:]:
                    if not isinstance(command, Call):
                        raise TemplateError("only functions may stand behind |")
                    value = self._call(command, dot, (value,))
                return value
        raise AssertionError(part)

    def _call(self, call: Call, dot: object, last: tuple[object, ...]) -> object:
        if call.name in ("and", "or"):
            value: object = None
            for argument in (*call.arguments, *(Literal(each) for each in last)):
                value = self._evaluate(argument, dot)
                if _truth(value) == (call.name == "or"):
                    return value
            return value
        function = self._functions.get(call.name)
        if function is None:
            raise TemplateError(f"function {call.name!r} not defined{_did_you_mean(call.name, self._functions)}")
        return _applied(call.name, function, [*(self._evaluate(argument, dot) for argument in call.arguments), *last])


def _applied(name: str, function: Callable[..., object], arguments: Sequence[object]) -> object:
    try:
        return function(*arguments)
    except TemplateError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise TemplateError(f"{name}: {error}") from None


def _field(value: object, names: tuple[str, ...]) -> object:
    for name in names:
        if value is None or value is _NOTHING:
            return _NOTHING
        if not isinstance(value, Mapping):
            raise TemplateError(f"can't evaluate field {name} in {to_text(value)!r}")
        if name not in value:
            if getattr(value, "closed", False):
                raise TemplateError(f"can't evaluate field {name}{_did_you_mean(name, value)}")
            return getattr(value, "missing", _NOTHING)
        value = value[name]
    return value


class Row(dict[str, Any]):
    """Data whose fields are all known: asking for another one is an error, as it is with Docker's structs.

    `methods` are asked with arguments; they are no data and stay out of JSON.
    """

    closed = True

    def __init__(self, fields: Mapping[str, Any], methods: Mapping[str, Callable[..., object]] | None = None) -> None:
        super().__init__(fields)
        self.methods = dict(methods or {})


class Strings(dict[str, str]):
    """Texts by name, such as labels: one that is not there is empty, as in Go's map[string]string."""

    missing = ""


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _truth(value: object) -> bool:
    return value is not _NOTHING and bool(value)


def to_text(value: object) -> str:
    """Print a value as Go's fmt does."""
    if value is None or value is _NOTHING:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{to_text(each)}' for key, each in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(to_text(each) for each in value)}]"
    return str(value)


def to_json(value: object) -> str:
    """JSON on one line."""
    return "null" if value is _NOTHING else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, getattr(value, "missing", _NOTHING))
        elif isinstance(value, list | tuple | str) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise TemplateError(f"index out of range: {to_text(key)}")
    return value


def _equal(first: object, *others: object) -> bool:
    return any(first == other for other in others)


def _truncate(text: object, length: int) -> str:
    return to_text(text)[:length]


def _slice(value: Any, *bounds: int) -> object:
    return value[slice(*bounds)] if bounds else value


def _printf(form: str, *arguments: object) -> str:
    left = list(arguments)

    def one(match: re.Match[str]) -> str:
        flags, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            raise TemplateError(f"printf: nothing is left for {match[0]}")
        value = left.pop(0)
        if verb == "q":
            return json.dumps(to_text(value), ensure_ascii=False)
        return f"%{flags}s" % to_text(value) if verb in "vs" else f"%{flags}{verb}" % (value,)

    return _PRINTF.sub(one, form)


def _pad(text: object, before: int, after: int) -> str:
    shown = to_text(text)
    return f"{' ' * before}{shown}{' ' * after}" if shown else shown


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "json": to_json,
    "join": lambda items, separator="": separator.join(to_text(item) for item in items or ()),
    "split": lambda text, separator: str(text).split(separator),
    "lower": lambda text: to_text(text).lower(),
    "upper": lambda text: to_text(text).upper(),
    "title": lambda text: to_text(text).title(),
    "pad": _pad,
    "truncate": _truncate,
    "print": lambda *values: "".join(to_text(value) for value in values),
    "println": lambda *values: " ".join(to_text(value) for value in values) + "\n",
    "printf": _printf,
    "len": len,
    "index": _index,
    "slice": _slice,
    "not": lambda value: not _truth(value),
    "eq": _equal,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "and": lambda *values: values[-1],
    "or": lambda *values: values[-1],
}
