"""The part of the Agent service that is about images: calls, passed to the store."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from flota.rpc.errors import InvalidArgument
from flota.v1.local_pb2 import (
    ImportImageRequest,
    ImportImageResponse,
    ListImagesRequest,
    ListImagesResponse,
    LoadImageRequest,
    LoadImageResponse,
    PullImageMessage,
    PullImageRequest,
    RemoveImageRequest,
    RemoveImageResponse,
)
from flota.worker.images.store import ImageStore


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
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        pull = asyncio.create_task(
            self.image_store.pull(request.reference, request.registry_auth, lines.put_nowait), name="pull"
        )
        pull.add_done_callback(lambda _: lines.put_nowait(None))
        try:
            while (line := await lines.get()) is not None:
                yield PullImageMessage(line=line)
            image = await pull
        finally:
            pull.cancel()
        yield PullImageMessage(image=self.image_store.describe(image.id))

    async def ListImages(self, request: ListImagesRequest, context: Any) -> ListImagesResponse:
        """All images of this node."""
        return ListImagesResponse(images=self.image_store.images())

    async def RemoveImage(self, request: RemoveImageRequest, context: Any) -> RemoveImageResponse:
        """Raises ImageNotFound, ImageInUse."""
        return await self.image_store.remove(request.reference, request.force)
