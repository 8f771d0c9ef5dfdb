"""The part of the Agent service that is about images: calls, passed to the store."""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from flota.rpc.errors import InvalidArgument
from flota.v1.local_pb2 import (
    CheckRegistryAuthRequest,
    CheckRegistryAuthResponse,
    ImportImageRequest,
    ImportImageResponse,
    InspectImageRequest,
    InspectImageResponse,
    ListImagesRequest,
    ListImagesResponse,
    LoadImageRequest,
    LoadImageResponse,
    PruneImagesRequest,
    PruneImagesResponse,
    PullImageMessage,
    PullImageRequest,
    PushImageMessage,
    PushImageRequest,
    RemoveImageRequest,
    RemoveImageResponse,
    ResolveImageRequest,
    ResolveImageResponse,
    SaveImageMessage,
    SaveImageRequest,
    TagImageRequest,
    TagImageResponse,
)
from flota.worker.images.config import ImageConfig
from flota.worker.images.index import ImageRecord
from flota.worker.images.pull import Word
from flota.worker.images.store import ImageStore
from flota.worker.labels import has_labels

T = TypeVar("T")


class ImageCalls:
    """To be mixed into the servicer, which has the store as `image_store`."""

    image_store: ImageStore

    async def LoadImage(self, requests: AsyncIterator[LoadImageRequest], context: Any) -> LoadImageResponse:
        """Raises BadImage, ResourceExhausted, Unavailable."""
        return LoadImageResponse(images=await self.image_store.load(request.data async for request in requests))

    async def ImportImage(self, requests: AsyncIterator[ImportImageRequest], context: Any) -> ImportImageResponse:
        """Raises InvalidArgument, BadImage, ResourceExhausted, Unavailable."""
        parts = aiter(requests)
        first = await anext(parts, None)
        if first is None or not first.HasField("options"):
            raise InvalidArgument("options are missing: they come first, then the data")
        data = (request.data async for request in parts)
        return ImportImageResponse(image=await self.image_store.import_image(first.options, data))

    async def PullImage(self, request: PullImageRequest, context: Any) -> AsyncIterator[PullImageMessage]:
        """Raises ImageNotFound, BadImage, InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted."""
        words: asyncio.Queue[Word | None] = asyncio.Queue()
        pull = self.image_store.pull(request.reference, request.registry_auth, words.put_nowait)
        async with _meanwhile(pull, words) as pulling:
            while (word := await words.get()) is not None:
                yield PullImageMessage(line=word.line, current_bytes=word.current, total_bytes=word.total)
            image = await pulling
        yield PullImageMessage(image=self.image_store.describe(image.id))

    async def PushImage(self, request: PushImageRequest, context: Any) -> AsyncIterator[PushImageMessage]:
        """Raises ImageNotFound, InvalidArgument, FailedPrecondition, PullRefused, RegistryUnavailable."""
        words: asyncio.Queue[Word | None] = asyncio.Queue()
        push = self.image_store.push(request.reference, request.registry_auth, words.put_nowait)
        async with _meanwhile(push, words) as pushing:
            while (word := await words.get()) is not None:
                yield PushImageMessage(line=word.line, current_bytes=word.current, total_bytes=word.total)
            digest = await pushing
        yield PushImageMessage(digest=digest)

    async def SaveImage(self, request: SaveImageRequest, context: Any) -> AsyncIterator[SaveImageMessage]:
        """Raises ImageNotFound, FailedPrecondition (its archive is lost)."""
        async for part in self.image_store.save(list(request.references)):
            yield SaveImageMessage(data=part)

    async def InspectImage(self, request: InspectImageRequest, context: Any) -> InspectImageResponse:
        """Raises ImageNotFound."""
        return self.image_store.inspect(request.reference)

    async def TagImage(self, request: TagImageRequest, context: Any) -> TagImageResponse:
        """Raises ImageNotFound, InvalidArgument."""
        await self.image_store.tag(request.source, request.target)
        return TagImageResponse()

    async def PruneImages(self, request: PruneImagesRequest, context: Any) -> PruneImagesResponse:
        """Those that no task needs."""
        until = request.until.ToMilliseconds() / 1000 if request.HasField("until") else math.inf

        def wanted(record: ImageRecord, config: ImageConfig) -> bool:
            return record.used <= until and has_labels(config.labels, request.labels)

        return await self.image_store.prune(wanted, all=request.all)

    async def CheckRegistryAuth(self, request: CheckRegistryAuthRequest, context: Any) -> CheckRegistryAuthResponse:
        """Raises PullRefused, InvalidArgument, RegistryUnavailable."""
        await self.image_store.check(request.registry, request.registry_auth)
        return CheckRegistryAuthResponse()

    async def ResolveImage(self, request: ResolveImageRequest, context: Any) -> ResolveImageResponse:
        """Raises ImageNotFound, BadImage, InvalidArgument, PullRefused, RegistryUnavailable, ResourceExhausted."""
        return await self.image_store.resolve(request.reference, request.registry_auth)

    async def ListImages(self, request: ListImagesRequest, context: Any) -> ListImagesResponse:
        """All images of this node."""
        return ListImagesResponse(images=self.image_store.images(), layers_bytes=self.image_store.layers_size)

    async def RemoveImage(self, request: RemoveImageRequest, context: Any) -> RemoveImageResponse:
        """Raises ImageNotFound, ImageInUse."""
        return await self.image_store.remove(request.reference, request.force)


@asynccontextmanager
async def _meanwhile(
    work: Coroutine[Any, Any, T], words: "asyncio.Queue[Word | None]"
) -> AsyncIterator["asyncio.Task[T]"]:
    """`work` as a task that ends with the block; `words` get None at its end."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _: words.put_nowait(None))
    try:
        yield task
    finally:
        task.cancel()
