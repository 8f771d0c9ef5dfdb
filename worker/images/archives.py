"""What somebody gave us to load: an OCI layout or what `docker save` writes, in a tar or in a directory.

Reads only: which images there are, what they are called, and where their layers begin. Manifests and configurations
are checked against their digests here; a layer is checked when it is unpacked, against the digest that the
configuration has of it.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flota.v1.image_references import ImageReference
from flota.worker.images.compression import Readable
from flota.worker.images.config import ImageConfig
from flota.worker.images.contents import Contents
from flota.worker.images.errors import BadImage
from flota.worker.images.platforms import MachinePlatform

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST_DOCUMENT = 16 << 20
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_MANY = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_DEEPEST = 4


@dataclass(frozen=True)
class FoundImage:
    """An image that can be stored. `layers` open its layers, compressed or not, lowest first."""

    configuration: bytes
    config: ImageConfig
    layers: tuple[Callable[[], Readable], ...]
    names: tuple[ImageReference, ...] = ()
    # Digests it is known by, its own manifest's last; and that manifest.
    digests: tuple[str, ...] = ()
    manifest: bytes = b""
    # Waits until a layer can be opened, for what is still on its way; None = all can.
    arrival: Callable[[int], Awaitable[None]] | None = None

    @property
    def id(self) -> str:
        """sha256:… of its configuration."""
        return digest_of(self.configuration)


def digest_of(data: bytes) -> str:
    """sha256:…"""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(contents: Contents, platform: MachinePlatform) -> list[FoundImage]:
    """All images for this machine. Raises BadImage."""
    saved = _document(contents, "manifest.json")
    index = _document(contents, "index.json")
    if index is None and saved is None:
        raise BadImage("no image in it: neither index.json (OCI layout) nor manifest.json (docker save)")
    found = _Layout(contents, platform).images(index) if index is not None else []
    named = _saved_images(contents, saved) if saved is not None else []
    if index is None:
        return named
    # Docker's archives are both at once; the full names are in its own file.
    names = {image.id: image.names for image in named}
    return [replace(image, names=tuple(dict.fromkeys(image.names + names.get(image.id, ())))) for image in found]


class Manifest:
    """A manifest of an image, or an index of several. Raises BadImage."""

    def __init__(self, data: bytes, digest: str) -> None:
        self.data = data
        self.digest = digest
        self._document = _parse(data, f"manifest {digest}")

    @property
    def is_index(self) -> bool:
        """Whether it only names others."""
        return self._document.get("mediaType") in _MANY or "manifests" in self._document

    def images(self) -> list[Mapping[str, Any]]:
        """Of an index: its entries."""
        return _descriptors(self._document, self.digest)

    @property
    def config(self) -> str:
        """The digest of the configuration."""
        if "config" not in self._document or "layers" not in self._document:
            kind = self._document.get("mediaType") or "no config and layers in it"
            raise BadImage(f"manifest {self.digest} is of an unknown kind: {kind}")
        return descriptor_digest(self._document["config"])

    @property
    def layers(self) -> list[str]:
        """The digests of the layers as they are stored, lowest first."""
        return [descriptor_digest(one) for one in _list(self._document, "layers", self.digest)]

    @property
    def sizes(self) -> list[int]:
        """Their bytes, as far as it says."""
        layers = _list(self._document, "layers", self.digest)
        return [size if isinstance(size := one.get("size"), int) else 0 for one in layers]


class _Layout:
    """An OCI image layout."""

    def __init__(self, contents: Contents, platform: MachinePlatform) -> None:
        self._contents = contents
        self._platform = platform

    def images(self, index: Any) -> list[FoundImage]:
        """One for each name, or for each entry that has none."""
        found = []
        for names, descriptors in _grouped(_descriptors(index, "index.json")):
            image = self._image(self._choose(descriptors, names), (), 0)
            if image is not None:
                found.append(replace(image, names=names))
        if not found:
            raise BadImage("no image in it: index.json names none")
        return found

    def _image(self, descriptor: Mapping[str, Any], digests: tuple[str, ...], depth: int) -> FoundImage | None:
        digest = descriptor_digest(descriptor)
        data = self._blob(digest)
        digests = (*digests, digest)
        manifest = Manifest(data, digest)
        if manifest.is_index:
            if depth == _DEEPEST:
                raise BadImage("indexes within indexes, without end")
            return self._image(self._choose(manifest.images(), ()), digests, depth + 1)
        configuration = self._blob(manifest.config)
        layers = [_opener(self._contents, _blob_name(one)) for one in manifest.layers]
        return made(configuration, layers, digests=digests, manifest=data)

    def _choose(self, descriptors: Sequence[Mapping[str, Any]], names: Sequence[ImageReference]) -> Mapping[str, Any]:
        """The one for this machine."""
        if len(descriptors) == 1 and not descriptors[0].get("platform"):
            return descriptors[0]
        return choose(descriptors, self._platform, names[0].familiar if names else "the image")

    def _blob(self, digest: str) -> bytes:
        return checked_document(self._contents, _blob_name(digest), digest)


def choose(descriptors: Sequence[Mapping[str, Any]], platform: MachinePlatform, name: str) -> Mapping[str, Any]:
    """The entry of an index that suits `platform` best. Raises BadImage that says what there is."""
    best: tuple[int, Mapping[str, Any]] | None = None
    for descriptor in descriptors:
        preference = platform.preference(descriptor.get("platform") or {"os": "", "architecture": ""})
        if preference is not None and (best is None or preference > best[0]):
            best = preference, descriptor
    if best is None:
        there = sorted({_platform_name(one) for one in descriptors})
        raise BadImage(f"{name} is not for this machine ({platform}) but for {', '.join(there) or 'none'}")
    return best[1]


def checked_document(contents: Contents, name: str, digest: str) -> bytes:
    """A small file that must have this digest. Raises BadImage."""
    data = _file(contents, name)
    if data is None:
        raise BadImage(f"{name} is missing")
    if digest_of(data) != digest:
        raise BadImage(f"{name} is damaged: its digest is {digest_of(data)}")
    return data


def _saved_images(contents: Contents, document: Any) -> list[FoundImage]:
    """What `docker save` writes: one entry for each image."""
    if not isinstance(document, list):
        raise BadImage("manifest.json is no list of images")
    found = []
    for entry in document:
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise BadImage("manifest.json has an image without Config")
        configuration = _file(contents, entry["Config"])
        if configuration is None:
            raise BadImage(f"{entry['Config']} is missing, which manifest.json names")
        layers = _list(entry, "Layers", "manifest.json")
        names = tuple(_name(tag) for tag in entry.get("RepoTags") or ())
        found.append(made(configuration, [_opener(contents, str(one)) for one in layers], names=names))
    return found


def made(
    configuration: bytes,
    layers: Sequence[Callable[[], Readable]],
    *,
    names: tuple[ImageReference, ...] = (),
    digests: tuple[str, ...] = (),
    manifest: bytes = b"",
) -> FoundImage:
    """An image of these parts. Raises BadImage."""
    try:
        config = ImageConfig.parse(configuration)
    except ValueError as error:
        raise BadImage(f"the image's configuration: {error}") from None
    if len(layers) != len(config.diff_ids):
        raise BadImage(f"the image has {len(layers)} layers, its configuration {len(config.diff_ids)}")
    for diff_id in config.diff_ids:
        if not isinstance(diff_id, str) or not _DIGEST.fullmatch(diff_id):
            raise BadImage(f"the image's configuration has the digest {diff_id!r}: sha256:HEX is needed")
    return FoundImage(configuration, config, tuple(layers), names, digests, manifest)


def _opener(contents: Contents, name: str) -> Callable[[], Readable]:
    def open_layer() -> Readable:
        found = contents.open(name)
        if found is None:
            raise BadImage(f"layer {name} is missing")
        return found

    return open_layer


def _grouped(
    descriptors: Sequence[Mapping[str, Any]],
) -> list[tuple[tuple[ImageReference, ...], list[Mapping[str, Any]]]]:
    """Entries of the same name are one image, for several platforms; so are those without a name."""
    groups: dict[tuple[ImageReference, ...], list[Mapping[str, Any]]] = {}
    result = []
    for descriptor in descriptors:
        if _is_attestation(descriptor):
            continue
        names = _annotated_names(descriptor)
        if names or descriptor.get("platform"):
            group = groups.get(names)
            if group is not None:
                group.append(descriptor)
                continue
            groups[names] = group = [descriptor]
        else:
            group = [descriptor]
        result.append((names, group))
    return result


def _annotated_names(descriptor: Mapping[str, Any]) -> tuple[ImageReference, ...]:
    annotations = descriptor.get("annotations") or {}
    for key in _NAMES:
        text = annotations.get(key)
        # The second is a mere tag as often as not, and a tag of what is not said.
        if isinstance(text, str) and (":" in text or "/" in text):
            try:
                return (ImageReference.parse(text).tagged(),)
            except ValueError:
                continue
    return ()


def _is_attestation(descriptor: Mapping[str, Any]) -> bool:
    platform = descriptor.get("platform") or {}
    return "vnd.docker.reference.type" in (descriptor.get("annotations") or {}) or platform.get("os") == "unknown"


def _platform_name(descriptor: Mapping[str, Any]) -> str:
    platform = descriptor.get("platform") or {}
    return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key)) or "unknown"


def _name(text: Any) -> ImageReference:
    try:
        return ImageReference.parse(text).tagged()
    except (ValueError, TypeError) as error:
        raise BadImage(f"invalid image name {text!r} in manifest.json: {error}") from None


def _descriptors(document: Any, where: str) -> list[Mapping[str, Any]]:
    found = [one for one in _list(document, "manifests", where) if isinstance(one, dict)]
    return [one for one in found if not _is_attestation(one)]


def _list(document: Any, key: str, where: str) -> list[Any]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise BadImage(f"{where} has no list of {key}")
    return found


def descriptor_digest(descriptor: Any) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BadImage(f"invalid digest {digest!r}: sha256:HEX is needed")
    return digest


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _document(contents: Contents, name: str) -> Any:
    data = _file(contents, name)
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise BadImage(f"{name} is no JSON: {error}") from None


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadImage(f"{what} is no JSON object")
    return document


def _file(contents: Contents, name: str) -> bytes | None:
    source = contents.open(name)
    if source is None:
        return None
    data = b""
    while len(data) <= _LARGEST_DOCUMENT and (more := source.read(_LARGEST_DOCUMENT)):
        data += more
    if len(data) > _LARGEST_DOCUMENT:
        raise BadImage(f"{name} is larger than {_LARGEST_DOCUMENT >> 20} MiB")
    return data
