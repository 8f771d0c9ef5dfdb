"""Pulling: from a name at some registry to an image in the store, however many ask for it, once.

    what the tag stands for ──► (an index: this machine's) manifest ──► configuration ──► layers that are not here yet

Layers come several at a time. One is unpacked as soon as it has come and proved to be what the manifest says, while
others are on their way; those that are here are not fetched again. What came for a pull that broke off stays, whole or
not, so the next one goes on from there.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flota.rpc.errors import Unavailable
from flota.v1.image_references import ImageReference
from flota.worker.images.archives import FoundImage, Manifest, choose, descriptor_digest, digest_of, made
from flota.worker.images.compression import Readable
from flota.worker.images.errors import BadImage, PullRefused, RegistryUnavailable
from flota.worker.images.layers import Layers, chain_ids
from flota.worker.images.metrics import PULL, PULLS
from flota.worker.images.platforms import MachinePlatform
from flota.worker.images.registry.arriving import Arrivals
from flota.worker.images.registry.client import Registries
from flota.worker.runtime.processes import to_the_end

if TYPE_CHECKING:
    from flota.worker.images.registry.repository import Repository

# Layers of one image that come at once: more share the same line, fewer leave it idle when one is slow to begin.
_AT_ONCE = 4
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
    """`arrivals` are layers on their way, `store` keeps an image and gives back its id."""

    def __init__(
        self, registries: Registries, layers: Layers, platform: MachinePlatform, arrivals: Arrivals, store: Store
    ) -> None:
        self._registries = registries
        self._layers = layers
        self._platform = platform
        self._arrivals = arrivals
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
        async with self._registries.repository(name, auth) as repository:
            say(Word(f"Pulling from {name.familiar_name}"))
            manifest, digests = await self._manifest(repository, name)
            configuration = await repository.configuration(manifest.config)
            if digest_of(configuration) != manifest.config:
                raise BadImage(f"{name.familiar} is damaged: its configuration's digest is {digest_of(configuration)}")
            arrival = _Arrival(manifest, say, self._arrivals)
            image = made(configuration, arrival.openers(), names=(name,), digests=digests, manifest=manifest.data)
            chain = chain_ids(image.config.diff_ids)
            with self._layers.pinned(chain):
                missing = [number for number, chain_id in enumerate(chain) if chain_id not in self._layers]
                arrival.expect(missing)
                if missing:
                    image_id = await self._fetch(repository, image, arrival)
                else:
                    image_id = await self._store(image)
            say(Word(f"Digest: {digests[0]}"))
            return image_id

    async def _manifest(self, repository: "Repository", name: ImageReference) -> tuple[Manifest, tuple[str, ...]]:
        """The image's manifest, and the digests it is known by."""
        manifest = await self._checked(repository, name)
        if not manifest.is_index:
            return manifest, (manifest.digest,)
        chosen = descriptor_digest(choose(manifest.images(), self._platform, name.familiar))
        image = await self._checked(repository, replace(name, tag="", digest=chosen))
        return image, (manifest.digest, image.digest)

    async def _checked(self, repository: "Repository", name: ImageReference) -> Manifest:
        data = await repository.manifest(name)
        digest = digest_of(data)
        if name.digest and digest != name.digest:
            raise BadImage(f"{name.familiar} is damaged: the digest of what the registry has is {digest}")
        return Manifest(data, digest)

    async def _fetch(self, repository: "Repository", image: FoundImage, arrival: "_Arrival") -> str:
        """Fetch and store at the same time."""
        keep = False
        self._arrivals.hold(arrival.wanted)
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    places = asyncio.Semaphore(_AT_ONCE)
                    for digest in arrival.wanted:
                        group.create_task(self._layer(repository, digest, arrival, places))
                    stored = group.create_task(self._store(replace(image, arrival=arrival.wait)))
            except BaseExceptionGroup as errors:
                # What fails first is the reason; the rest was cancelled.
                raise errors.exceptions[0] from None
            return stored.result()
        except RegistryUnavailable:
            self._layers.linger(chain_ids(image.config.diff_ids))
            keep = True
            raise
        except (Unavailable, PullRefused, asyncio.CancelledError):
            # Whoever tries again goes on from here. After anything else that would help nobody.
            keep = True
            raise
        finally:
            await to_the_end(self._arrivals.release(arrival.wanted, keep=keep))

    async def _layer(
        self, repository: "Repository", digest: str, arrival: "_Arrival", places: asyncio.Semaphore
    ) -> None:
        async with places:
            await repository.layer(self._arrivals, digest, arrival.size(digest), partial(arrival.note, digest))
        arrival.has_come(digest)


class _Arrival:
    """The layers of an image on their way: who waits for one, and what people are told."""

    def __init__(self, manifest: Manifest, say: Say, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._layers = manifest.layers
        self._sizes = dict(zip(manifest.layers, manifest.sizes, strict=True))
        self._say = say
        # Digests of the layers that are not here yet, lowest first.
        self.wanted: list[str] = []
        # How much of each has come.
        self._now: dict[str, int] = {}
        self._come: set[str] = set()
        self._news = asyncio.Event()
        self._told_at = 0.0
        self._told = ""

    def openers(self) -> list[Callable[[], Readable]]:
        """One for each layer."""
        return [partial(_open, self._arrivals.path(digest)) for digest in self._layers]

    def expect(self, missing: list[int]) -> None:
        """Only these are wanted."""
        self.wanted = list(dict.fromkeys(self._layers[number] for number in missing))
        for digest in dict.fromkeys(self._layers):
            if digest not in self.wanted:
                self._say(Word(f"{_short(digest)}: Already exists"))

    def size(self, digest: str) -> int:
        """In bytes, as the manifest says; 0 = it does not."""
        return self._sizes[digest]

    def note(self, digest: str, size: int, words: str) -> None:
        """So much of a layer has come, and perhaps something happened."""
        self._now[digest] = size
        if words:
            self._say(Word(f"{_short(digest)}: {words}"))
        self._tell()

    def has_come(self, digest: str) -> None:
        """A layer is whole, and what it should be."""
        self._now[digest] = self._sizes[digest]
        self._come.add(digest)
        self._say(Word(f"{_short(digest)}: Download complete"))
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self, number: int) -> None:
        """Until a layer is there."""
        while self._layers[number] not in self._come:
            await self._news.wait()

    def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        size, total = sum(self._now.values()), sum(self._sizes[digest] for digest in self.wanted)
        line = f"Downloading {size / _MEGABYTE:.1f} MB of {total / _MEGABYTE:.1f} MB"
        if now - self._told_at >= _TELL_EVERY and line != self._told:
            self._told_at, self._told = now, line
            self._say(Word(line, size, total))


def _open(path: Path) -> Readable:
    return path.open("rb", buffering=0)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]
