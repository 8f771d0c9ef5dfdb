"""Layers and archives of images, made the way Docker, skopeo and others make them."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import zstandard

from flota.worker.images.platforms import MachinePlatform

HERE = MachinePlatform.here()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_KINDS = {"": LAYER, "gzip": f"{LAYER}+gzip", "zstd": f"{LAYER}+zstd"}

_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    # The same every time.
    "gzip": partial(gzip.compress, compresslevel=6, mtime=0),
    "zstd": zstandard.ZstdCompressor().compress,
}


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A tar's entry; by itself a file of mode 644, a directory of mode 755."""
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def directory(name: str, **fields: Any) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, **fields)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    return entry(name, kind, linkname=target)


Entries = Iterable[tarfile.TarInfo | tuple[str | tarfile.TarInfo, bytes]]


def tar(entries: Entries, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of entries; a pair is a file with its content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for one in entries:
            if isinstance(one, tarfile.TarInfo):
                archive.addfile(one)
            else:
                info = entry(one[0]) if isinstance(one[0], str) else one[0]
                info.size = len(one[1])
                archive.addfile(info, io.BytesIO(one[1]))
    return buffer.getvalue()


@dataclass
class MadeImage:
    """An image of these plain layers."""

    layers: Sequence[bytes]
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = HERE.architecture
    # How its layers are stored in an OCI layout: "", gzip or zstd.
    compression: str = ""

    @property
    def configuration(self) -> bytes:
        return json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "created": "2026-01-02T03:04:05.678Z",
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in self.layers]},
            }
        ).encode()

    @property
    def id(self) -> str:
        return sha256(self.configuration)

    @cached_property
    def stored(self) -> list[bytes]:
        """The layers as they are in the layout."""
        return [_COMPRESS[self.compression](layer) for layer in self.layers]

    @property
    def manifest(self) -> bytes:
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": self.id, "size": len(self.configuration)},
                "layers": [
                    {"mediaType": _KINDS[self.compression], "digest": sha256(layer), "size": len(layer)}
                    for layer in self.stored
                ],
            }
        ).encode()

    @property
    def digest(self) -> str:
        """Of its manifest."""
        return sha256(self.manifest)

    def descriptor(self, name: str = "", platform: bool = False) -> dict[str, Any]:
        """An index's entry for it."""
        made: dict[str, Any] = {"mediaType": MANIFEST, "digest": self.digest, "size": len(self.manifest)}
        if name:
            made["annotations"] = {"org.opencontainers.image.ref.name": name}
        if platform:
            made["platform"] = {"os": "linux", "architecture": self.architecture}
        return made

    def blobs(self) -> list[bytes]:
        return [self.configuration, self.manifest, *self.stored]


def docker_save(images: Iterable[tuple[MadeImage, Sequence[str]]]) -> bytes:
    """What `docker save` wrote before it wrote OCI layouts: images with their names."""
    files: dict[str, bytes] = {}
    manifest = []
    for image, names in images:
        config = f"{image.id.removeprefix('sha256:')}.json"
        layers = [f"{sha256(layer).removeprefix('sha256:')}/layer.tar" for layer in image.layers]
        files |= {config: image.configuration, **dict(zip(layers, image.layers, strict=True))}
        manifest.append({"Config": config, "RepoTags": list(names) or None, "Layers": layers})
    return tar([*files.items(), ("manifest.json", json.dumps(manifest).encode())])


def layout(descriptors: Sequence[Mapping[str, Any]], blobs: Iterable[bytes]) -> bytes:
    """An OCI layout in a tar."""
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}).encode()
    files = {f"blobs/{sha256(blob).replace(':', '/')}": blob for blob in blobs}
    return tar([("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'), ("index.json", index), *files.items()])


async def parts(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """As it comes over the wire."""
    for at in range(0, len(data), size):
        yield data[at : at + size]
