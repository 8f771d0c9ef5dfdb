"""What is in the image store: images, their names and layers, as one small file says it (STATE/images/index.json).

Every change is a new Index; the file follows it whole. Only what the file names is in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from flota.worker.images.files import write_durably

_VERSION = 1


@dataclass(frozen=True)
class LayerRecord:
    """An unpacked layer. It is called by its chain id: what is in a layer depends on those below it."""

    # In the layers' directory.
    directory: str
    # sha256:… of its plain tar.
    diff_id: str
    # Bytes of its files.
    size: int
    # The boot of this machine in which it was unpacked, as long as it may not be on the disk yet; then empty.
    boot: str = ""
    # Bytes of its plain tar, which recipes/DIRECTORY says how to make again; 0 = nobody knows how.
    tar_size: int = 0


@dataclass(frozen=True)
class ImageRecord:
    """An image. Names are in full."""

    # name:tag
    tags: frozenset[str] = frozenset()
    # name@sha256:…, of its manifest and of the indexes it was in.
    digests: frozenset[str] = frozenset()
    # Digest of its manifest, if there was one.
    manifest: str = ""
    # Chain ids, lowest first.
    layers: tuple[str, ...] = ()
    # It was removed while a task used it: it goes with that task.
    removed: bool = False
    # It came from a registry, which may be asked for it again.
    pulled: bool = False
    # When it came or a task last needed it, in seconds since 1970.
    used: float = 0.0


@dataclass(frozen=True)
class Index:
    """Images by id (sha256:… of the configuration), layers by chain id."""

    images: Mapping[str, ImageRecord] = field(default_factory=dict)
    layers: Mapping[str, LayerRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Index:
        """Empty when there is no such file. Raises ValueError when it is not one of ours."""
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        try:
            if document["version"] != _VERSION:
                raise ValueError(f"{path} is of version {document['version']}, this flota reads {_VERSION}")
            images = {
                image_id: ImageRecord(
                    tags=frozenset(one["tags"]),
                    digests=frozenset(one["digests"]),
                    manifest=one["manifest"],
                    layers=tuple(one["layers"]),
                    removed=one["removed"],
                    pulled=one.get("pulled", False),
                    used=one.get("used", 0.0),
                )
                for image_id, one in document["images"].items()
            }
            return cls(images, {chain_id: LayerRecord(**one) for chain_id, one in document["layers"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from None

    def write(self, path: Path) -> None:
        """Raises OSError."""
        images = {
            image_id: {**asdict(one), "tags": sorted(one.tags), "digests": sorted(one.digests)}
            for image_id, one in self.images.items()
        }
        layers = {chain_id: asdict(one) for chain_id, one in self.layers.items()}
        document = {"version": _VERSION, "images": images, "layers": layers}
        write_durably(path, json.dumps(document, indent=1).encode())

    def with_image(self, image_id: str, image: ImageRecord, layers: Mapping[str, LayerRecord]) -> Index:
        """The image added to what is known of it; its tags are taken from other images."""
        known = self.images.get(image_id, ImageRecord())
        images = {
            other_id: replace(other, tags=other.tags - image.tags) if other.tags & image.tags else other
            for other_id, other in self.images.items()
        }
        images[image_id] = replace(
            known,
            tags=known.tags | image.tags,
            digests=known.digests | image.digests,
            manifest=image.manifest or known.manifest,
            layers=image.layers,
            removed=False,
            pulled=image.pulled or known.pulled,
            used=max(image.used, known.used),
        )
        return Index(images, {**self.layers, **layers})

    def with_record(self, image_id: str, image: ImageRecord) -> Index:
        """With this in the place of what was known of an image."""
        return replace(self, images={**self.images, image_id: image})

    def without(self, image_ids: Iterable[str]) -> Index:
        """Without these images and the layers that no other has."""
        gone = set(image_ids)
        images = {image_id: one for image_id, one in self.images.items() if image_id not in gone}
        used = {chain_id for one in images.values() for chain_id in one.layers}
        return Index(images, {chain_id: one for chain_id, one in self.layers.items() if chain_id in used})

    def on_disk(self, chain_ids: Iterable[str]) -> Index:
        """With these layers as being on the disk, those of them that are still there."""
        found = {chain_id: replace(self.layers[chain_id], boot="") for chain_id in chain_ids if chain_id in self.layers}
        return replace(self, layers={**self.layers, **found})

    def with_uses(self, used: Mapping[str, float]) -> Index:
        """With images used at these times."""
        later = {one: at for one, at in used.items() if one in self.images and at > self.images[one].used}
        return replace(
            self, images={**self.images, **{one: replace(self.images[one], used=later[one]) for one in later}}
        )

    def blobs(self) -> set[str]:
        """Digests of all manifests and configurations."""
        return {*self.images, *(one.manifest for one in self.images.values() if one.manifest)}
