"""Images in the shape of Docker's API. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

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


def matches(image: Image, patterns: Sequence[str]) -> bool:
    """Whether one of its names fits one of the patterns (with * and ?), with or without its tag."""
    if not patterns:
        return True
    names = [name for reference in image.references for name in (reference, reference.rpartition(":")[0])]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def progress(line: str) -> Json:
    """A line about a pull, the layer's name apart, as Docker's clients draw it."""
    layer = _LAYER.fullmatch(line)
    return {"status": layer[2], "progressDetail": {}, "id": layer[1]} if layer else {"status": line}
