"""The `filters` of a query: {"label": ["a=b"]} or, as old clients write it, {"label": {"a=b": true}}. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from flota.rpc.errors import InvalidArgument


class Filters:
    """Different keys are and-ed, values of one key or-ed (labels: and-ed)."""

    def __init__(self, text: str, known: Sequence[str]) -> None:
        """Read them. Raises InvalidArgument for what is no filter, or none of `known`."""
        self._values: dict[str, list[str]] = {}
        if not text:
            return
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise InvalidArgument.of("filters", text, "a JSON object of lists of strings is needed")
        for key, values in given.items():
            if isinstance(values, dict):
                values = [value for value, wanted in values.items() if wanted]
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise InvalidArgument.of("filters", text, f"{key} needs a list of strings")
            if key not in known:
                raise InvalidArgument(f"invalid filter '{key}': one of {', '.join(known)} is needed")
            self._values[key] = values

    def __contains__(self, key: str) -> bool:
        return bool(self._values.get(key))

    def get(self, key: str) -> list[str]:
        """All values given for `key`."""
        return self._values.get(key, [])

    def starts(self, key: str, *texts: str) -> bool:
        """True when no value was given for `key`, or one of `texts` begins with one of them."""
        return not self.get(key) or any(text.startswith(value) for value in self.get(key) for text in texts if value)

    def within(self, key: str, *texts: str) -> bool:
        """True when no value was given for `key`, or one of them is a part of one of `texts`."""
        return not self.get(key) or any(value in text for value in self.get(key) for text in texts)

    def equals(self, key: str, *texts: str) -> bool:
        """True when no value was given for `key`, or one of them is one of `texts`."""
        return not self.get(key) or any(value in texts for value in self.get(key))

    def labels(self, key: str, labels: Mapping[str, str]) -> bool:
        """True when all of the labels asked for are there (KEY or KEY=VALUE)."""
        for wanted in self.get(key):
            name, equals, value = wanted.partition("=")
            if name not in labels or (equals and labels[name] != value):
                return False
        return True

    def one_of(self, key: str, allowed: Iterable[str]) -> None:
        """Raise InvalidArgument when a value for `key` is not allowed."""
        words = list(allowed)
        for value in self.get(key):
            if value not in words:
                raise InvalidArgument.of(f"filter {key}", value, f"one of {', '.join(words)} is needed")

    def flag(self, key: str) -> bool | None:
        """A filter that is true or false; None when it was not given. Raises InvalidArgument."""
        values = {value.lower() in ("1", "true") for value in self.get(key) if value.lower() in _FLAGS}
        if len(values) != 1 and key in self:
            raise InvalidArgument.of(f"filter {key}", ", ".join(self.get(key)), "true or false is needed")
        return values.pop() if values else None


_FLAGS = ("0", "1", "true", "false")
