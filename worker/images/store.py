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
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import structlog

from flota.rpc.errors import Internal, InvalidArgument, ResourceExhausted
from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import (
    Image,
    ImportImageRequest,
    InspectImageResponse,
    PruneImagesResponse,
    RemoveImageResponse,
    ResolveImageResponse,
)
from flota.worker.images import archives, collection, removal, saving
from flota.worker.images.archives import FoundImage
from flota.worker.images.catalogue import Catalogue, StoredImage
from flota.worker.images.collection import Disk, Rules
from flota.worker.images.compression import Damaged
from flota.worker.images.config import ImageConfig
from flota.worker.images.contents import TarContents
from flota.worker.images.errors import BadImage, ImageNotFound, RegistryUnreachable
from flota.worker.images.files import Blobs
from flota.worker.images.importing import Import
from flota.worker.images.index import ImageRecord, Index
from flota.worker.images.layers import Layers
from flota.worker.images.metrics import BYTES, COLLECTED, IMAGES
from flota.worker.images.platforms import MachinePlatform
from flota.worker.images.pull import Puller, Say, Word
from flota.worker.images.receiving import make_plain, receive
from flota.worker.images.resolving import resolve
from flota.worker.images.saving import SavedImage
from flota.worker.images.skopeo import Skopeo
from flota.worker.images.unpack import FULL
from flota.worker.runtime.processes import to_the_end

_log = structlog.get_logger("images")
_THREADS = 4
PULL_LIMIT = 60.0
# The kernel writes what is new to the disk within 30 s or so by itself; asked earlier, everybody would wait for it.
_SETTLE_AFTER = 45.0
# Seconds between looks at the disk.
_COLLECT_EVERY = 60.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

P = ParamSpec("P")
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


Credentials = Callable[[], Awaitable[str]]
# Nothing goes by itself.
NEVER = Rules(max_age=0, high=0)


async def _none() -> str:
    return ""


def _nobody(word: Word) -> None:
    """Who pulls without anybody waiting for words."""


