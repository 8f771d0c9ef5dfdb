"""ImageStore: the images of one node, as they are found, pulled, loaded, imported and removed.

    STATE/images/index.json    what there is, and what it is called
                /blobs         manifests and configurations
                /layers        what overlayfs mounts (layers.py)

The index is in memory, and every change of it is on the disk before anybody is told. What blocks is done in threads.
What a crash of the machine may have damaged is looked at once, at the next start.
"""

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import structlog

from flota.rpc.errors import Internal, ResourceExhausted
from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import Image, ImportImageRequest, RemoveImageResponse
from flota.worker.images import archives, removal
from flota.worker.images.archives import FoundImage
from flota.worker.images.catalogue import Catalogue, StoredImage
from flota.worker.images.compression import Damaged
from flota.worker.images.config import ImageConfig
from flota.worker.images.contents import TarContents
from flota.worker.images.errors import BadImage, ImageNotFound, RegistryUnreachable
from flota.worker.images.files import Blobs
from flota.worker.images.importing import Import
from flota.worker.images.index import ImageRecord, Index
from flota.worker.images.layers import Layers
from flota.worker.images.metrics import BYTES, IMAGES
from flota.worker.images.platforms import MachinePlatform
from flota.worker.images.pull import Puller, Say
from flota.worker.images.receiving import make_plain, receive
from flota.worker.images.skopeo import Skopeo
from flota.worker.images.unpack import FULL
from flota.worker.runtime.processes import to_the_end

_log = structlog.get_logger("images")
_THREADS = 4
PULL_LIMIT = 60.0
# The kernel writes what is new to the disk within 30 s or so by itself; asked earlier, everybody would wait for it.
_SETTLE_AFTER = 45.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

P = ParamSpec("P")
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


