"""A root file system and a few instructions become an image of one layer."""

import hashlib
import json
from datetime import UTC, datetime
from typing import BinaryIO

from flota.rpc.errors import InvalidArgument
from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import ImportImageRequest
from flota.worker.images import changes
from flota.worker.images.archives import FoundImage
from flota.worker.images.config import ImageConfig
from flota.worker.images.contents import Extent
from flota.worker.images.platforms import MachinePlatform

_CHUNK = 1 << 20


class Import:
    """What was asked for, checked before any data is taken."""

    def __init__(self, options: ImportImageRequest.Options, platform: MachinePlatform) -> None:
        """Raises InvalidArgument."""
        self._names = (name_of(options.reference),) if options.reference else ()
        self._config = changes.apply(options.changes)
        self._os = options.platform.os or platform.os
        self._architecture = options.platform.architecture or platform.architecture

    def image(self, file: BinaryIO) -> FoundImage:
        """The image with the plain tar `file` as its layer. Blocks."""
        diff_id = f"sha256:{digest_of_tar(file)}"
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        document = {
            "architecture": self._architecture,
            "os": self._os,
            "created": now,
            "config": self._config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": now, "comment": "imported by flota"}],
        }
        configuration = json.dumps(document).encode()
        return FoundImage(configuration, ImageConfig.parse(configuration), (lambda: Extent(file),), self._names)


def name_of(text: str) -> ImageReference:
    """What a new image is to be called. Raises InvalidArgument."""
    try:
        name = ImageReference.parse(text).tagged()
    except ValueError as error:
        raise InvalidArgument.of("reference", text, str(error)) from None
    if name.digest:
        raise InvalidArgument.of("reference", text, "a digest cannot be chosen: NAME[:TAG]")
    return name


def digest_of_tar(file: BinaryIO) -> str:
    """Its SHA-256, as hexadecimal digits. Blocks."""
    digest = hashlib.sha256()
    source = Extent(file)
    while part := source.read(_CHUNK):
        digest.update(part)
    return digest.hexdigest()
