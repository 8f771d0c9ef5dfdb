"""The constraint language: `node.labels.zone==east`, `node.role != manager`, `node.ip==10.0.0.0/8`.

Parses expressions (with one clear error when one cannot be read) and decides whether a node fulfils them. The
scheduler, the global orchestrators, the enforcer and the control API all ask here, so they cannot disagree.
Semantics: SwarmKit's manager/constraint. An unknown key, or a node that has not described itself, never matches; a
label that is not there counts as empty; values compare without regard to case, and there are no wildcards.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeRole

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)
_NODE_LABEL = "node.labels."
_ENGINE_LABEL = "engine.labels."
_SERVICE = "service."
_SAME, _OTHER = "same-node", "other-node"
KEYS = (
    "node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch",
    "node.labels.KEY", "engine.labels.KEY", "service.NAME",
)  # fmt: skip

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class ConstraintError(ValueError):
    """An expression that cannot be read; the message names it and what is allowed."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One expression: `key` equals (or, `negated`, does not equal) `value`."""

    key: str
    value: str
    negated: bool

    def __str__(self) -> str:
        return f"{self.key}{'!=' if self.negated else '=='}{self.value}"


def parse(expression: str) -> Constraint:
    """Read one expression. Raises ConstraintError."""
    for operator in ("==", "!="):
        key, found, value = expression.partition(operator)
        if not found:
            continue
        key, value = key.strip(), value.strip()
        if not _KEY.fullmatch(key):
            raise ConstraintError(
                f"constraint {expression!r}: {key!r} is not a key; allowed are letters, digits, '-', '_' and '.', "
                "at least two of them, beginning with a letter or '_'"
            )
        if not _VALUE.fullmatch(value):
            raise ConstraintError(
                f"constraint {expression!r}: {value!r} is not a value; allowed are letters, digits, spaces "
                r"and :-_.*()?+[]\^$|/"
            )
        if key.lower().startswith(_SERVICE) and value.lower() not in (_SAME, _OTHER):
            raise ConstraintError(f"constraint {expression!r}: {value!r} is no place; allowed are {_SAME} and {_OTHER}")
        return Constraint(key, value, operator == "!=")
    raise ConstraintError(f"constraint {expression!r} has no operator; write KEY==VALUE or KEY!=VALUE")


def parse_all(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """Read all of them; raises ConstraintError for the first that cannot be read."""
    return tuple(parse(expression) for expression in expressions)


def normal_architecture(name: str) -> str:
    """One word for each architecture: x86_64 is amd64, aarch64 is arm64."""
    return _ARCHITECTURES.get(name.lower(), name.lower())


def _same_address(value: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False


def _actual(key: str, node: Node) -> str | None:
    """What the node has for `key`, or None if there is no such key."""
    word = key.lower()
    if word == "node.id":
        return node.id
    if word == "node.hostname":
        return node.description.hostname
    if word == "node.role":
        return "manager" if node.role == NodeRole.NODE_ROLE_MANAGER else "worker"
    if word == "node.platform.os":
        return node.description.platform.os
    if word == "node.platform.arch":
        return normal_architecture(node.description.platform.architecture)
    if word.startswith(_NODE_LABEL):
        return node.spec.annotations.labels.get(key[len(_NODE_LABEL) :], "")
    if word.startswith(_ENGINE_LABEL):
        return node.description.engine.labels.get(key[len(_ENGINE_LABEL) :], "")
    return None


def holds(constraint: Constraint, node: Node) -> bool:
    """Whether `node` fulfils one constraint. Where other services' tasks are is not a node's own matter."""
    if constraint.key.lower().startswith(_SERVICE):
        return True
    if constraint.key.lower() == "node.ip":
        return _same_address(constraint.value, node.status.address) != constraint.negated
    actual = _actual(constraint.key, node)
    if actual is None:
        return False
    value = constraint.value
    if constraint.key.lower() == "node.platform.arch":
        value = normal_architecture(value)
    return (actual.casefold() == value.casefold()) != constraint.negated


@dataclass(frozen=True, slots=True)
class Affinity:
    """Beside tasks of another service (`same`), or on nodes without any."""

    service: str
    same: bool


def affinities_of(expressions: Iterable[str]) -> tuple[Affinity, ...]:
    """Those of the expressions that are about services; unreadable expressions have none."""
    return tuple(
        Affinity(constraint.key[len(_SERVICE) :], (constraint.value.lower() == _SAME) != constraint.negated)
        for constraint in _cached(tuple(expressions)) or ()
        if constraint.key.lower().startswith(_SERVICE)
    )


def matches(constraints: Iterable[Constraint], node: Node) -> bool:
    """Whether `node` fulfils all of them."""
    return all(holds(constraint, node) for constraint in constraints)


@lru_cache(maxsize=4096)
def _cached(expressions: tuple[str, ...]) -> tuple[Constraint, ...] | None:
    try:
        return parse_all(expressions)
    except ConstraintError:
        return None


def node_fits(expressions: Iterable[str], node: Node) -> bool:
    """Whether `node` fulfils the expressions of a spec that is in the store; unreadable ones fit nowhere."""
    constraints = _cached(tuple(expressions))
    return constraints is not None and matches(constraints, node)
