"""Reads Go templates (text/template), the part that people use, into a small tree.

Grammar: https://pkg.go.dev/text/template. Covered: fields, pipelines, functions, parentheses, variables, literals,
if/else if/else, range, with, trim markers, comments. Not covered: template, define, block, break, continue.
Never evaluates anything (engine.py does).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class TemplateError(ValueError):
    """The template cannot be read, or asks for something that is not there."""


@dataclass(frozen=True)
class Literal:
    """A string, number, bool or nil."""

    value: object


@dataclass(frozen=True)
class Field:
    """`.A.B` of dot, of a variable, or of the value of a parenthesis."""

    base: Dot | Variable | Pipeline
    names: tuple[str, ...]


@dataclass(frozen=True)
class Dot:
    """`.`"""


@dataclass(frozen=True)
class Variable:
    """`$` or `$name`"""

    name: str


@dataclass(frozen=True)
class Call:
    """A function and its arguments; in a pipeline the value before comes last."""

    name: str
    arguments: tuple[Operand, ...]


@dataclass(frozen=True)
class Method:
    """A field that is asked with arguments: `.Label "tier"`."""

    field: Field
    arguments: tuple[Operand, ...]


@dataclass(frozen=True)
class Pipeline:
    """Commands joined by `|`, perhaps given to variables."""

    commands: tuple[Operand | Call | Method, ...]
    assigned: tuple[str, ...] = ()
    declares: bool = False


Operand = Literal | Field | Dot | Variable | Pipeline


@dataclass(frozen=True)
class Text:
    """What stands outside of {{ }}."""

    text: str


@dataclass(frozen=True)
class Branch:
    """if, range or with: one pipeline, two bodies."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


Node = Text | Pipeline | Branch

