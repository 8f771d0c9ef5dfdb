"""Pulling: from a name at some registry to an image in the store, however many ask for it, once.

    what the tag stands for ──► (an index: this machine's) manifest ──► configuration ──► layers that are not here yet

A layer is unpacked as soon as it has come, while others are on their way; those that are here are not fetched again.
What came of a pull that the registry broke off stays for a while, so the next try goes on from there.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flota.rpc.errors import Unavailable
from flota.v1.image_references import ImageReference
from flota.worker.images.archives import FoundImage, Manifest, choose, descriptor_digest, digest_of, made
from flota.worker.images.compression import Readable
from flota.worker.images.errors import BadImage, RegistryUnavailable
from flota.worker.images.layers import Layers, chain_ids
from flota.worker.images.metrics import PULL, PULLS
from flota.worker.images.platforms import MachinePlatform
from flota.worker.images.skopeo import Arrived, Repository, Skopeo
from flota.worker.runtime.processes import to_the_end

_SHORT = 12
_MEGABYTE = 1_000_000
# Seconds between words about how much has come.
_TELL_EVERY = 1.0


@dataclass(frozen=True)
class Word:
    """For people who wait: a line, and how many bytes have come of how many (0 of 0: it is not about that)."""

    line: str
    current: int = 0
    total: int = 0


Say = Callable[[Word], None]
Store = Callable[[FoundImage], Coroutine[Any, Any, str]]


@dataclass
class _Pull:
    """One that is under way, and who waits for it."""

    task: asyncio.Task[str]
    listeners: list[Say]


class Puller:
    """`directory` is for what is on its way, `store` keeps an image and gives back its id."""

    def __init__(
        self, skopeo: Skopeo, layers: Layers, platform: MachinePlatform, directory: Path, store: Store
    ) -> None:
        self._skopeo = skopeo
        self._layers = layers
        self._platform = platform
        self._directory = directory
        self._store = store
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._tasks: set[asyncio.Task[str]] = set()
        self._stopping = False

    async def pull(self, name: ImageReference, auth: str, say: Say) -> str:
        """The image's id. `say` gets lines for people.

        Raises ImageNotFound, BadImage, InvalidArgument (auth), PullRefused, RegistryUnavailable, Unavailable, OSError.
        """
        key = (str(name), auth)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = self._begin(name, auth)
        pull.listeners.append(say)
        try:
            return await asyncio.shield(pull.task)
        except asyncio.CancelledError:
            if self._stopping and pull.task.cancelled():
                raise Unavailable("this node's worker stops: try again later") from None
            raise
        finally:
            pull.listeners.remove(say)
            if not pull.listeners:
                # It is over, or nobody needs it any more.
                pull.task.cancel()
                if self._pulls.get(key) is pull:
                    del self._pulls[key]

    async def stop(self) -> None:
        """What is under way ends with Unavailable."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, name: ImageReference, auth: str) -> _Pull:
        listeners: list[Say] = []

        def tell(word: Word) -> None:
            for listener in list(listeners):
                listener(word)

        def ended(task: asyncio.Task[str]) -> None:
            self._tasks.discard(task)
            # Also seen if all who waited have gone.
            error = None if task.cancelled() else task.exception()
            PULLS.labels("given up" if task.cancelled() else "failed" if error is not None else "done").inc()
            if not task.cancelled() and error is None:
                PULL.observe(loop.time() - began)

        loop = asyncio.get_running_loop()
        began = loop.time()
        task = asyncio.create_task(self._pull(name, auth, tell), name=f"pull {name.familiar}")
        self._tasks.add(task)
        task.add_done_callback(ended)
        return _Pull(task, listeners)

    async def _pull(self, name: ImageReference, auth: str, say: Say) -> str:
        if name.digest:
            # What else is said of it cannot change what it is.
            name = replace(name, tag="")
        async with self._skopeo.repository(name, auth, self._directory) as repository:
            say(Word(f"Pulling from {name.familiar_name}"))
            manifest, digests = await self._manifest(repository, name)
            exact = replace(name, tag="", digest=manifest.digest)
            configuration = await repository.configuration(exact)
            if digest_of(configuration) != manifest.config:
                raise BadImage(f"{name.familiar} is damaged: its configuration's digest is {digest_of(configuration)}")
            arrival = _Arrival(repository, manifest, say, self._layers.kept)
            image = made(configuration, arrival.openers(), names=(name,), digests=digests, manifest=manifest.data)
            chain = chain_ids(image.config.diff_ids)
            with self._layers.pinned(chain):
                missing = [number for number, chain_id in enumerate(chain) if chain_id not in self._layers]
                arrival.expect(missing)
                if missing:
                    image_id = await self._fetch(repository, exact, image, arrival)
                else:
                    image_id = await self._store(image)
            say(Word(f"Digest: {digests[0]}"))
            return image_id

    async def _manifest(self, repository: Repository, name: ImageReference) -> tuple[Manifest, tuple[str, ...]]:
        """The image's manifest, and the digests it is known by."""
        manifest = await self._checked(repository, name)
        if not manifest.is_index:
            return manifest, (manifest.digest,)
        chosen = descriptor_digest(choose(manifest.images(), self._platform, name.familiar))
        image = await self._checked(repository, replace(name, tag="", digest=chosen))
        return image, (manifest.digest, image.digest)

    async def _checked(self, repository: Repository, name: ImageReference) -> Manifest:
        data = await repository.manifest(name)
        digest = digest_of(data)
        if name.digest and digest != name.digest:
            raise BadImage(f"{name.familiar} is damaged: the digest of what the registry has is {digest}")
        return Manifest(data, digest)

    async def _fetch(
        self, repository: Repository, exact: ImageReference, image: FoundImage, arrival: "_Arrival"
    ) -> str:
        """Fetch and store at the same time."""
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(repository, exact, arrival))
                    stored = group.create_task(self._store(replace(image, arrival=arrival.wait)))
            except BaseExceptionGroup as errors:
                # What fails first is the reason; the rest was cancelled.
                raise errors.exceptions[0] from None
        except RegistryUnavailable:
            # Whoever tries again goes on from here.
            self._layers.linger(chain_ids(image.config.diff_ids))
            await to_the_end(asyncio.to_thread(arrival.keep))
            raise
        except BadImage:
            await to_the_end(asyncio.to_thread(arrival.forget))
            raise
        await to_the_end(asyncio.to_thread(arrival.forget))
        return stored.result()

    async def _copy(self, repository: Repository, exact: ImageReference, arrival: "_Arrival") -> None:
        await repository.copy(exact, arrival.note)
        if lacking := arrival.lacking:
            raise RegistryUnavailable(f"layers of {exact.familiar} did not come: {', '.join(sorted(lacking))}")


