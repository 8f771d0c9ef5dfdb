"""Unpacked layers: each a directory that overlayfs takes as it is, shared by all images that have it.

    STATE/images/layers/NAME     whole layers; which is which says the index
                /recipes/NAME    how to make a layer's tar again (recipe.py)
                /incoming/NAME   being unpacked

A layer is called by its chain id (OCI image-spec, config.md): the digest of itself and of all below it. It is moved to
its place only when its content proved to be what the image says. Whatever directory the index does not name is rubbish,
of a crash or of a deletion, and deleted when it is found. Two who need one layer at once have it unpacked once.
"""

import asyncio
import hashlib
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from io import IOBase
from pathlib import Path

import structlog

from flota.rpc.errors import Unavailable
from flota.worker.images.archives import FoundImage
from flota.worker.images.compression import Readable, plain
from flota.worker.images.errors import BadImage, BadLayer
from flota.worker.images.index import LayerRecord
from flota.worker.images.metrics import UNPACKED
from flota.worker.images.unpack import total_size, unpack
from flota.worker.runtime import processes
from flota.worker.runtime.processes import to_the_end

_log = structlog.get_logger("images")
# More at once only wait for the disk and the processors.
_AT_ONCE = 2
_DELETION_LIMIT = 3600.0
# Seconds for which layers of a pull that failed stay.
_LINGER = 600.0


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Of every layer of an image, lowest first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            digest = hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
            chain.append(f"sha256:{digest}")
        else:
            chain.append(diff_id)
    return chain


