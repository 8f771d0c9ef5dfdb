"""One repository while something is pulled from it: at the first of its endpoints that has what is asked for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import TypeVar

from flota.rpc.errors import FlotaError
from flota.v1.image_references import ImageReference
from flota.worker.images.credentials import Credentials
from flota.worker.images.registry.arriving import Arrivals
from flota.worker.images.registry.configuration import Endpoint
from flota.worker.images.registry.failures import Failures, Interrupted
from flota.worker.images.registry.fetching import WAITS, Note, fetch
from flota.worker.images.registry.transport import Transport

_LARGEST_DOCUMENT = 16 << 20
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)

T = TypeVar("T")


class Repository:
    """See the module's docstring. What it opens is closed by `stack`."""

    def __init__(
        self,
        name: ImageReference,
        endpoints: Sequence[Endpoint],
        credentials: Credentials | None,
        limit: float,
        threads: Executor,
        stack: AsyncExitStack,
    ) -> None:
        self._name = name
        self._endpoints = list(endpoints)
        self._credentials = credentials
        self._limit = limit
        self._threads = threads
        self._stack = stack
        self._open: dict[Endpoint, Transport] = {}
        self._chosen: Endpoint | None = None

    async def manifest(self, name: ImageReference) -> bytes:
        """What a tag or digest stands for, as it is. Its endpoint is asked first from then on.

        Raises ImageNotFound, PullRefused, RegistryUnavailable.
        """
        path = f"manifests/{name.digest or name.tag}"
        return await self._first(lambda transport: _document(transport, path, {"Accept": _MANIFESTS}))

    async def configuration(self, digest: str) -> bytes:
        """The configuration of that digest, as it is. Raises like `manifest`."""
        return await self._first(lambda transport: _document(transport, f"blobs/{digest}", {}))

    async def layer(self, arrivals: Arrivals, digest: str, size: int, note: Note) -> None:
        """Have it in `arrivals`, where it is held; `size` is what the manifest says of it.

        Raises BadImage, PullRefused, RegistryUnavailable, OSError (the file).
        """
        async with arrivals.writing(digest) as part:
            if not arrivals.proved(digest):
                await self._first(lambda transport: fetch(transport, digest, size, part, note))
                arrivals.prove(digest)

    async def _first(self, ask: Callable[[Transport], Awaitable[T]]) -> T:
        """The answer of the first endpoint that has one; if none has, what the registry itself says."""
        said: FlotaError | None = None
        # What belongs together should come from one place.
        for endpoint in sorted(self._endpoints, key=lambda one: one != self._chosen):
            try:
                found = await ask(await self._transport(endpoint))
            except FlotaError as error:
                if said is None or endpoint is self._endpoints[-1]:
                    said = error
            else:
                self._chosen = endpoint
                return found
        assert said is not None
        raise said

    async def _transport(self, endpoint: Endpoint) -> Transport:
        if endpoint not in self._open:
            # A person's credentials are for the registry they were given for, not for its mirrors.
            known = self._credentials if endpoint.host == self._name.host else None
            failures = Failures(self._name.familiar, endpoint.host, self._limit)
            made = Transport(endpoint, known, failures, self._limit, self._threads)
            self._open[endpoint] = await self._stack.enter_async_context(made)
        return self._open[endpoint]


async def _document(transport: Transport, path: str, headers: dict[str, str]) -> bytes:
    for wait in (*WAITS, None):
        try:
            async with transport.get(path, headers) as answer:
                return await answer.document(_LARGEST_DOCUMENT)
        except Interrupted as error:
            if wait is None or error.silent:
                raise
            await asyncio.sleep(max(wait, error.wait))
    raise AssertionError
