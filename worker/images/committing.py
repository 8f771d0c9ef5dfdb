"""What a container wrote becomes one more layer on top of its image: a new image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, NoReturn

from flota.rpc.errors import Internal, InvalidArgument
from flota.worker.images import changes
from flota.worker.images.archives import FoundImage
from flota.worker.images.config import ImageConfig
from flota.worker.images.contents import Extent
from flota.worker.images.importing import digest_of_tar, name_of


@dataclass(frozen=True)
class CommitOptions:
    """What people say of the new image. `config` is as JSON what `changes` are applied to; empty: the old image's."""

    reference: str = ""
    comment: str = ""
    author: str = ""
    changes: Sequence[str] = ()
    config: bytes = b""
    # What ran in the container.
    command: str = ""


class Commit:
    """What was asked for, checked before any data is taken."""

    def __init__(self, options: CommitOptions, configuration: bytes) -> None:
        """`configuration` is the old image's. Raises InvalidArgument."""
        self._options = options
        self._names = (name_of(options.reference),) if options.reference else ()
        self._document: dict[str, Any] = json.loads(configuration)
        config = _object(options.config) if options.config else self._document.get("config") or {}
        self._config = changes.apply(options.changes, config)

    def image(self, file: BinaryIO) -> FoundImage:
        """The image with the plain tar `file` as its highest layer. Blocks."""
        document, options = self._document, self._options
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        below = list((document.get("rootfs") or {}).get("diff_ids") or ())
        step = {"created": now, "created_by": options.command, "author": options.author, "comment": options.comment}
        document |= {
            "created": now,
            "author": options.author,
            "comment": options.comment,
            "config": self._config,
            "rootfs": {"type": "layers", "diff_ids": [*below, f"sha256:{digest_of_tar(file)}"]},
            "history": [*(document.get("history") or ()), {key: value for key, value in step.items() if value}],
        }
        encoded = json.dumps(document).encode()
        # Those below are here: the container stands on them.
        layers = (*(_missing for _ in below), lambda: Extent(file))
        return FoundImage(encoded, ImageConfig.parse(encoded), layers, self._names)


def _missing() -> NoReturn:
    raise Internal("a layer of the container's image is not on this node any longer")


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid config: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgument("invalid config: a JSON object is needed")
    return found