class Layers:
    """The layers in `directory`. `used` are the chain ids that are to stay, whenever it is asked."""

    def __init__(self, directory: Path, threads: Executor, used: Callable[[], Collection[str]]) -> None:
        self.directory = directory / "layers"
        self.recipes = directory / "recipes"
        self.incoming = directory / "incoming"
        self._threads = threads
        self._used = used
        self._records: dict[str, LayerRecord] = {}
        # By those who are about to use them.
        self._pinned: Counter[str] = Counter()
        self._unpacking: dict[str, asyncio.Future[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._rubbish: list[Path] = []
        self._deleting: asyncio.Task[None] | None = None
        self._stopping = threading.Event()
        self._lingering: set[asyncio.TimerHandle] = set()

    def open(self, records: Mapping[str, LayerRecord], boot: str) -> None:
        """Make the directories, know these layers and find the rubbish. Blocks. Raises OSError."""
        self._boot = boot
        self._records = dict(records)
        known = {place / one.directory for one in records.values() for place in (self.directory, self.recipes)}
        for place in (self.directory, self.recipes, self.incoming):
            place.mkdir(parents=True, exist_ok=True)
            self._rubbish += set(place.iterdir()) - known

    def start(self) -> None:
        """After `open`: delete the rubbish."""
        self._delete()

    async def stop(self) -> None:
        """Unpacking ends with Unavailable; deleting goes on at the next start."""
        self._stopping.set()
        for handle in self._lingering:
            handle.cancel()
        if self._deleting is not None:
            self._deleting.cancel()
            await asyncio.wait([self._deleting])

    def is_whole(self, record: LayerRecord, boot: str) -> bool:
        """Whether it is there, and if it was new when the machine went down, all its bytes. Blocks.

        File systems give a file its size when its content is on the disk, not before.
        """
        directory = self.directory / record.directory
        return directory.is_dir() and (record.boot in ("", boot) or total_size(directory) == record.size)

    @contextmanager
    def pinned(self, chain: Sequence[str]) -> Iterator[None]:
        """These layers, where they are there, stay as long as the block lasts."""
        self._pinned.update(chain)
        try:
            yield
        finally:
            self._pinned.subtract(chain)
            self.collect()

    def linger(self, chain: Sequence[str]) -> None:
        """What is there of these layers stays for a while: somebody will try again."""
        self._pinned.update(chain)
        handle = asyncio.get_running_loop().call_later(_LINGER, self._let_go, tuple(chain))
        self._lingering.add(handle)

    def _let_go(self, chain: Sequence[str]) -> None:
        now = asyncio.get_running_loop().time()
        self._lingering = {one for one in self._lingering if one.when() > now}
        self._pinned.subtract(chain)
        self.collect()

    def __contains__(self, chain_id: str) -> bool:
        return chain_id in self._records

    @asynccontextmanager
    async def provided(self, image: FoundImage) -> AsyncIterator[dict[str, LayerRecord]]:
        """The image's layers by chain id, lowest first, unpacked where they were not there yet.

        When the block ends they go again, unless they are `used` by then. Raises BadImage, Unavailable, OSError.
        """
        chain = chain_ids(image.config.diff_ids)
        with self.pinned(chain):
            for number, chain_id in enumerate(chain):
                below = [self.directory / self._records[one].directory for one in chain[:number]]
                await self._provide(image, number, chain_id, below)
            yield {chain_id: self._records[chain_id] for chain_id in chain}

    def collect(self) -> list[str]:
        """Delete the layers that nobody uses, in the background. Their chain ids."""
        used = self._used()
        unused = [one for one in self._records if one not in used and self._pinned[one] <= 0]
        self._pinned = +self._pinned
        for name in [self._records.pop(chain_id).directory for chain_id in unused]:
            self._rubbish += [self.directory / name, self.recipes / name]
        self._delete()
        return unused

    async def deleted(self) -> None:
        """Until what was collected is gone from the disk."""
        if self._deleting is not None:
            await asyncio.wait([self._deleting])

    async def _provide(self, image: FoundImage, number: int, chain_id: str, below: Sequence[Path]) -> None:
        if chain_id not in self._records and image.arrival is not None:
            await image.arrival(number)
        while (pending := self._unpacking.get(chain_id)) is not None:
            # If that fails we try with what we have ourselves.
            await asyncio.wait([pending])
        if chain_id in self._records:
            return
        self._unpacking[chain_id] = done = asyncio.get_running_loop().create_future()
        try:
            async with self._places:
                # A thread cannot be interrupted, and what it made must not be forgotten.
                await to_the_end(self._unpack_layer(image, number, chain_id, below))
        finally:
            del self._unpacking[chain_id]
            done.set_result(None)

    async def _unpack_layer(self, image: FoundImage, number: int, chain_id: str, below: Sequence[Path]) -> None:
        diff_id, opener = image.config.diff_ids[number], image.layers[number]
        loop = asyncio.get_running_loop()
        self._records[chain_id] = await loop.run_in_executor(self._threads, self._unpack, diff_id, opener, below)
        UNPACKED.inc()

    def _unpack(self, diff_id: str, opener: Callable[[], Readable], below: Sequence[Path]) -> LayerRecord:
        name = secrets.token_hex(6)
        incoming = self.incoming / name
        incoming.mkdir()
        # Whatever the umask.
        incoming.chmod(0o755)
        recipe = self.recipes / name
        try:
            with _opened(opener) as packed, recipe.open("wb") as file:
                made = unpack(_Stoppable(plain(packed), self._stopping), incoming, below, file)
            if made.diff_id != diff_id:
                raise BadLayer(f"it is damaged: its digest is {made.diff_id}")
            incoming.rename(self.directory / name)
        except BaseException as error:
            self._rubbish += [incoming, recipe]
            if isinstance(error, BadLayer):
                raise BadImage(f"layer {diff_id}: {error}") from None
            raise
        return LayerRecord(name, diff_id, made.size, self._boot, made.tar_size)

    def _delete(self) -> None:
        if self._rubbish and not self._stopping.is_set() and (self._deleting is None or self._deleting.done()):
            self._deleting = asyncio.create_task(self._delete_rubbish())

    async def _delete_rubbish(self) -> None:
        # One process for many files: it can be stopped, and does not keep the interpreter.
        while rubbish := self._rubbish:
            self._rubbish = []
            try:
                done = await processes.run(["rm", "-rf", "--", *map(str, rubbish)], limit=_DELETION_LIMIT)
            except (OSError, TimeoutError) as error:
                _log.warning("old layers are not deleted", error=str(error))
            else:
                if done.code != 0:
                    _log.warning("old layers are not deleted", error=done.output)


@contextmanager
def _opened(opener: Callable[[], Readable]) -> Iterator[Readable]:
    """A source, closed afterwards if it is one to be closed, also when an error still refers to it."""
    source = opener()
    try:
        yield source
    finally:
        if isinstance(source, IOBase):
            source.close()


class _Stoppable:
    """A source that ends when the store does."""

    def __init__(self, source: Readable, stopping: threading.Event) -> None:
        self._source = source
        self._stopping = stopping

    def read(self, size: int, /) -> bytes:
        if self._stopping.is_set():
            raise Unavailable("this node's worker stops: try again later")
        return self._source.read(size)
