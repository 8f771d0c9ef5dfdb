"""What names, labels and durations may look like. Pure; every function raises InvalidArgument or returns nothing.

Syntax of names: SwarmKit's manager/controlapi (services, secrets, configs) and Docker's for networks and volumes.
"""

import re
from collections.abc import Iterable, Mapping

from google.protobuf.duration_pb2 import Duration

from flota.rpc.errors import InvalidArgument
from flota.v1.types_pb2 import Annotations

_SERVICE = re.compile(r"[a-zA-Z0-9](?:[-_]*[a-zA-Z0-9]+)*")
_OBJECT = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?")
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_ALIAS = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?)*")
_LABEL_BYTES = 64 << 10
# What protobuf's Duration can say at most (10,000 years).
_LONGEST = 315_576_000_000


def check_service_name(name: str) -> None:
    """A DNS label, so that the service can be found under it; underscores too, as stacks use them."""
    _check(
        "service name", name, _SERVICE, 63,
        "letters, digits, '-' and '_', beginning and ending with a letter or digit",
    )  # fmt: skip


def check_object_name(word: str, name: str) -> None:
    """The name of a secret or config."""
    _check(
        f"{word} name", name, _OBJECT, 64,
        "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    )  # fmt: skip


def check_template_driver(word: str, driver: str) -> None:
    """What fills in templates in the content of a secret or config; empty = it has none."""
    if driver not in ("", "golang"):
        raise InvalidArgument.of(f"template driver of a {word}", driver, "golang, or none, is allowed")


def check_network_name(name: str) -> None:
    """The name of a network."""
    _check("network name", name, _NETWORK, 64, "letters, digits, '-', '_' and '.', beginning with a letter or digit")


def check_alias(field: str, alias: str) -> None:
    """A name under which a task is found beside its service's."""
    _check(field, alias, _ALIAS, 253, "DNS labels of letters, digits, '-' and '_', joined by dots")


def _check(field: str, value: str, syntax: re.Pattern[str], longest: int, allowed: str) -> None:
    if not value:
        raise InvalidArgument(f"{field} is empty: it must have 1 to {longest} characters ({allowed})")
    if len(value) > longest:
        raise InvalidArgument.of(field, value, f"it has {len(value)} characters, at most {longest} are allowed")
    if not syntax.fullmatch(value):
        raise InvalidArgument.of(field, value, f"allowed are {allowed}")


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Keys are not empty and have no spaces around them; all of it is not absurdly large."""
    for key in labels:
        if not key or key != key.strip() or not key.isprintable() or "=" in key:
            raise InvalidArgument.of(
                f"{field} key", key, "it must not be empty, nor contain '=' or control characters, nor begin or end "
                "with a space"
            )  # fmt: skip
    size = sum(len(key) + len(value) for key, value in labels.items())
    if size > _LABEL_BYTES:
        raise InvalidArgument(f"{field}s have {size:,} characters together, at most {_LABEL_BYTES:,} are allowed")


def check_annotations(annotations: Annotations) -> None:
    """Labels of any object; names have rules of their own."""
    check_labels("label", annotations.labels)


def check_duration(field: str, duration: Duration) -> None:
    """Zero or more."""
    total = duration.seconds + duration.nanos / 1e9
    if total < 0 or duration.seconds < 0 or not 0 <= duration.nanos < 1_000_000_000:
        raise InvalidArgument.of(field, f"{total:g}s", "a duration of zero or more is needed")
    if duration.seconds > _LONGEST:
        raise InvalidArgument.of(field, f"{total:g}s", f"at most {_LONGEST} seconds are allowed")


def check_unique(field: str, values: Iterable[str]) -> None:
    """No value occurs twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise InvalidArgument.of(field, value, "it is given twice")
        seen.add(value)
