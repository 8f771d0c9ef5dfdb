"""Who needs which image, and which images go: on somebody's word, with the task that held them, or by themselves.

What that comes to is decided by pure functions (removal.py, collection.py); here it is done.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from flota.v1.image_references import ImageReference
from flota.v1.local_pb2 import PruneImagesResponse, RemoveImageResponse
from flota.worker.images import collection, removal
from flota.worker.images.collection import Disk, Rules
from flota.worker.images.config import ImageConfig
from flota.worker.images.errors import said_in_words
from flota.worker.images.index import ImageRecord
from flota.worker.images.keeping import Keeping
from flota.worker.images.layers import Layers
from flota.worker.images.metrics import COLLECTED
from flota.worker.images.registry.arriving import KEPT, Arrivals

_log = structlog.get_logger("images")
# Seconds between looks at the disk: at most, and at least, where images shall go that were not needed for a short time.
_COLLECT_EVERY, _COLLECT_LEAST = 60.0, 1.0


class Needs:
    """The images of `kept` with their layers, and what is on its way in `arrivals`, all on the disk of `directory`."""

    def __init__(self, directory: Path, kept: Keeping, layers: Layers, arrivals: Arrivals) -> None:
        self._directory = directory
        self._kept = kept
        self._layers = layers
        self._arrivals = arrivals
        # The image that each task holds.
        self._users: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """What is being removed is removed."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def hold(self, user: str, image_id: str) -> None:
        """The task `user` needs the image: it is not removed."""
        self._users[user] = image_id
        self._kept.note_use(image_id)

    def release(self, user: str) -> None:
        """The task needs no image any longer. One that was to go with it goes."""
        image_id = self._users.pop(user, "")
        if image_id:
            self._kept.note_use(image_id)
        record = self._kept.catalogue.index.images.get(image_id)
        if record is not None and record.removed and not self.users_of(image_id):
            task = asyncio.create_task(self._remove_unused(image_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def users_of(self, image_id: str) -> list[str]:
        """The tasks that hold it."""
        return sorted(user for user, used in self._users.items() if used == image_id)

    async def remove(self, text: str, force: bool) -> RemoveImageResponse:
        """Remove a name, and the image with its last one. Raises ImageNotFound, ImageInUse."""
        async with self._kept.changing:
            match = self._kept.catalogue.find(text)
            image_id, index = match.image.id, self._kept.catalogue.index
            record = index.images[image_id]
            decided = removal.decide(text, match.name, record, self.users_of(image_id), force=force)
            if decided.record is not None:
                await self._kept.change(index.with_record(image_id, decided.record))
                return RemoveImageResponse(untagged=decided.untagged)
            return RemoveImageResponse(untagged=decided.untagged, deleted=await self._delete([image_id]))

    async def _remove_unused(self, image_id: str) -> None:
        async with self._kept.changing:
            record = self._kept.catalogue.index.images.get(image_id)
            if record is not None and record.removed and not self.users_of(image_id):
                try:
                    await self._delete([image_id])
                except OSError as error:
                    _log.warning("an image is not deleted", image=image_id, error=str(error))

    async def _delete(self, image_ids: Sequence[str]) -> list[str]:
        """The images and the layers that no others have: their ids."""
        await self._kept.change(self._kept.catalogue.index.without(image_ids))
        for image_id in image_ids:
            self._kept.configs.pop(image_id, None)
        return [*image_ids, *self._layers.collect()]

    async def prune(self, wanted: Callable[[ImageRecord, ImageConfig], bool], *, all: bool) -> PruneImagesResponse:
        """Remove images that no task needs, those of them that are `wanted`; with names only if `all`."""
        async with self._kept.changing:
            index = self._kept.newest()
            held = set(self._users.values())
            going = [
                image_id
                for image_id, record in index.images.items()
                if image_id not in held and (all or not record.tags) and wanted(record, self._kept.configs[image_id])
            ]
            answer = PruneImagesResponse(reclaimed_bytes=collection.freed(index, going))
            for image_id in going:
                record = index.images[image_id]
                names = sorted(record.tags | record.digests)
                answer.untagged.extend(ImageReference.parse(name).familiar for name in names)
            with said_in_words():
                answer.deleted.extend(await self._delete(going))
                # Half a layer is no image that anybody has.
                answer.reclaimed_bytes += await self._arrivals.collect(0)
            return answer

    async def collect_always(self, rules: Rules) -> None:
        """Look at the disk from time to time; runs until cancelled."""
        pause = min(_COLLECT_EVERY, max(_COLLECT_LEAST, rules.max_age / 2 or _COLLECT_EVERY))
        while True:
            await asyncio.sleep(pause)
            try:
                await self.collect(rules)
            except Exception:  # noqa: BLE001 - told in the log; the next time may be better
                _log.exception("unused images are not collected")

    async def collect(self, rules: Rules) -> list[str]:
        """Remove what nobody needs any more by these rules; the images' ids."""
        disk = await asyncio.to_thread(self._disk)
        full = rules.high and disk.used * 100 >= disk.total * rules.high
        if await self._arrivals.collect(0 if full else KEPT):
            disk = await asyncio.to_thread(self._disk)
        async with self._kept.changing:
            index = self._kept.newest()
            gone = collection.choose(index, set(self._users.values()), rules, disk, time.time())
            if gone:
                _log.info("removing images that nobody needs", images=gone, bytes=collection.freed(index, gone))
                COLLECTED.inc(len(gone))
                with said_in_words():
                    await self._delete(gone)
            else:
                await self._kept.write_uses()
            return gone

    def _disk(self) -> Disk:
        there = os.statvfs(self._directory)
        return Disk((there.f_blocks - there.f_bavail) * there.f_frsize, there.f_blocks * there.f_frsize)