class _Arrival:
    """The layers of an image on their way: who waits for one, and what people are told."""

    def __init__(self, repository: Repository, manifest: Manifest, say: Say, kept: Path) -> None:
        """`kept` is where layers wait that came for a pull that failed."""
        self._directory = repository.blobs
        self._kept = kept
        self._layers = manifest.layers
        self._sizes = dict(zip(manifest.layers, manifest.sizes, strict=True))
        self._say = say
        self._wanted: set[str] = set()
        self._there: frozenset[str] = frozenset()
        self._news = asyncio.Event()
        self._told_at = 0.0
        self._told = ""

    def openers(self) -> list[Callable[[], Readable]]:
        """One for each layer."""
        return [partial(_open, self._path(digest)) for digest in self._layers]

    def expect(self, missing: list[int]) -> None:
        """Only these are wanted. The others seem to be there already, which keeps skopeo from fetching them."""
        self._wanted = {self._layers[number] for number in missing}
        self._directory.mkdir(parents=True)
        for digest in dict.fromkeys(self._layers):
            if digest in self._wanted:
                with suppress(FileNotFoundError):
                    os.link(self._kept / self._path(digest).name, self._path(digest))
            else:
                self._path(digest).touch()
                self._say(Word(f"{_short(digest)}: Already exists"))

    def keep(self) -> None:
        """What has come stays for the next try. Blocks."""
        with suppress(OSError):
            self._kept.mkdir(exist_ok=True)
            for digest in self._there & self._wanted:
                with suppress(FileExistsError, FileNotFoundError):
                    os.link(self._path(digest), self._kept / self._path(digest).name)

    def forget(self) -> None:
        """No next try needs it. Blocks."""
        for digest in self._wanted:
            (self._kept / self._path(digest).name).unlink(missing_ok=True)

    def note(self, now: Arrived) -> None:
        """There is more."""
        for digest in sorted((now.whole & self._wanted) - self._there):
            self._say(Word(f"{_short(digest)}: Download complete"))
        if now.whole - self._there:
            self._there = now.whole
            self._news.set()
            self._news = asyncio.Event()
        self._tell(now.size)

    @property
    def lacking(self) -> set[str]:
        """What is wanted and has not come."""
        return self._wanted - self._there

    async def wait(self, number: int) -> None:
        """Until a layer is there."""
        while self._layers[number] not in self._there:
            await self._news.wait()

    def _tell(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        total = sum(self._sizes[digest] for digest in self._wanted)
        line = f"Downloading {size / _MEGABYTE:.1f} MB of {total / _MEGABYTE:.1f} MB"
        if now - self._told_at >= _TELL_EVERY and line != self._told:
            self._told_at, self._told = now, line
            self._say(Word(line, size, total))

    def _path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix("sha256:")


def _open(path: Path) -> Readable:
    return path.open("rb", buffering=0)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]
