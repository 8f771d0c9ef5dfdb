"""Images in the shape of Docker's API. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

from flota.gateway.translation.words import parse_time
from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import Image

Json = dict[str, Any]
_LAYER = re.compile(r"([0-9a-f]{12}): (.+)")


def familiar(reference: str) -> str:
    """A name as people write it."""
    try:
        return ImageReference.parse(reference).familiar
    except ValueError:
        return reference


def listed(image: Image) -> Json:
    """One of GET /images/json"""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.references) or ([] if image.digests else ["<none>:<none>"]),
        "RepoDigests": list(image.digests),
        "Created": image.created_at.seconds,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "SharedSize": -1,
        "Labels": dict(image.labels) or None,
        "Containers": -1,
    }


def inspected(image: Image, configuration: Json) -> Json:
    """GET /images/{name}/json"""
    platform = image.platform
    return {
        "Id": image.id,
        "RepoTags": list(image.references),
        "RepoDigests": list(image.digests),
        "Parent": "",
        "Comment": configuration.get("comment", ""),
        "Created": configuration.get("created"),
        "Author": configuration.get("author", ""),
        "DockerVersion": "",
        "Config": configuration.get("config") or {},
        # Gone since 1.45, but docker-compose 1 makes no container anew without it.
        "ContainerConfig": configuration.get("config") or {},
        "Architecture": platform.architecture,
        "Os": platform.os,
        "Size": image.size_bytes,
        "VirtualSize": image.size_bytes,
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "RootFS": {"Type": "layers", "Layers": (configuration.get("rootfs") or {}).get("diff_ids", [])},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def history(image: Image, configuration: Json, layers: Sequence[int]) -> list[Json]:
    """GET /images/{name}/history. `layers` are the sizes of its layers, lowest first."""
    # From the top: what is below may have come without a history.
    sizes = reversed(layers)
    steps = [
        {
            "Id": "<missing>",
            "Created": _seconds(step.get("created", "")),
            "CreatedBy": step.get("created_by", ""),
            "Tags": None,
            "Size": 0 if step.get("empty_layer") else next(sizes, 0),
            "Comment": step.get("comment", ""),
        }
        for step in reversed(configuration.get("history") or [])
    ]
    if steps:
        steps[0] |= {"Id": image.id, "Tags": list(image.references) or None}
    return steps


def _seconds(text: str) -> int:
    try:
        return parse_time(text).seconds
    except ValueError:
        return 0


def matches(image: Image, patterns: Sequence[str]) -> bool:
    """Whether one of its names fits one of the patterns (with * and ?), with or without its tag."""
    if not patterns:
        return True
    names = [name for reference in image.references for name in (reference, reference.rpartition(":")[0])]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def progress(line: str, current: int = 0, total: int = 0, doing: str = "Downloading") -> Json:
    """A line about a pull or push, the layer's name apart or with how much has come, as Docker's clients draw it."""
    if total > 0:
        return {"status": doing, "progressDetail": {"current": current, "total": total}, "id": "layers"}
    layer = _LAYER.fullmatch(line)
    return {"status": layer[2], "progressDetail": {}, "id": layer[1]} if layer else {"status": line}
