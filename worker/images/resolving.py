"""What a registry has under a name: its digest and the platforms it exists for, without a layer being fetched."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import ResolveImageResponse
from flota.v1.types_pb2 import Platform
from flota.worker.images.archives import Manifest, digest_of
from flota.worker.images.errors import BadImage
from flota.worker.images.registry.client import Registries

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
# What builders give to attestations, which are no images.
_UNKNOWN = "unknown"


async def resolve(registries: Registries, name: ImageReference, auth: str) -> ResolveImageResponse:
    """Ask the registry. Raises ImageNotFound, BadImage, InvalidArgument (auth), PullRefused, RegistryUnavailable."""
    asked = replace(name, tag="") if name.digest else name
    async with registries.repository(name, auth) as repository:
        data = await repository.manifest(asked)
        manifest = Manifest(data, digest_of(data))
        if name.digest and manifest.digest != name.digest:
            raise BadImage(f"{name.familiar} is damaged: the digest of what the registry has is {manifest.digest}")
        if manifest.is_index:
            platforms = _platforms(one.get("platform") for one in manifest.images())
        else:
            configuration = await repository.configuration(manifest.config)
            if digest_of(configuration) != manifest.config:
                raise BadImage(f"{name.familiar} is damaged: its configuration's digest is {digest_of(configuration)}")
            platforms = _platforms([_document(configuration, name)])
    kind = json.loads(data).get("mediaType") or (_INDEX if manifest.is_index else _MANIFEST)
    return ResolveImageResponse(digest=manifest.digest, media_type=kind, size_bytes=len(data), platforms=platforms)


def _document(data: bytes, name: ImageReference) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise BadImage(f"{name.familiar} is damaged: its configuration is no JSON") from None


def _platforms(described: Iterable[Any]) -> list[Platform]:
    found = []
    for one in described:
        if isinstance(one, Mapping) and one.get("os") and one.get("os") != _UNKNOWN:
            found.append(Platform(os=str(one["os"]), architecture=str(one.get("architecture", ""))))
    return found
