"""Pushing: an image of this node to the registry that its name leads to.

    layers, some at a time: there already, or mounted; else made again, compressed, sent ──► configuration ──► manifest

Only unpacked layers are kept, so what a layer is called at a registry is known only of images that came from one, or
were pushed to one: their manifests say it (`Origin`). Such a layer is not made again when the registry has it. If it
has all of them, it gets the very manifest the image came with, and the image keeps its digest.
"""

import asyncio
import hashlib
import json
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flota.v1.image_references import ImageReference
from flota.worker.images.archives import digest_of
from flota.worker.images.index import Index, LayerRecord
from flota.worker.images.pull import Say, Word
from flota.worker.images.registry.client import Registries
from flota.worker.images.saving import CONFIG, MANIFEST, Images, SavedImage
from flota.worker.runtime.processes import to_the_end

if TYPE_CHECKING:
    from flota.worker.images.registry.pushing import Destination

# Layers that are made and sent at once.
_AT_ONCE = 3
# Repositories from which layers may be mounted: their names go with every question for a token.
_MOST_SOURCES = 5
# Of gzip, which every engine reads: 6 takes twice as long for 4 % less.
_LEVEL = 4
_GZIP = 31
_SHORT = 12
_MEGABYTE = 1_000_000
# Seconds between words about how much has gone out.
_TELL_EVERY = 1.0
# Docker's names of layers, as OCI's manifests have them.
_KINDS = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Origin:
    """An image that a registry has: `repositories` are HOST/PATH, `diff_ids` its layers', lowest first."""

    id: str
    manifest: bytes
    diff_ids: tuple[str, ...]
    repositories: frozenset[str]


@dataclass(frozen=True)
class _Stored:
    """A layer as registries store it."""

    digest: str
    size: int
    kind: str
    # Where it is: paths at the registry that is pushed to.
    paths: frozenset[str] = frozenset()

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.kind, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Pushed:
    """The manifest that a registry has got."""

    digest: str
    manifest: bytes


class _GivenUp(Exception):
    """Nobody needs it any longer."""


class Pusher:
    """What is made on the way is in `incoming`; what takes long is done in `threads`."""

    def __init__(self, registries: Registries, images: Images, incoming: Path, threads: Executor) -> None:
        self._registries = registries
        self._images = images
        self._incoming = incoming
        self._threads = threads

    async def push(
        self, image: SavedImage, name: ImageReference, auth: str, origins: Sequence[Origin], say: Say
    ) -> Pushed:
        """Raises FailedPrecondition, InvalidArgument (auth), PullRefused, RegistryUnavailable, Unavailable, OSError."""
        self._images.check([image])
        known = stored_layers(image, name.host, origins)
        sources = sorted({path for found in known.values() for one in found for path in one.paths} - {name.path})
        place = Path(tempfile.mkdtemp(dir=self._incoming, prefix="push-"))
        try:
            async with self._registries.destination(name, auth, sources[:_MOST_SOURCES]) as there:
                say(Word(f"Pushing to {name.familiar_name}"))
                push = _Push(self._images, self._threads, there, place, say)
                stored = await push.layers(image.layers, known, sources[:_MOST_SOURCES])
                await push.configuration(image)
                kind, manifest = _manifest(image, stored, origins)
                await there.manifest(name.tag, kind, manifest)
        finally:
            await to_the_end(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))
        pushed = Pushed(digest_of(manifest), manifest)
        say(Word(f"{name.tag}: digest: {pushed.digest}"))
        return pushed


