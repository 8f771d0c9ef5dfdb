"""Images as others take them: a tar that is an OCI layout and what `docker save` writes at once.

Layers are made again as they came (recipe.py) and checked while they are written. All of it blocks, in a thread.
"""

import asyncio
import json
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flota.rpc.errors import FailedPrecondition
from flota.v1.image_references import ImageReference
from flota.worker.images import recipe
from flota.worker.images.archives import digest_of
from flota.worker.images.index import LayerRecord

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PART = 1 << 20
_PARTS_AHEAD = 4
_BLOCK = 512

Write = Callable[[bytes], None]


@dataclass(frozen=True)
class SavedImage:
    """One to be written. `names` are in full."""

    id: str
    configuration: bytes
    names: tuple[ImageReference, ...]
    layers: tuple[LayerRecord, ...]

    @property
    def manifest(self) -> bytes:
        """Of its layers as they are plain."""
        config = {"mediaType": CONFIG, "digest": self.id, "size": len(self.configuration)}
        layers = [{"mediaType": _LAYER, "digest": one.diff_id, "size": one.tar_size} for one in self.layers]
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        return json.dumps(document).encode()


class Images:
    """Writes images whose layers are in `layers`, with `recipes`."""

    def __init__(self, layers: Path, recipes: Path) -> None:
        self._layers = layers
        self._recipes = recipes

    def check(self, images: Sequence[SavedImage]) -> None:
        """Raises FailedPrecondition if one cannot be written."""
        for image in images:
            for layer in image.layers:
                if not layer.tar_size or not (self._recipes / layer.directory).exists():
                    raise FailedPrecondition(
                        f"image {image.id} was unpacked by an older flota, which kept no way back to its archive: "
                        "pull or load it anew"
                    )

    def archive(self, images: Sequence[SavedImage], write: Write) -> None:
        """All of them as one tar. Raises FailedPrecondition, OSError."""
        self.check(images)
        self._write(images, _Tar(write))
        write(b"\0" * 2 * _BLOCK)

    def layer(self, layer: LayerRecord, write: Write) -> None:
        """The plain tar of one layer. Raises FailedPrecondition, OSError, and what `write` raises."""
        recipe.replay(self._recipes / layer.directory, self._layers / layer.directory, layer.diff_id, write)

    def _write(self, images: Sequence[SavedImage], target: "_Tar") -> None:
        target.put("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        target.put("index.json", _index(images))
        target.put("manifest.json", _docker_manifest(images))
        written: set[str] = set()
        for image in images:
            for digest, data in ((image.id, image.configuration), (digest_of(image.manifest), image.manifest)):
                if digest not in written:
                    written.add(digest)
                    target.put(_blob(digest), data)
            for layer in image.layers:
                if layer.diff_id not in written:
                    written.add(layer.diff_id)
                    target.make(_blob(layer.diff_id), layer.tar_size, lambda write, one=layer: self.layer(one, write))  # type: ignore[misc]


class _Tar:
    def __init__(self, write: Write) -> None:
        self._write = write

    def put(self, name: str, data: bytes) -> None:
        self.make(name, len(data), lambda write: write(data))

    def make(self, name: str, size: int, fill: Callable[[Write], None]) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = size
        self._write(entry.tobuf(tarfile.PAX_FORMAT))
        fill(self._write)
        self._write(b"\0" * (-size % _BLOCK))


def _index(images: Sequence[SavedImage]) -> bytes:
    manifests: list[dict[str, Any]] = []
    for image in images:
        manifest = image.manifest
        entry = {"mediaType": MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
        for name in image.names:
            annotations = {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag,
            }
            manifests.append(entry | {"annotations": annotations})
        if not image.names:
            manifests.append(entry)
    return json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}).encode()


def _docker_manifest(images: Sequence[SavedImage]) -> bytes:
    return json.dumps(
        [
            {
                "Config": _blob(image.id),
                "RepoTags": [name.familiar for name in image.names] or None,
                "Layers": [_blob(layer.diff_id) for layer in image.layers],
            }
            for image in images
        ]
    ).encode()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


class _Gone(Exception):
    """Nobody reads any more."""


async def parts(run: Callable[[Write], None], threads: Executor) -> AsyncIterator[bytes]:
    """What `run` writes in a thread, in parts of about a megabyte; the thread waits for whoever reads.

    Raises what `run` does.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(_PARTS_AHEAD)
    gone = threading.Event()
    waiting = bytearray()

    def put(data: bytes) -> None:
        if gone.is_set():
            raise _Gone
        asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()

    def write(data: bytes) -> None:
        waiting.extend(data)
        while len(waiting) >= _PART:
            put(bytes(waiting[:_PART]))
            del waiting[:_PART]

    def all_of_it() -> None:
        try:
            run(write)
            if waiting:
                put(bytes(waiting))
        finally:
            # The end; whoever is gone does not need it.
            with suppress(_Gone):
                put(b"")

    running = loop.run_in_executor(threads, all_of_it)
    try:
        while part := await queue.get():
            yield part
        await running
    finally:
        gone.set()
        while not running.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await queue.get()
        # Raised above, or nobody reads any longer: it is only taken, so that asyncio does not complain.
        running.exception()
