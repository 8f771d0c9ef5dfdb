"""Giving blobs and manifests to one repository (OCI distribution, "Push").

    is it there already? ──► is it at the same registry under another name, to be mounted? ──► it is sent, and named

A blob is sent in one request. One that breaks off is sent anew: distribution's registry, which most are, answered that
it knows nothing of an upload any longer whose connection broke (2.8.2, a PATCH that was cut).
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote, urljoin

from flota.rpc.errors import FlotaError
from flota.worker.images.errors import RegistryUnreachable
from flota.worker.images.registry import fetching
from flota.worker.images.registry.failures import Interrupted
from flota.worker.images.registry.transport import Transport

_PIECE = 256 << 10
_LONGEST_WAIT = 10.0
# How registries say that they know nothing of it, or do not tell.
_NOT_TOLD = (400, 403, 404, 405)
_BYTES = "application/octet-stream"

# Gets how much of it has gone out, and a line for people or "".
Note = Callable[[int, str], None]


@dataclass(frozen=True)
class Blob:
    """What is to be sent: `open` gives a file that begins with it."""

    digest: str
    size: int
    open: Callable[[], BinaryIO]


class Destination:
    """One repository to which something is given."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._failures = transport.failures

    async def has(self, digest: str) -> bool:
        """Whether a blob is there. Raises PullRefused, RegistryUnavailable."""
        async with self._transport.request("HEAD", f"blobs/{digest}", {}, also=_NOT_TOLD) as answer:
            return answer.status == 200

    async def mount(self, digest: str, source: str) -> bool:
        """Have a blob that the repository `source` of the same registry has. It may have other ideas."""
        path = f"blobs/uploads/?mount={quote(digest)}&from={quote(source, safe='')}"
        try:
            async with self._transport.request("POST", path, {"Content-Length": "0"}) as answer:
                if answer.status == 201:
                    return True
                begun = urljoin(answer.url, answer.header("Location")) if answer.header("Location") else ""
            if begun:
                # It waits for the blob in place of mounting it.
                async with self._transport.request("DELETE", begun, {}, also=_NOT_TOLD):
                    pass
        except FlotaError:
            # Then it is sent, and what is wrong will be said.
            return False
        return False

    async def send(self, blob: Blob, note: Note) -> None:
        """Have it there. Raises PullRefused, RegistryUnavailable, OSError (the file)."""
        for failed in itertools.count():
            try:
                # The answer may have been lost, and nothing else.
                if not failed or not await self.has(blob.digest):
                    await self._send(blob, note)
                return
            except (Interrupted, RegistryUnreachable) as error:
                silent = isinstance(error, Interrupted) and error.silent
                if failed >= fetching.TRIES or silent:
                    raise
                wait = error.wait if isinstance(error, Interrupted) else 0.0
                pause = min(fetching.FIRST_WAIT * 2**failed, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
                note(0, f"Retrying in {max(wait, pause):.1f} s")
                await asyncio.sleep(max(wait, pause))

    async def manifest(self, tag: str, kind: str, data: bytes) -> None:
        """What `tag` stands for from now on; all that it names is there. Raises PullRefused, RegistryUnavailable."""
        headers = {"Content-Type": kind}
        for wait in (*fetching.WAITS, None):
            try:
                async with self._transport.request("PUT", f"manifests/{tag}", headers, data):
                    return
            except Interrupted as error:
                if wait is None or error.silent:
                    raise
                await asyncio.sleep(max(wait, error.wait))

    async def _send(self, blob: Blob, note: Note) -> None:
        async with self._transport.request("POST", "blobs/uploads/", {"Content-Length": "0"}) as answer:
            if not answer.header("Location"):
                raise self._failures.other(f"status {answer.status}, and not a word where a layer is to go")
            address = urljoin(answer.url, answer.header("Location"))
        loop = asyncio.get_running_loop()
        trouble: OSError | None = None

        def parts() -> Iterator[bytes]:
            nonlocal trouble
            try:
                with blob.open() as file:
                    sent = 0
                    while part := file.read(_PIECE):
                        yield part
                        sent += len(part)
                        loop.call_soon_threadsafe(note, sent, "")
            except OSError as error:
                trouble = error
                raise

        named = f"{address}{'&' if '?' in address else '?'}digest={quote(blob.digest)}"
        headers = {"Content-Type": _BYTES, "Content-Length": str(blob.size)}
        try:
            async with self._transport.request("PUT", named, headers, parts):
                pass
        except FlotaError:
            if trouble is not None:
                raise trouble from None
            raise