class _Push:
    """One that is under way."""

    def __init__(self, images: Images, threads: Executor, there: "Destination", place: Path, say: Say) -> None:
        self._images = images
        self._threads = threads
        self._there = there
        self._place = place
        self._say = say
        self._gone = threading.Event()
        # Bytes of what is sent, and how much of each has gone out.
        self._sizes: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._told_at = 0.0

    async def layers(
        self, layers: Collection[LayerRecord], known: dict[str, list[_Stored]], sources: Collection[str]
    ) -> list[_Stored]:
        """Have them all there; as what they are there."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(layer: LayerRecord) -> _Stored:
            async with places:
                return await self._layer(layer, known.get(layer.diff_id, []), sources)

        try:
            async with asyncio.TaskGroup() as group:
                # An image may have a layer twice.
                tasks = {layer.diff_id: layer for layer in layers}
                working = {diff_id: group.create_task(one(layer)) for diff_id, layer in tasks.items()}
        except BaseExceptionGroup as errors:
            # What fails first is the reason; the rest was cancelled.
            raise errors.exceptions[0] from None
        return [working[layer.diff_id].result() for layer in layers]

    async def configuration(self, image: SavedImage) -> None:
        """Have it there."""
        if not await self._there.has(image.id):
            blob = _blob(image.id, len(image.configuration), image.configuration)
            await self._there.send(blob, lambda size, words: None)

    async def _layer(self, layer: LayerRecord, known: Sequence[_Stored], sources: Collection[str]) -> _Stored:
        short = _short(layer.diff_id)
        for one in known:
            if await self._there.has(one.digest):
                self._say(Word(f"{short}: Layer already exists"))
                return one
            for path in one.paths & set(sources):
                if await self._there.mount(one.digest, path):
                    self._say(Word(f"{short}: Mounted from {path}"))
                    return one
        self._say(Word(f"{short}: Preparing"))
        made = await self._packed(layer)
        file = self._place / layer.directory
        if await self._there.has(made.digest):
            self._say(Word(f"{short}: Layer already exists"))
        else:
            self._sizes[short] = made.size
            await self._there.send(_blob(made.digest, made.size, file), partial(self._note, short))
            self._say(Word(f"{short}: Pushed"))
        file.unlink()
        return made

    async def _packed(self, layer: LayerRecord) -> _Stored:
        """A layer made again and compressed, in a file of its directory's name."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._pack, layer)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._gone.set()
            await to_the_end(_over(work))
            raise

    def _pack(self, layer: LayerRecord) -> _Stored:
        """The same bytes each time, on one machine: what is there already is not sent again."""
        digest, packing = hashlib.sha256(), zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        size = 0
        with (self._place / layer.directory).open("wb") as file:

            def put(data: bytes) -> None:
                nonlocal size
                digest.update(data)
                size += len(data)
                file.write(data)

            def write(data: bytes) -> None:
                if self._gone.is_set():
                    raise _GivenUp
                put(packing.compress(data))

            self._images.layer(layer, write)
            put(packing.flush())
        return _Stored(f"sha256:{digest.hexdigest()}", size, _LAYER)

    def _note(self, short: str, size: int, words: str) -> None:
        self._sent[short] = size
        if words:
            self._say(Word(f"{short}: {words}"))
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            sent, total = sum(self._sent.values()), sum(self._sizes.values())
            self._say(Word(f"Pushing {sent / _MEGABYTE:.1f} MB of {total / _MEGABYTE:.1f} MB", sent, total))


def origins(index: Index, manifest: Callable[[str], bytes], image: SavedImage) -> list[Origin]:
    """Images that have layers of this one, and that a registry has. `manifest` reads one; blocks."""
    wanted = {layer.diff_id for layer in image.layers}
    found = []
    for image_id, record in index.images.items():
        diff_ids = tuple(index.layers[chain_id].diff_id for chain_id in record.layers)
        # What an archive says of its layers' names nobody has checked.
        if record.pulled and record.manifest and wanted.intersection(diff_ids):
            repositories = frozenset(one.partition("@")[0] for one in record.digests)
            if data := manifest(record.manifest):
                found.append(Origin(image_id, data, diff_ids, repositories))
    return found


def stored_layers(image: SavedImage, host: str, origins: Sequence[Origin]) -> dict[str, list[_Stored]]:
    """By diff id, what registries call the layers of an image, as far as it is known; what it came with first."""
    wanted = {layer.diff_id for layer in image.layers}
    found: dict[str, dict[str, _Stored]] = {}
    for origin in sorted(origins, key=lambda one: one.id != image.id):
        paths = frozenset(path for at, _, path in (one.partition("/") for one in origin.repositories) if at == host)
        described = json.loads(origin.manifest).get("layers", [])
        if len(described) != len(origin.diff_ids):
            continue
        for diff_id, one in zip(origin.diff_ids, described, strict=True):
            if diff_id in wanted and one.get("size") and one.get("mediaType"):
                kind = _KINDS.get(one["mediaType"], one["mediaType"])
                before = found.setdefault(diff_id, {}).get(one["digest"])
                paths_of_it = paths | (before.paths if before is not None else frozenset())
                found[diff_id][one["digest"]] = _Stored(one["digest"], one["size"], kind, paths_of_it)
    return {diff_id: list(several.values()) for diff_id, several in found.items()}


def _manifest(image: SavedImage, stored: Sequence[_Stored], origins: Sequence[Origin]) -> tuple[str, bytes]:
    """What it is, and the manifest: what the image came with, if its layers are there as that says."""
    for origin in origins:
        document = json.loads(origin.manifest)
        digests = [one["digest"] for one in document.get("layers", [])]
        if origin.id == image.id and digests == [one.digest for one in stored]:
            return document.get("mediaType") or MANIFEST, origin.manifest
    config = {"mediaType": CONFIG, "digest": image.id, "size": len(image.configuration)}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [one.descriptor for one in stored],
    }
    return MANIFEST, json.dumps(document).encode()


def _blob(digest: str, size: int, content: Path | bytes) -> Any:
    from flota.worker.images.registry.pushing import Blob

    if isinstance(content, bytes):
        return Blob(digest, size, lambda: BytesIO(content))
    return Blob(digest, size, lambda: content.open("rb"))


async def _over(work: "asyncio.Future[Any]") -> None:
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # seen


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]
