"""What many of Docker's JSON objects have in common."""

from __future__ import annotations

from typing import Any

from flota.gateway.translation.words import nanoseconds_of, time_of
from flota.v1 import types_pb2 as types

Json = dict[str, Any]


def some(**values: Any) -> Json:
    """Only what is not empty; Docker leaves the rest out, too."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {}, ())}


def nanoseconds(message: Any, field: str) -> int | None:
    """A duration of a message; None when it has none."""
    return nanoseconds_of(getattr(message, field)) if message.HasField(field) else None


def head(thing: Any) -> Json:
    """How every stored object begins."""
    return {
        "ID": thing.id,
        "Version": {"Index": thing.meta.version.index},
        "CreatedAt": time_of(thing.meta, "created_at"),
        "UpdatedAt": time_of(thing.meta, "updated_at"),
    }


def named(annotations: types.Annotations) -> Json:
    """How every spec begins."""
    return {"Name": annotations.name, "Labels": dict(annotations.labels)}


def driver(driver: types.Driver) -> Json:
    """A driver with its options."""
    return some(Name=driver.name, Options=dict(driver.options))
