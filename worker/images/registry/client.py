"""`Registries`: all of them, as this node may talk to them."""

import asyncio
from collections.abc import AsyncIterator, Collection
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from flota.rpc.errors import Unavailable
from flota.v1.image_references import ImageReference
from flota.worker.images.credentials import Credentials, credentials
from flota.worker.images.registry.configuration import Configuration

if TYPE_CHECKING:
    from flota.worker.images.registry.repository import Repository


class Registries:
    """`insecure` are hosts that may speak plain HTTP or show any certificate, as those on this machine may; `limit` are
    seconds without a byte after which a registry is given up; `threads` wait for them."""

    def __init__(self, insecure: Collection[str], limit: float, threads: Executor) -> None:
        self._insecure = frozenset(insecure)
        self._limit = limit
        self._threads = threads
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @asynccontextmanager
    async def repository(self, name: ImageReference, auth: str) -> "AsyncIterator[Repository]":
        """Where `name` is, as long as the block lasts. `auth` is Docker's X-Registry-Auth.

        Raises InvalidArgument (auth), PullRefused (it is blocked), RegistryUnavailable (a file that cannot be read).
        """
        known = credentials(auth)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with self._repository(name, known) as made:
                yield made
        except asyncio.CancelledError:
            if self._stopping:
                raise Unavailable("this node's worker stops: try again later") from None
            raise
        finally:
            self._tasks.discard(task)

    async def stop(self) -> None:
        """Whoever still talks to one gets Unavailable."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def _repository(self, name: ImageReference, known: Credentials | None) -> "AsyncIterator[Repository]":
        configuration, repository = await asyncio.to_thread(_ready)
        endpoints = configuration.endpoints(name, self._insecure)
        async with AsyncExitStack() as stack:
            yield repository(name, endpoints, known, self._limit, self._threads, stack)


def _ready() -> "tuple[Configuration, type[Repository]]":
    """What is needed for talking to one, and not in memory before. Blocks. Raises RegistryUnavailable."""
    from flota.worker.images.registry.repository import Repository

    return Configuration.read(), Repository
