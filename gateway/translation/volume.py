"""Volumes of this machine in the shape of Docker's API. Pure."""

from __future__ import annotations

from typing import Any

from flota.gateway.translation.words import time_of
from flota.v1.types_pb2 import Volume


def shown(volume: Volume, sizes: bool = False) -> dict[str, Any]:
    """GET /volumes/{name}; with `sizes` as GET /system/df has it."""
    shape: dict[str, Any] = {
        "Name": volume.name,
        "Driver": volume.driver or "local",
        "Mountpoint": volume.mountpoint,
        "CreatedAt": time_of(volume, "created_at"),
        "Labels": dict(volume.labels) or None,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }
    if sizes:
        shape["UsageData"] = {"Size": volume.size_bytes, "RefCount": len(volume.task_ids)}
    return shape