_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`) |
    (?P<number>[+-]?\d+(?:\.\d+)?) |
    (?P<variable>\$\w*) |
    (?P<field>(?:\.[A-Za-z_]\w*)+) |
    (?P<dot>\.) |
    (?P<word>[A-Za-z_]\w*) |
    (?P<mark>:=|=|\||\(|\)|,)
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_LITERALS: dict[str, object] = {"true": True, "false": False, "nil": None}


def parse_template(text: str) -> tuple[Node, ...]:
    """Read a template. Raises TemplateError."""
    reader = _Reader(_split(text))
    body, end = reader.body()
    if end is not None:
        raise TemplateError(f"unexpected {{{{{end}}}}}")
    return body


def _split(text: str) -> list[str | list[tuple[str, str]]]:
    """Texts (str) and actions (their tokens), in turn; trim markers are applied."""
    parts: list[str | list[tuple[str, str]]] = []
    position, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[position : match.start()]
        before = before.lstrip() if trim else before
        parts.append(before.rstrip() if match[1] else before)
        if not match[2].strip().startswith("/*"):
            parts.append(_tokens(match[2]))
        position, trim = match.end(), bool(match[3])
    rest = text[position:]
    if "{{" in rest:
        raise TemplateError("unclosed {{")
    parts.append(rest.lstrip() if trim else rest)
    return parts


def _tokens(action: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    action = action.rstrip()
    while position < len(action):
        match = _TOKEN.match(action, position)
        if match is None:
            raise TemplateError(f"unexpected {action[position:].strip()[:20]!r} in {{{{{action.strip()}}}}}")
        assert match.lastgroup is not None
        tokens.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return tokens


class _Reader:
    """Turns parts into nodes."""

    def __init__(self, parts: list[str | list[tuple[str, str]]]) -> None:
        self._parts = parts
        self._next = 0

    def body(self) -> tuple[tuple[Node, ...], str | None]:
        """Nodes up to the end or an `end`/`else`; that word comes back (`else` with its action's rest put back)."""
        nodes: list[Node] = []
        while self._next < len(self._parts):
            part = self._parts[self._next]
            self._next += 1
            if isinstance(part, str):
                if part:
                    nodes.append(Text(part))
                continue
            word = part[0][1] if part and part[0][0] == "word" else ""
            if word in ("if", "range", "with"):
                nodes.append(self._branch(word, part[1:]))
            elif word == "end" and len(part) == 1:
                return tuple(nodes), "end"
            elif word == "else":
                if len(part) > 1:
                    # `else if X` is `else` with an `if X` inside that shares our `end`.
                    self._next -= 1
                    self._parts[self._next] = part[1:]
                    return tuple(nodes), "else if"
                return tuple(nodes), "else"
            elif word in ("template", "define", "block", "break", "continue"):
                raise TemplateError(f"{{{{{word}}}}} is not supported")
            else:
                nodes.append(_Expression(part).pipeline())
        return tuple(nodes), None

    def _branch(self, kind: str, tokens: list[tuple[str, str]]) -> Branch:
        pipeline = _Expression(tokens).pipeline()
        body, end = self.body()
        otherwise: tuple[Node, ...] = ()
        if end == "else if":
            part = self._parts[self._next]
            assert isinstance(part, list)
            self._next += 1
            otherwise = (self._branch(part[0][1], part[1:]),)
        else:
            if end == "else":
                otherwise, end = self.body()
            if end != "end":
                raise TemplateError(f"{{{{{kind}}}}} has no {{{{end}}}}")
        return Branch(kind, pipeline, body, otherwise)


class _Expression:
    """One action's tokens, read from left to right."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._next = 0

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        index = self._next + ahead
        return self._tokens[index] if index < len(self._tokens) else ("end", "")

    def pipeline(self, nested: bool = False) -> Pipeline:
        assigned, declares = self._assignment() if not nested else ((), False)
        commands = [self._command()]
        while self._peek() == ("mark", "|"):
            self._next += 1
            commands.append(self._command())
        kind, text = self._peek()
        if nested:
            if text != ")":
                raise TemplateError("a ( is not closed")
            self._next += 1
        elif kind != "end":
            raise TemplateError(f"unexpected {text!r}")
        return Pipeline(tuple(commands), assigned, declares)

    def _assignment(self) -> tuple[tuple[str, ...], bool]:
        names = []
        ahead = 0
        while self._peek(ahead)[0] == "variable":
            names.append(self._peek(ahead)[1])
            after = self._peek(ahead + 1)[1]
            if after in (":=", "="):
                self._next += ahead + 2
                return tuple(names), after == ":="
            if after != ",":
                break
            ahead += 2
        return (), False

    def _command(self) -> Operand | Call | Method:
        kind, text = self._peek()
        if kind == "word" and text not in _LITERALS:
            self._next += 1
            return Call(text, self._arguments())
        value = self._operand()
        arguments = self._arguments()
        if not arguments:
            return value
        if not isinstance(value, Field):
            raise TemplateError(f"{text!r} is not a function and takes no arguments")
        return Method(value, arguments)

    def _arguments(self) -> tuple[Operand, ...]:
        arguments = []
        while self._peek()[0] != "end" and self._peek() not in (("mark", "|"), ("mark", ")")):
            arguments.append(self._operand())
        return tuple(arguments)

    def _operand(self) -> Operand:
        kind, text = self._peek()
        self._next += 1
        base: Operand
        match kind:
            case "string":
                base = Literal(_unquote(text))
            case "number":
                base = Literal(float(text) if "." in text else int(text))
            case "variable":
                base = Variable(text)
            case "field":
                return Field(Dot(), tuple(text[1:].split(".")))
            case "dot":
                base = Dot()
            case "word" if text in _LITERALS:
                base = Literal(_LITERALS[text])
            case "word":
                base = Pipeline((Call(text, ()),))
            case "mark" if text == "(":
                base = self.pipeline(nested=True)
            case "end":
                raise TemplateError("something is missing in {{ }}")
            case _:
                raise TemplateError(f"unexpected {text!r}")
        if isinstance(base, Variable | Pipeline) and self._peek()[0] == "field":
            names = self._peek()[1][1:].split(".")
            self._next += 1
            return Field(base, tuple(names))
        return base


def _unquote(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1])
