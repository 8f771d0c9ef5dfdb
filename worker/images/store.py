"""ImageStore: the images of one node, as they are found, pulled, loaded, imported, saved and pushed.

What there is, is known to keeping.py, the layers to layers.py, who needs what and which go to needs.py. What blocks
is done in threads.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from flota.rpc.errors import InvalidArgument, ResourceExhausted
from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import (
    Image,
    ImportImageRequest,
    InspectImageResponse,
    PruneImagesResponse,
    RemoveImageResponse,
    ResolveImageResponse,
)
from flota.worker.images import archives, push, saving
from flota.worker.images.archives import FoundImage
from flota.worker.images.catalogue import StoredImage
from flota.worker.images.collection import Rules
from flota.worker.images.committing import Commit, CommitOptions
from flota.worker.images.config import ImageConfig
from flota.worker.images.contents import TarContents
from flota.worker.images.errors import ImageNotFound, RegistryUnreachable, said_in_words
from flota.worker.images.importing import Import
from flota.worker.images.index import ImageRecord
from flota.worker.images.keeping import Keeping
from flota.worker.images.layers import Layers
from flota.worker.images.needs import Needs
from flota.worker.images.platforms import MachinePlatform
from flota.worker.images.pull import Puller, Say, Word
from flota.worker.images.push import Pushed, Pusher
from flota.worker.images.receiving import make_plain, receive
from flota.worker.images.registry.arriving import KEPT, Arrivals
from flota.worker.images.registry.client import Registries
from flota.worker.images.resolving import resolve
from flota.worker.images.saving import SavedImage
from flota.worker.runtime.processes import to_the_end

_THREADS = 4
_CONNECTIONS = 64
PULL_LIMIT = 60.0

P = ParamSpec("P")
T = TypeVar("T")


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
        self._threads = ThreadPoolExecutor(_THREADS, "images")
        self._layers = Layers(self._directory, self._threads, lambda: self._kept.catalogue.index.layers)
        self._kept = Keeping(self._directory, self._layers, self._threads)
        # Each waits for one registry, for as long as it is silent.
        self._fetching = ThreadPoolExecutor(_CONNECTIONS, "fetching")
        self._arrivals = Arrivals(self._directory / "partial", self._fetching)
        self._needs = Needs(self._directory, self._kept, self._layers, self._arrivals)
        self._platform = MachinePlatform.here()
        self._registries = Registries(insecure_registries, pull_limit, self._fetching)
        self._rules = rules
        self._saving = saving.Images(self._layers.directory, self._layers.recipes)
        self._puller = Puller(self._registries, self._layers, self._platform, self._arrivals, self._pulled)
        self._pusher = Pusher(self._registries, self._saving, self._layers.incoming, self._threads)
        self._collecting: asyncio.Task[None] | None = None

    @property
    def layers_directory(self) -> Path:
        """Where the directories are that StoredImage.layers names."""
        return self._layers.directory

    async def start(self) -> None:
        """Read what there is. Raises OSError, ValueError (the index is damaged: no layer is touched then)."""
        await self._in_thread(self._kept.open)
        await self._in_thread(self._arrivals.open)
        await self._arrivals.collect(KEPT)
        self._layers.start()
        self._kept.settle_later()
        self._collecting = asyncio.create_task(self._needs.collect_always(self._rules), name="collect images")

    async def stop(self) -> None:
        """Loads and pulls in progress end with Unavailable."""
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.wait([self._collecting])
        await self._puller.stop()
        await self._registries.stop()
        await self._layers.stop()
        await self._needs.stop()
        await self._kept.stop()
        for threads in (self._threads, self._fetching):
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)

    # What is there.

    async def find(self, reference: str) -> StoredImage:
        """name[:tag], name@sha256:…, an id or the beginning of one. Raises ImageNotFound."""
        return self._kept.catalogue.find(reference).image

    async def provide(self, reference: str, credentials: Credentials = _none) -> StoredImage:
        """What a task needs: the image that is here, and only if there is none, the registry's.

        `credentials` (Docker's X-Registry-Auth) are asked for when there is a registry to be asked. Raises what
        `pull` does.
        """
        with suppress(ImageNotFound):
            return self._kept.catalogue.find(reference).image
        auth = await credentials()
        try:
            return await self.pull(reference, auth)
        except RegistryUnreachable as error:
            # Where there is no registry images are loaded, and what was not is missing.
            raise ImageNotFound(f"no such image: {reference} (on this node, and {error})") from None
        except ResourceExhausted:
            halves = await self._arrivals.collect(0)
            if not await self._needs.collect(replace(self._rules, high=1, low=0)) and not halves:
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
                return self._kept.catalogue.find(str(name)).image
        with said_in_words():
            image_id = await self._puller.pull(name, auth, say)
        return self._kept.catalogue.find(image_id).image

    async def resolve(self, reference: str, auth: str = "") -> ResolveImageResponse:
        """What a registry has under a name, without pulling it.

        Raises ImageNotFound, BadImage, InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted.
        """
        with said_in_words():
            return await resolve(self._registries, _name(reference), auth)

    def images(self) -> list[Image]:
        """All of them."""
        return self._kept.catalogue.images()

    @property
    def layers_size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self._kept.catalogue.index.layers.values())

    def describe(self, image_id: str) -> Image:
        """One of them. Raises ImageNotFound."""
        return self._kept.catalogue.describe(self._kept.catalogue.find(image_id).image.id)

    def __len__(self) -> int:
        return len(self._kept.catalogue)

    def here(self, reference: str) -> str:
        """The id of the image of that name that is here. Raises ImageNotFound."""
        return self._kept.catalogue.find(reference).image.id

    def hold(self, user: str, image_id: str) -> None:
        """The task `user` needs the image: it is not removed."""
        self._needs.hold(user, image_id)

    def release(self, user: str) -> None:
        """The task needs no image any longer. One that was to go with it goes."""
        self._needs.release(user)

    # What comes and goes.

    async def load(self, data: AsyncIterator[bytes]) -> list[Image]:
        """All images for this machine in a tar of an OCI layout or of `docker save`, plain or compressed.

        Raises BadImage, ResourceExhausted, Unavailable (the worker stops).
        """
        with said_in_words():
            file = await receive(data, self._layers.incoming, self._threads)
            # Threads cannot be interrupted, and others may wait for the layers.
            return await to_the_end(self._load(file))

    async def import_image(self, options: ImportImageRequest.Options, data: AsyncIterator[bytes]) -> Image:
        """An image of one layer, from the tar of a root file system, plain or compressed.

        Raises InvalidArgument, BadImage, ResourceExhausted, Unavailable (the worker stops).
        """
        wanted = Import(options, self._platform)
        with said_in_words():
            file = await receive(data, self._layers.incoming, self._threads)
            return await to_the_end(self._import(wanted, file))

    async def commit(self, image_id: str, options: CommitOptions, data: AsyncIterator[bytes]) -> Image:
        """An image with one layer more, from the tar of that layer.

        Raises ImageNotFound, InvalidArgument, BadImage, ResourceExhausted, Unavailable (the worker stops).
        """
        wanted = Commit(options, self._kept.configuration(image_id))
        chain = self._kept.catalogue.index.images[image_id].layers
        with self._layers.pinned(chain), said_in_words():
            file = await receive(data, self._layers.incoming, self._threads)
            return await to_the_end(self._commit(wanted, file))

    async def remove(self, reference: str, force: bool = False) -> RemoveImageResponse:
        """Remove a name, and the image with its last one. Raises ImageNotFound, ImageInUse."""
        with said_in_words():
            return await to_the_end(self._needs.remove(reference, force))

    async def prune(self, wanted: Callable[[ImageRecord, ImageConfig], bool], *, all: bool) -> PruneImagesResponse:
        """Remove images that no task needs, those of them that are `wanted`; with names only if `all`."""
        return await self._needs.prune(wanted, all=all)

    async def tag(self, source: str, target: str) -> None:
        """Give an image one more name. Raises ImageNotFound, InvalidArgument."""
        try:
            name = ImageReference.parse(target).tagged()
        except ValueError as error:
            raise InvalidArgument.of("target", target, str(error)) from None
        if name.digest:
            raise InvalidArgument.of("target", target, "a digest cannot be chosen: NAME[:TAG]")
        async with self._kept.changing:
            image_id = self._kept.catalogue.find(source).image.id
            index = self._kept.catalogue.index
            record = replace(index.images[image_id], tags=frozenset({str(name)}))
            with said_in_words():
                await self._kept.change(index.with_image(image_id, record, {}))

    def inspect(self, reference: str) -> InspectImageResponse:
        """All that is known of an image. Raises ImageNotFound, Internal (its configuration is damaged)."""
        image = self._kept.catalogue.find(reference).image
        answer = InspectImageResponse(
            image=self._kept.catalogue.describe(image.id),
            configuration=self._kept.configuration(image.id),
            task_ids=self._needs.users_of(image.id),
            layer_directories=[str(self.layers_directory / name) for name in image.layers],
        )
        index = self._kept.catalogue.index
        answer.layer_bytes.extend(index.layers[chain_id].size for chain_id in index.images[image.id].layers)
        used = self._kept.last_used(image.id)
        answer.last_used_at.FromMilliseconds(int(used * 1000))
        return answer

    async def save(self, references: Sequence[str]) -> AsyncIterator[bytes]:
        """A tar with these images. Raises ImageNotFound, InvalidArgument (none), FailedPrecondition."""
        if not references:
            raise InvalidArgument("references are missing: which images?")
        images = self._saved(references)
        self._saving.check(images)
        chain = [chain_id for image in images for chain_id in self._kept.catalogue.index.images[image.id].layers]
        with self._layers.pinned(chain), said_in_words():
            async for part in saving.parts(lambda write: self._saving.archive(images, write), self._threads):
                yield part

    async def push(self, reference: str, auth: str = "", say: Say = _nobody) -> str:
        """Give an image to the registry that its name leads to; the digest it has there.

        Raises ImageNotFound, FailedPrecondition, InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted.
        """
        found = self._kept.catalogue.find(reference)
        if found.name is None or not found.name.tag:
            raise InvalidArgument.of("reference", reference, "NAME[:TAG] is needed: what it is to be called there")
        name = replace(found.name, digest="")
        (image,) = self._saved([str(name)])
        with self._layers.pinned(self._kept.catalogue.index.images[image.id].layers), said_in_words():
            index = self._kept.catalogue.index
            known = await self._in_thread(push.origins, index, self._kept.manifest, image)
            pushed = await self._pusher.push(image, name, auth, known, say)
            await self._remember(image.id, name, pushed)
        return pushed.digest

    async def _remember(self, image_id: str, name: ImageReference, pushed: Pushed) -> None:
        """What it is called at the registry it was pushed to."""
        async with self._kept.changing:
            index = self._kept.catalogue.index
            record = index.images.get(image_id)
            if record is None:
                return
            known = replace(record, digests=frozenset({f"{name.name}@{pushed.digest}"}), pulled=True)
            if record.pulled and record.manifest:
                await self._kept.change(index.with_image(image_id, known, {}))
                return
            # The next push need not make its layers to know what they are called.
            known = replace(known, manifest=pushed.digest)
            image = FoundImage(
                self._kept.configuration(image_id),
                self._kept.configs[image_id],
                (),
                digests=(pushed.digest,),
                manifest=pushed.manifest,
            )
            await self._kept.change(index.with_image(image_id, known, {}), image)

    async def check(self, registry: str, auth: str) -> None:
        """Whether a registry takes these credentials. Raises PullRefused, InvalidArgument, RegistryUnavailable."""
        with said_in_words():
            await self._registries.check(registry, auth)

    def _saved(self, references: Sequence[str]) -> list[SavedImage]:
        """What is to be written of them; each image once, under all the names that were asked for."""
        names: dict[str, list[ImageReference]] = {}
        for reference in references:
            found = self._kept.catalogue.find(reference)
            known = names.setdefault(found.image.id, [])
            if found.name is not None and found.name.tag:
                known.append(replace(found.name, digest=""))
        index = self._kept.catalogue.index
        return [
            SavedImage(
                image_id,
                self._kept.configuration(image_id),
                tuple(dict.fromkeys(called)),
                tuple(index.layers[chain_id] for chain_id in index.images[image_id].layers),
            )
            for image_id, called in names.items()
        ]

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

    async def _commit(self, wanted: Commit, file: BinaryIO) -> Image:
        try:
            return await self._store(await self._in_thread(wanted.image, file))
        finally:
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
        async with self._layers.provided(image) as layers, self._kept.changing:
            record = replace(record, layers=tuple(layers))
            self._kept.configs[image.id] = image.config
            await self._kept.change(self._kept.catalogue.index.with_image(image.id, record, layers), image)
        self._kept.settle_later()
        return self._kept.catalogue.describe(image.id)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _name(reference: str) -> ImageReference:
    """What to ask a registry for. Raises ImageNotFound."""
    try:
        return ImageReference.parse(reference).tagged()
    except ValueError as error:
        raise ImageNotFound(f"no such image: {reference} ({error})") from None