class ImageStore:
    """The images of this node. One instance per worker; all methods on the event loop."""

    def __init__(
        self, directory: Path, *, insecure_registries: Collection[str] = (), pull_limit: float = PULL_LIMIT
    ) -> None:
        """`directory` is STATE/images; `pull_limit` are seconds without a byte, after which a registry is given up."""
        self._directory = directory.absolute()
        self._path = self._directory / "index.json"
        self._blobs = Blobs(self._directory / "blobs")
        self._threads = ThreadPoolExecutor(_THREADS, "images")
        self._catalogue = Catalogue(Index(), {})
        self._configs: dict[str, ImageConfig] = {}
        self._layers = Layers(self._directory, self._threads, lambda: self._catalogue.index.layers)
        self._platform = MachinePlatform.here()
        skopeo = Skopeo(insecure_registries, pull_limit)
        self._puller = Puller(skopeo, self._layers, self._platform, self._layers.incoming, self._pulled)
        self._users: dict[str, str] = {}
        # One change of the index after the other.
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: asyncio.TimerHandle | None = None

    @property
    def layers_directory(self) -> Path:
        """Where the directories are that StoredImage.layers names."""
        return self._layers.directory

    async def start(self) -> None:
        """Read what there is. Raises OSError, ValueError (the index is damaged: no layer is touched then)."""
        await self._in_thread(self._open)
        self._layers.start()
        self._settle_later()

    async def stop(self) -> None:
        """Loads and pulls in progress end with Unavailable."""
        if self._settling is not None:
            self._settling.cancel()
        await self._puller.stop()
        await self._layers.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    # What is there.

    async def find(self, reference: str) -> StoredImage:
        """name[:tag], name@sha256:…, an id or the beginning of one. Raises ImageNotFound."""
        return self._catalogue.find(reference).image

    async def provide(self, reference: str, auth: str = "") -> StoredImage:
        """What a task needs: the image that is here, and only if there is none, the registry's.

        Raises what `pull` does.
        """
        try:
            return self._catalogue.find(reference).image
        except ImageNotFound:
            try:
                return await self.pull(reference, auth)
            except RegistryUnreachable as error:
                # Where there is no registry images are loaded, and what was not is missing.
                raise ImageNotFound(f"no such image: {reference} (on this node, and {error})") from None

    async def pull(self, reference: str, auth: str = "", say: Say = lambda _: None) -> StoredImage:
        """The image of that name at its registry; a digest that is here is not asked for.

        `auth` is Docker's X-Registry-Auth, `say` gets lines for people. Raises ImageNotFound, BadImage,
        InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted.
        """
        name = _name(reference)
        if name.digest:
            with suppress(ImageNotFound):
                return self._catalogue.find(str(name)).image
        with _said_in_words():
            image_id = await self._puller.pull(name, auth, say)
        return self._catalogue.find(image_id).image

    def images(self) -> list[Image]:
        """All of them."""
        return self._catalogue.images()

    def describe(self, image_id: str) -> Image:
        """One of them. Raises ImageNotFound."""
        return self._catalogue.describe(self._catalogue.find(image_id).image.id)

    def __len__(self) -> int:
        return len(self._catalogue)

    def hold(self, user: str, image_id: str) -> None:
        """The task `user` needs the image: it is not removed."""
        self._users[user] = image_id

    def release(self, user: str) -> None:
        """The task needs no image any longer. One that was to go with it goes."""
        image_id = self._users.pop(user, "")
        record = self._catalogue.index.images.get(image_id)
        if record is not None and record.removed and not self._users_of(image_id):
            task = asyncio.create_task(self._remove_unused(image_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # What comes and goes.

    async def load(self, data: AsyncIterator[bytes]) -> list[Image]:
        """All images for this machine in a tar of an OCI layout or of `docker save`, plain or compressed.

        Raises BadImage, ResourceExhausted, Unavailable (the worker stops).
        """
        with _said_in_words():
            file = await receive(data, self._layers.incoming, self._threads)
            # Threads cannot be interrupted, and others may wait for the layers.
            return await to_the_end(self._load(file))

    async def import_image(self, options: ImportImageRequest.Options, data: AsyncIterator[bytes]) -> Image:
        """An image of one layer, from the tar of a root file system, plain or compressed.

        Raises InvalidArgument, BadImage, ResourceExhausted, Unavailable (the worker stops).
        """
        wanted = Import(options, self._platform)
        with _said_in_words():
            file = await receive(data, self._layers.incoming, self._threads)
            return await to_the_end(self._import(wanted, file))

    async def remove(self, reference: str, force: bool = False) -> RemoveImageResponse:
        """Remove a name, and the image with its last one. Raises ImageNotFound, ImageInUse."""
        with _said_in_words():
            return await to_the_end(self._remove(reference, force))

    async def _load(self, file: BinaryIO) -> list[Image]:
        archive = file
        try:
            archive = await self._in_thread(make_plain, file, self._layers.incoming)
            found = await self._in_thread(lambda: archives.read(TarContents(archive), self._platform))
            return [await self._store(image) for image in found]
        finally:
            archive.close()
            file.close()

    async def _import(self, wanted: Import, file: BinaryIO) -> Image:
        archive = file
        try:
            archive = await self._in_thread(make_plain, file, self._layers.incoming)
            return await self._store(await self._in_thread(wanted.image, archive))
        finally:
            archive.close()
            file.close()

    async def _pulled(self, image: FoundImage) -> str:
        await self._store(image)
        return image.id

    async def _store(self, image: FoundImage) -> Image:
        record = ImageRecord(
            tags=frozenset(str(name) for name in image.names if not name.digest),
            digests=frozenset(f"{name.name}@{digest}" for name in image.names for digest in image.digests),
            manifest=image.digests[-1] if image.digests else "",
        )
        async with self._layers.provided(image) as layers, self._changing:
            record = replace(record, layers=tuple(layers))
            self._configs[image.id] = image.config
            await self._change(self._catalogue.index.with_image(image.id, record, layers), image)
        self._settle_later()
        return self._catalogue.describe(image.id)

    async def _remove(self, text: str, force: bool) -> RemoveImageResponse:
        async with self._changing:
            match = self._catalogue.find(text)
            image_id, index = match.image.id, self._catalogue.index
            record = index.images[image_id]
            decided = removal.decide(text, match.name, record, self._users_of(image_id), force=force)
            if decided.record is not None:
                await self._change(index.with_record(image_id, decided.record))
                return RemoveImageResponse(untagged=decided.untagged)
            return RemoveImageResponse(untagged=decided.untagged, deleted=await self._delete(image_id))

    async def _remove_unused(self, image_id: str) -> None:
        async with self._changing:
            record = self._catalogue.index.images.get(image_id)
            if record is not None and record.removed and not self._users_of(image_id):
                try:
                    await self._delete(image_id)
                except OSError as error:
                    _log.warning("an image is not deleted", image=image_id, error=str(error))

    async def _delete(self, image_id: str) -> list[str]:
        """The image and the layers that no other has: their ids."""
        await self._change(self._catalogue.index.without([image_id]))
        self._configs.pop(image_id, None)
        return [image_id, *self._layers.collect()]

    # The index, in memory and on the disk.

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        # Images have set-user-ID programs, which are not for this machine's users.
        self._directory.chmod(0o700)
        boot = _BOOT_ID.read_text().strip()
        index = Index.read(self._path)
        usable = self._usable(index, boot)
        if usable != index:
            usable.write(self._path)
        self._know(usable)
        self._layers.open(usable.layers, boot)
        self._blobs.keep_only(usable.blobs())

    def _usable(self, index: Index, boot: str) -> Index:
        """Without images that the machine's last crash has damaged."""
        lost = {chain_id for chain_id, layer in index.layers.items() if not self._layers.is_whole(layer, boot)}
        gone = set()
        for image_id, record in index.images.items():
            configuration = self._blobs.get(image_id)
            if configuration is None or lost.intersection(record.layers):
                _log.warning("an image was damaged when the machine went down, and is removed", image=image_id)
                gone.add(image_id)
            else:
                self._configs[image_id] = ImageConfig.parse(configuration)
        kept = index.without(gone)
        return kept.on_disk(chain_id for chain_id, layer in kept.layers.items() if layer.boot != boot)

    async def _change(self, index: Index, image: FoundImage | None = None) -> None:
        """Make `index` what there is. Raises OSError, and nothing has changed then."""
        await to_the_end(self._make_known(index, image))

    async def _make_known(self, index: Index, image: FoundImage | None) -> None:
        await self._in_thread(self._write, index, image)
        self._know(index)

    def _know(self, index: Index) -> None:
        self._catalogue = Catalogue(index, self._configs)
        IMAGES.set(len(index.images))
        BYTES.set(sum(layer.size for layer in index.layers.values()))

    def _write(self, index: Index, image: FoundImage | None) -> None:
        if image is not None:
            self._blobs.put(image.id, image.configuration)
            if image.manifest:
                self._blobs.put(image.digests[-1], image.manifest)
        index.write(self._path)
        if image is None:
            self._blobs.keep_only(index.blobs())

    def _settle_later(self) -> None:
        """Layers are not synced when they are unpacked; some time later that costs next to nothing."""
        if self._settling is None and any(one.boot for one in self._catalogue.index.layers.values()):
            self._settling = asyncio.get_running_loop().call_later(_SETTLE_AFTER, self._settle_now)

    def _settle_now(self) -> None:
        self._settling = None
        task = asyncio.create_task(self._settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        before = list(self._catalogue.index.layers)
        try:
            await self._in_thread(_sync, self._directory)
            async with self._changing:
                await self._change(self._catalogue.index.on_disk(before))
        except OSError as error:
            _log.warning("layers could not be synced to the disk", error=str(error))
        self._settle_later()

    def _users_of(self, image_id: str) -> list[str]:
        return sorted(user for user, used in self._users.items() if used == image_id)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _name(reference: str) -> ImageReference:
    """What to ask a registry for. Raises ImageNotFound."""
    try:
        return ImageReference.parse(reference).tagged()
    except ValueError as error:
        raise ImageNotFound(f"no such image: {reference} ({error})") from None


def _sync(directory: Path) -> None:
    """Wait until the file system has everything on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


@contextmanager
def _said_in_words() -> Iterator[None]:
    """Errors of files and archives, as callers have them."""
    try:
        yield
    except Damaged as error:
        raise BadImage(str(error)) from None
    except OSError as error:
        if error.errno in FULL:
            raise ResourceExhausted(f"no space is left for images on this node: {error}") from None
        raise Internal(f"the image store: {error}") from None
