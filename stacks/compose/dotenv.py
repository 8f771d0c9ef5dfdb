"""Files of KEY=VALUE lines: `.env` beside a Compose file, `env_file`, `label_file`.

The Compose Specification's rules: # comments, `export`, single quotes literal, double quotes with escapes, both over
several lines; unquoted and double-quoted values have variables. KEY without = takes the value of whoever deploys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flota.stacks.compose.interpolation import BadTemplate, Variables
from flota.stacks.errors import ComposeError

_KEY = re.compile(r"(?:export[ \t]+)?([^\s=:#'\"]+)[ \t]*")
_COMMENT = re.compile(r"(?:^|\s+)#")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'", "$": "$$"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def read_variables(text: str, file: str, environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables of a file; None where only a key stands. Raises ComposeError."""
    return _Reader(text.removeprefix("\ufeff"), file, environment).read()


def read_raw(text: str, file: str) -> dict[str, str | None]:
    """The same lines in the format `raw`: nothing in a value means anything. Raises ComposeError."""
    values: dict[str, str | None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            key, equals, value = line.partition("=")
            if not key.strip() or any(character.isspace() for character in key.strip()):
                raise ComposeError(f"{line!r} is not KEY=VALUE", file, number)
            values[key.strip()] = value if equals else None
    return values


class _Reader:
    def __init__(self, text: str, file: str, environment: Mapping[str, str]) -> None:
        self._text = text
        self._file = file
        self._environment = environment
        self._at = 0
        self._values: dict[str, str | None] = {}

    @property
    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def read(self) -> dict[str, str | None]:
        while self._at < len(self._text):
            self._skip_blank()
            if self._at >= len(self._text):
                break
            if self._text[self._at] in "#\n\r":
                self._skip_line()
            else:
                self._pair()
        return self._values

    def _skip_blank(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1

    def _skip_line(self) -> str:
        end = self._text.find("\n", self._at)
        end = len(self._text) if end < 0 else end
        line, self._at = self._text[self._at : end], end + 1
        return line.rstrip("\r")

    def _pair(self) -> None:
        line = self._line
        match = _KEY.match(self._text, self._at)
        if match is None:
            raise ComposeError(f"{self._skip_line()!r} is not KEY=VALUE", self._file, line)
        key, self._at = match[1], match.end()
        following = self._text[self._at : self._at + 1]
        if following in ("", "\n", "\r", "#"):
            self._skip_line()
            self._values[key] = self._environment.get(key)
            return
        if following not in "=:":
            raise ComposeError(f"{key} {self._skip_line()!r} is not KEY=VALUE", self._file, line)
        self._at += 1
        self._skip_blank()
        quote = self._text[self._at : self._at + 1]
        if quote == "'":
            self._values[key] = self._quoted(quote, line).replace("\\'", "'")
            return
        raw = self._quoted(quote, line) if quote == '"' else _COMMENT.split(self._skip_line(), maxsplit=1)[0].rstrip()
        if quote == '"':
            raw = _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), raw)
        known = {name: value for name, value in self._values.items() if value is not None}
        try:
            self._values[key] = Variables({**known, **self._environment}).expand(raw)
        except BadTemplate as error:
            raise ComposeError(str(error), self._file, line, key) from None

    def _quoted(self, quote: str, line: int) -> str:
        """What stands between quotes; behind them only a comment may follow."""
        start = self._at + 1
        end = start
        while end < len(self._text) and self._text[end] != quote:
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text):
            raise ComposeError(f"the quote {quote} is never closed", self._file, line)
        self._at = end + 1
        rest = self._skip_line().strip()
        if rest and not rest.startswith("#"):
            raise ComposeError(f"{rest!r} stands behind the closing quote", self._file, line)
        return self._text[start:end]
