"""`Registries`: all of them, as this node may talk to them."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flota.rpc.errors import Unavailable
from flota.v1.image_references import ImageReference
from flota.worker.images.credentials import credentials, name_and_password
from flota.worker.images.errors import PullRefused
from flota.worker.images.registry.configuration import Configuration
from flota.worker.images.registry.failures import Failures

if TYPE_CHECKING:
    from flota.worker.images.registry.pushing import Destination
    from flota.worker.images.registry.repository import Repository
    from flota.worker.images.registry.transport import Transport


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
        async with self._talking():
            configuration, repository = await asyncio.to_thread(_for_pulling)
            endpoints = configuration.endpoints(name, self._insecure)
            async with AsyncExitStack() as stack:
                yield repository(name, endpoints, known, self._limit, self._threads, stack)

    @asynccontextmanager
    async def destination(
        self, name: ImageReference, auth: str, sources: Sequence[str] = ()
    ) -> "AsyncIterator[Destination]":
        """Where `name` is to be, as long as the block lasts; blobs may be mounted from the repositories `sources` of
        the same registry. Raises like `repository`.
        """
        known = credentials(auth)
        scopes = [f"repository:{name.path}:pull,push", *(f"repository:{one}:pull" for one in sources)]
        async with self._talking():
            configuration, destination, transport = await asyncio.to_thread(_for_pushing)
            # Mirrors are asked, never told.
            endpoint = configuration.endpoints(name, self._insecure)[-1]
            failures = Failures(name.familiar, endpoint.host, self._limit, f"pushing {name.familiar} to")
            shown = known if endpoint.host == name.host else None
            async with transport(endpoint, shown, failures, self._limit, self._threads, scopes) as made:
                yield destination(made)

    async def check(self, host: str, auth: str) -> None:
        """Whether a registry takes a name and a password.

        Raises PullRefused if it does not, InvalidArgument (auth), RegistryUnavailable.
        """
        name_and_password(auth)
        async with self._talking():
            configuration, _, transport = await asyncio.to_thread(_for_pushing)
            # Any name will do.
            endpoint = replace(configuration.endpoints(ImageReference(host, "any"), self._insecure)[-1], path="")
            failures = Failures("", host, self._limit, "showing credentials to")
            try:
                async with transport(endpoint, credentials(auth), failures, self._limit, self._threads) as made:
                    await made.check()
            except PullRefused as error:
                raise PullRefused(f"registry {host} does not take these credentials: {error.said}") from None

    async def stop(self) -> None:
        """Whoever still talks to one gets Unavailable."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def _talking(self) -> AsyncIterator[None]:
        """As long as a task talks to one: it is told when this node's worker stops."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._stopping:
                raise Unavailable("this node's worker stops: try again later") from None
            raise
        finally:
            self._tasks.discard(task)


# What is needed for talking to a registry is in memory only when somebody does. These block, and raise
# RegistryUnavailable.


def _for_pulling() -> "tuple[Configuration, type[Repository]]":
    from flota.worker.images.registry.repository import Repository

    return Configuration.read(), Repository


def _for_pushing() -> "tuple[Configuration, type[Destination], type[Transport]]":
    from flota.worker.images.registry.pushing import Destination
    from flota.worker.images.registry.transport import Transport

    return Configuration.read(), Destination, Transport