class ImageStore:
    """The images of this node. One instance per worker; all methods on the event loop."""

    def __init__(
        self,
        directory: Path,
        *,
        insecure_registries: Collection[str] = (),
        pull_limit: float = PULL_LIMIT,
        rules: Rules = NEVER,
    ) -> None:
        """`directory` is STATE/images; `pull_limit` are seconds without a byte, after which a registry is given up;
        `rules` say which images go by themselves."""
        self._directory = directory.absolute()
        self._path = self._directory / "index.json"
        self._blobs = Blobs(self._directory / "blobs")
        self._threads = ThreadPoolExecutor(_THREADS, "images")
        self._catalogue = Catalogue(Index(), {})
        self._configs: dict[str, ImageConfig] = {}
        self._layers = Layers(self._directory, self._threads, lambda: self._catalogue.index.layers)
        self._platform = MachinePlatform.here()
        self._skopeo = Skopeo(insecure_registries, pull_limit)
        self._rules = rules
        self._saving = saving.Images(self._layers.directory, self._layers.recipes)
        self._puller = Puller(self._skopeo, self._layers, self._platform, self._layers.incoming, self._pulled)
        self._users: dict[str, str] = {}
        # When images were last needed, in seconds since 1970, since the index was last written.
        self._used: dict[str, float] = {}
        self._collecting: asyncio.Task[None] | None = None
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
        self._collecting = asyncio.create_task(self._collect_always(), name="collect images")

    async def stop(self) -> None:
        """Loads and pulls in progress end with Unavailable."""
        if self._settling is not None:
            self._settling.cancel()
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.wait([self._collecting])
        await self._puller.stop()
        await self._layers.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    # What is there.

    async def find(self, reference: str) -> StoredImage:
        """name[:tag], name@sha256:…, an id or the beginning of one. Raises ImageNotFound."""
        return self._catalogue.find(reference).image

    async def provide(self, reference: str, credentials: Credentials = _none) -> StoredImage:
        """What a task needs: the image that is here, and only if there is none, the registry's.

        `credentials` (Docker's X-Registry-Auth) are asked for when there is a registry to be asked. Raises what
        `pull` does.
        """
        with suppress(ImageNotFound):
            return self._catalogue.find(reference).image
        auth = await credentials()
        try:
            return await self.pull(reference, auth)
        except RegistryUnreachable as error:
            # Where there is no registry images are loaded, and what was not is missing.
            raise ImageNotFound(f"no such image: {reference} (on this node, and {error})") from None
        except ResourceExhausted:
            if not await self._collect(replace(self._rules, high=1, low=0)):
                raise
            await self._layers.deleted()
            return await self.pull(reference, auth)

    async def pull(self, reference: str, auth: str = "", say: Say = _nobody) -> StoredImage:
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

    async def resolve(self, reference: str, auth: str = "") -> ResolveImageResponse:
        """What a registry has under a name, without pulling it.

        Raises ImageNotFound, BadImage, InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted.
        """
        with _said_in_words():
            return await resolve(self._skopeo, _name(reference), auth, self._layers.incoming)

    def images(self) -> list[Image]:
        """All of them."""
        return self._catalogue.images()

    def describe(self, image_id: str) -> Image:
        """One of them. Raises ImageNotFound."""
        return self._catalogue.describe(self._catalogue.find(image_id).image.id)

    def __len__(self) -> int:
        return len(self._catalogue)

    def here(self, reference: str) -> str:
        """The id of the image of that name that is here. Raises ImageNotFound."""
        return self._catalogue.find(reference).image.id

    def hold(self, user: str, image_id: str) -> None:
        """The task `user` needs the image: it is not removed."""
        self._users[user] = image_id
        self._used[image_id] = time.time()

    def release(self, user: str) -> None:
        """The task needs no image any longer. One that was to go with it goes."""
        image_id = self._users.pop(user, "")
        if image_id:
            self._used[image_id] = time.time()
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

    async def tag(self, source: str, target: str) -> None:
        """Give an image one more name. Raises ImageNotFound, InvalidArgument."""
        try:
            name = ImageReference.parse(target).tagged()
        except ValueError as error:
            raise InvalidArgument.of("target", target, str(error)) from None
        if name.digest:
            raise InvalidArgument.of("target", target, "a digest cannot be chosen: NAME[:TAG]")
        async with self._changing:
            image_id = self._catalogue.find(source).image.id
            index = self._catalogue.index
            record = replace(index.images[image_id], tags=frozenset({str(name)}))
            with _said_in_words():
                await self._change(index.with_image(image_id, record, {}))

    def inspect(self, reference: str) -> InspectImageResponse:
        """All that is known of an image. Raises ImageNotFound, Internal (its configuration is damaged)."""
        image = self._catalogue.find(reference).image
        answer = InspectImageResponse(
            image=self._catalogue.describe(image.id),
            configuration=self._configuration(image.id),
            task_ids=self._users_of(image.id),
            layer_directories=[str(self.layers_directory / name) for name in image.layers],
        )
        used = max(self._catalogue.index.images[image.id].used, self._used.get(image.id, 0.0))
        answer.last_used_at.FromMilliseconds(int(used * 1000))
        return answer

    async def save(self, references: Sequence[str]) -> AsyncIterator[bytes]:
        """A tar with these images. Raises ImageNotFound, InvalidArgument (none), FailedPrecondition."""
        if not references:
            raise InvalidArgument("references are missing: which images?")
        images = self._saved(references)
        self._saving.check(images)
        chain = [chain_id for image in images for chain_id in self._catalogue.index.images[image.id].layers]
        with self._layers.pinned(chain), _said_in_words():
            async for part in saving.parts(lambda write: self._saving.archive(images, write), self._threads):
                yield part

    async def push(self, reference: str, auth: str, say: Say = _nobody) -> str:
        """Give an image to the registry that its name leads to; the digest it has there.

        Raises ImageNotFound, FailedPrecondition, InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted.
        """
        found = self._catalogue.find(reference)
        if found.name is None or not found.name.tag:
            raise InvalidArgument.of("reference", reference, "NAME[:TAG] is needed: what it is to be called there")
        name = replace(found.name, digest="")
        (image,) = self._saved([str(name)])
        with self._layers.pinned(self._catalogue.index.images[image.id].layers), _said_in_words():
            async with self._skopeo.repository(name, auth, self._layers.incoming) as repository:
                say(Word(f"Pushing to {name.familiar_name}"))
                layout = repository.blobs.parent.parent / "pushed"
                await to_the_end(self._in_thread(self._saving.layout, image, layout))
                digest = await repository.push(layout, name.tag, name)
                say(Word(f"{name.tag}: digest: {digest}"))
        async with self._changing:
            index = self._catalogue.index
            if image.id in index.images:
                known = replace(index.images[image.id], digests=frozenset({f"{name.name}@{digest}"}), pulled=True)
                await self._change(index.with_image(image.id, known, {}))
        return digest

    async def check(self, registry: str, auth: str) -> None:
        """Whether a registry takes these credentials. Raises PullRefused, InvalidArgument, RegistryUnavailable."""
        with _said_in_words():
            await self._skopeo.check(registry, auth, self._layers.incoming)

    async def prune(self, wanted: Callable[[ImageRecord, ImageConfig], bool], *, all: bool) -> PruneImagesResponse:
        """Remove images that no task needs, those of them that are `wanted`; with names only if `all`."""
        async with self._changing:
            index = self._known()
            held = set(self._users.values())
            going = [
                image_id
                for image_id, record in index.images.items()
                if image_id not in held and (all or not record.tags) and wanted(record, self._configs[image_id])
            ]
            answer = PruneImagesResponse(reclaimed_bytes=collection.freed(index, going))
            for image_id in going:
                record = index.images[image_id]
                names = sorted(record.tags | record.digests)
                answer.untagged.extend(ImageReference.parse(name).familiar for name in names)
            with _said_in_words():
                answer.deleted.extend(await self._delete(going))
            return answer

    def _saved(self, references: Sequence[str]) -> list[SavedImage]:
        """What is to be written of them; each image once, under all the names that were asked for."""
        names: dict[str, list[ImageReference]] = {}
        for reference in references:
            found = self._catalogue.find(reference)
            known = names.setdefault(found.image.id, [])
            if found.name is not None and found.name.tag:
                known.append(replace(found.name, digest=""))
        index = self._catalogue.index
        return [
            SavedImage(
                image_id,
                self._configuration(image_id),
                tuple(dict.fromkeys(called)),
                tuple(index.layers[chain_id] for chain_id in index.images[image_id].layers),
            )
            for image_id, called in names.items()
        ]

    def _configuration(self, image_id: str) -> bytes:
        data = self._blobs.get(image_id)
        if data is None:
            raise Internal(f"the configuration of image {image_id} is damaged on this node: pull or load it anew")
        return data

    async def _collect_always(self) -> None:
        while True:
            await asyncio.sleep(_COLLECT_EVERY)
            try:
                await self._collect(self._rules)
            except Exception:  # noqa: BLE001 - told in the log; the next time may be better
                _log.exception("unused images are not collected")

    async def _collect(self, rules: Rules) -> list[str]:
        """Remove what nobody needs any more by these rules; the images' ids."""
        disk = await self._in_thread(self._disk)
        async with self._changing:
            index = self._known()
            gone = collection.choose(index, set(self._users.values()), rules, disk, time.time())
            if gone:
                _log.info("removing images that nobody needs", images=gone, bytes=collection.freed(index, gone))
                COLLECTED.inc(len(gone))
                with _said_in_words():
                    await self._delete(gone)
            elif self._used:
                await self._change(index)
            return gone

    def _disk(self) -> Disk:
        there = os.statvfs(self._directory)
        return Disk((there.f_blocks - there.f_bavail) * there.f_frsize, there.f_blocks * there.f_frsize)

    def _known(self) -> Index:
        """The index with the newest uses."""
        return self._catalogue.index.with_uses(self._used)

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
        await self._store(image, pulled=True)
        return image.id

    async def _store(self, image: FoundImage, *, pulled: bool = False) -> Image:
        record = ImageRecord(
            pulled=pulled,
            used=time.time(),
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
            return RemoveImageResponse(untagged=decided.untagged, deleted=await self._delete([image_id]))

    async def _remove_unused(self, image_id: str) -> None:
        async with self._changing:
            record = self._catalogue.index.images.get(image_id)
            if record is not None and record.removed and not self._users_of(image_id):
                try:
                    await self._delete([image_id])
                except OSError as error:
                    _log.warning("an image is not deleted", image=image_id, error=str(error))

    async def _delete(self, image_ids: Sequence[str]) -> list[str]:
        """The images and the layers that no others have: their ids."""
        await self._change(self._catalogue.index.without(image_ids))
        for image_id in image_ids:
            self._configs.pop(image_id, None)
        return [*image_ids, *self._layers.collect()]

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
        uses, self._used = self._used, {}
        try:
            await to_the_end(self._make_known(index.with_uses(uses), image))
        except BaseException:
            self._used = uses | self._used
            raise

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
