"""`--filter KEY=VALUE`: read, checked against what a command knows, applied to rows of objects.

Docker's rules: different keys are and-ed, values of the same key or-ed (labels: and-ed); ids and names match by their
beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flota.cli.failures import BadFlag
from flota.stacks.errors import did_you_mean


class Filters:
    """The filters of one command line."""

    def __init__(self, texts: Iterable[str], known: Sequence[str]) -> None:
        """Read `texts`; raises BadFlag when one is not KEY=VALUE or its key is not among `known`."""
        self._values: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            key = key.strip().lower()
            if not equals:
                raise BadFlag(f"invalid --filter {text!r}: KEY=VALUE is needed, KEY one of {', '.join(known)}")
            if key not in known:
                raise BadFlag(
                    f"invalid --filter {text!r}: {key!r} is not one of {', '.join(known)}{did_you_mean(key, known)}"
                )
            self._values.setdefault(key, []).append(value.strip())

    def get(self, key: str) -> list[str]:
        """All values given for `key`."""
        return self._values.get(key, [])

    def starts(self, key: str, *texts: str) -> bool:
        """True when no value was given for `key`, or one of `texts` begins with one of them."""
        return not self.get(key) or any(text.startswith(value) for value in self.get(key) for text in texts if value)

    def equals(self, key: str, *texts: str) -> bool:
        """True when no value was given for `key`, or one is among `texts`, whatever the case."""
        lowered = {text.lower() for text in texts}
        return not self.get(key) or any(value.lower() in lowered for value in self.get(key))

    def labels(self, key: str, labels: Mapping[str, str]) -> bool:
        """True when all of the labels asked for are there (KEY or KEY=VALUE)."""
        for wanted in self.get(key):
            name, equals, value = wanted.partition("=")
            if name not in labels or (equals and labels[name] != value):
                return False
        return True

    def label_map(self, key: str) -> dict[str, str]:
        """The labels asked for, as requests have them: an empty value accepts any."""
        return {name: value for name, _, value in (wanted.partition("=") for wanted in self.get(key))}

    def one_of(self, key: str, allowed: Sequence[str]) -> None:
        """Raise BadFlag when a value for `key` is not allowed."""
        for value in self.get(key):
            if value.lower() not in allowed:
                raise BadFlag(
                    f"invalid --filter {f'{key}={value}'!r}: one of {', '.join(allowed)} is needed"
                    f"{did_you_mean(value, allowed)}"
                )
