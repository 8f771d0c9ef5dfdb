"""The index of images, in memory and on the disk: every change of it is on the disk before anybody is told.

    STATE/images/index.json    what there is, and what it is called (index.py)
                /blobs         manifests and configurations

What a crash of the machine may have damaged is looked at once, at the next start.
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from flota.rpc.errors import Internal
from flota.worker.images.archives import FoundImage
from flota.worker.images.catalogue import Catalogue
from flota.worker.images.config import ImageConfig
from flota.worker.images.files import Blobs
from flota.worker.images.index import Index
from flota.worker.images.layers import Layers
from flota.worker.images.metrics import BYTES, IMAGES
from flota.worker.runtime.processes import to_the_end

_log = structlog.get_logger("images")
# The kernel writes what is new to the disk within 30 s or so by itself; asked earlier, everybody would wait for it.
_SETTLE_AFTER = 45.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

P = ParamSpec("P")
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


class Keeping:
    """See the module's docstring. `catalogue` is what there is; whoever changes it holds `changing`."""

    def __init__(self, directory: Path, layers: Layers, threads: Executor) -> None:
        self.catalogue = Catalogue(Index(), {})
        self.configs: dict[str, ImageConfig] = {}
        # One change of the index after the other.
        self.changing = asyncio.Lock()
        self._directory = directory
        self._path = directory / "index.json"
        self._blobs = Blobs(directory / "blobs")
        self._layers = layers
        self._threads = threads
        # When images were last needed, in seconds since 1970, since the index was last written.
        self._used: dict[str, float] = {}
        self._settling: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Nothing is written any longer."""
        if self._settling is not None:
            self._settling.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # When images were last needed.

    def note_use(self, image_id: str) -> None:
        """It is needed now."""
        self._used[image_id] = time.time()

    def last_used(self, image_id: str) -> float:
        """In seconds since 1970."""
        return max(self.catalogue.index.images[image_id].used, self._used.get(image_id, 0.0))

    async def write_uses(self) -> None:
        """Have them on the disk, if there are new ones. Raises OSError."""
        if self._used:
            await self.change(self.catalogue.index)

    # What there is.

    def newest(self) -> Index:
        """The index with the newest uses."""
        return self.catalogue.index.with_uses(self._used)

    def configuration(self, image_id: str) -> bytes:
        """As it came. Raises Internal."""
        data = self._blobs.get(image_id)
        if data is None:
            raise Internal(f"the configuration of image {image_id} is damaged on this node: pull or load it anew")
        return data

    def manifest(self, digest: str) -> bytes:
        """As it came; empty if it is damaged. Blocks."""
        return self._blobs.get(digest) or b""

    def open(self) -> None:
        """Read what there is. Blocks. Raises OSError, ValueError (the index is damaged: no layer is touched then)."""
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
                self.configs[image_id] = ImageConfig.parse(configuration)
        kept = index.without(gone)
        return kept.on_disk(chain_id for chain_id, layer in kept.layers.items() if layer.boot != boot)

    async def change(self, index: Index, image: FoundImage | None = None) -> None:
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
        self.catalogue = Catalogue(index, self.configs)
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

    def settle_later(self) -> None:
        """Layers are not synced when they are unpacked; some time later that costs next to nothing."""
        if self._settling is None and any(one.boot for one in self.catalogue.index.layers.values()):
            self._settling = asyncio.get_running_loop().call_later(_SETTLE_AFTER, self._settle_now)

    def _settle_now(self) -> None:
        self._settling = None
        task = asyncio.create_task(self._settle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        before = list(self.catalogue.index.layers)
        try:
            await self._in_thread(_sync, self._directory)
            async with self.changing:
                await self.change(self.catalogue.index.on_disk(before))
        except OSError as error:
            _log.warning("layers could not be synced to the disk", error=str(error))
        self.settle_later()

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _sync(directory: Path) -> None:
    """Wait until the file system has everything on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)
