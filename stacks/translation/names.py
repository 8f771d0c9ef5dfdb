"""What things of a stack are called, and how they are known as its: Docker's conventions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flota.stacks.compose.tree import Spot
from flota.stacks.errors import BadValue

NAMESPACE = "com.docker.stack.namespace"
IMAGE = "com.docker.stack.image"

_STACK = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_SERVICE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_LONGEST_SERVICE = 63
_LONGEST_OTHER = 64


def check_stack_name(name: str) -> str:
    """`name`, if it can begin a service's name. Raises BadValue."""
    if not _STACK.fullmatch(name) or len(name) > _LONGEST_SERVICE - 2:
        raise BadValue(
            name,
            f"letters, digits, '-' and '_' are needed, at most {_LONGEST_SERVICE - 2}, "
            "beginning and ending with a letter or digit",
        )
    return name


def scoped(stack: str, name: str) -> str:
    """STACK_name"""
    return f"{stack}_{name}"


def service_name(stack: str, name: str, spot: Spot) -> str:
    """The name of a service in the cluster. Raises ComposeError when it would not be one."""
    full = scoped(stack, name)
    if not _SERVICE.fullmatch(name):
        spot.fail(
            f"{name!r} cannot be a service's name in a swarm: letters, digits, '-' and '_' are allowed, "
            "beginning and ending with a letter or digit (it is a name in DNS)"
        )
    if len(full) > _LONGEST_SERVICE:
        spot.fail(f"its name in the swarm, {full}, has {len(full)} characters; at most {_LONGEST_SERVICE} are allowed")
    return full


def object_name(stack: str, name: str, entry: Mapping[str, object], spot: Spot) -> str:
    """The name of a network, volume, secret or config in the cluster. Raises ComposeError."""
    own = entry.get("name")
    if own == "":
        spot.fail("name: is empty")
    full = str(own or (name if entry.get("external") else scoped(stack, name)))
    if len(full) > _LONGEST_OTHER and not entry.get("external"):
        spot.fail(f"its name in the swarm, {full}, has {len(full)} characters; at most {_LONGEST_OTHER} are allowed")
    return full


def labels(stack: str, own: Mapping[str, str] | None) -> dict[str, str]:
    """A thing's own labels, and the one that says whose it is."""
    return {**(own or {}), NAMESPACE: stack}
