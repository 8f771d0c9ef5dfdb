"""Images by what people call them: name:tag, name@digest, an id or the beginning of one. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import Image
from flota.v1.types_pb2 import Platform
from flota.worker.images.config import ImageConfig
from flota.worker.images.errors import ImageNotFound
from flota.worker.images.index import Index

_HEX = frozenset("0123456789abcdef")
_ID_DIGITS = 64


@dataclass(frozen=True)
class StoredImage:
    """An image that containers can be made from."""

    # sha256:… of its configuration.
    id: str
    config: ImageConfig
    # Directories in the layer store, lowest first.
    layers: tuple[str, ...]
    # name:tag and name@digest, as people write them.
    references: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """The image somebody means, and by which of its names; None = by its id."""

    image: StoredImage
    name: ImageReference | None


class Catalogue:
    """What an Index holds, ready to be asked. A new one is made for every change."""

    def __init__(self, index: Index, configs: Mapping[str, ImageConfig]) -> None:
        """`configs` has at least the images' configurations, by id."""
        self.index = index
        self._images: dict[str, StoredImage] = {}
        self._by_name: dict[str, str] = {}
        # Whatever it was called where it came from: what a digest names is the same everywhere.
        self._by_digest: dict[str, str] = {}
        for image_id, record in index.images.items():
            names = sorted(record.tags) + sorted(record.digests)
            self._images[image_id] = StoredImage(
                image_id,
                configs[image_id],
                tuple(index.layers[one].directory for one in record.layers),
                tuple(ImageReference.parse(name).familiar for name in names),
            )
            self._by_name.update(dict.fromkeys(names, image_id))
            self._by_digest.update((name.rpartition("@")[2], image_id) for name in record.digests)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._images

    def find(self, text: str) -> Match:
        """The image that is meant. Raises ImageNotFound."""
        try:
            name = ImageReference.parse(text).tagged()
        except ValueError:
            name = None
        if name is not None:
            found = self._by_digest.get(name.digest) if name.digest else self._by_name.get(str(name))
            if found is not None:
                return Match(self._images[found], name)
        return Match(self._images[self._by_id(text)], None)

    def images(self) -> list[Image]:
        """For a list of them."""
        return [self.describe(image_id) for image_id in self._images]

    def describe(self, image_id: str) -> Image:
        """An image as the API has it."""
        image, record = self._images[image_id], self.index.images[image_id]
        return Image(
            id=image_id,
            references=[ImageReference.parse(tag).familiar for tag in sorted(record.tags)],
            digests=[ImageReference.parse(name).familiar for name in sorted(record.digests)],
            created_at=_created(image.config),
            size_bytes=sum(self.index.layers[one].size for one in record.layers),
            platform=Platform(os=image.config.os, architecture=image.config.architecture),
            labels=dict(image.config.labels),
        )

    def _by_id(self, text: str) -> str:
        begin = text.removeprefix("sha256:")
        if begin and len(begin) <= _ID_DIGITS and _HEX.issuperset(begin):
            found = [image_id for image_id in self._images if image_id.startswith(f"sha256:{begin}")]
            if len(found) == 1:
                return found[0]
            if found:
                raise ImageNotFound(f"{text} is the beginning of {len(found)} images' ids: write more of it")
        raise ImageNotFound(f"no such image: {text} (on this node; flota image pull, load or import it)")


def _created(config: ImageConfig) -> Timestamp | None:
    created = Timestamp()
    try:
        created.FromJsonString(config.created)
    except ValueError:
        return None
    return created
