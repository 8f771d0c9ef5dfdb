"""One blob, over as many connections as it takes, each going on where the last one broke (RFC 9110, 14: ranges).

What came before a crash, or from a server that does not know ranges, is never simply believed: only the digest of the
whole says that it is what it should be. If it is not, and it was put together from several answers, it is fetched anew.
"""

import asyncio
import random
import re
import time
from collections.abc import Callable

from flota.worker.images.errors import BadImage, RegistryUnreachable
from flota.worker.images.registry.arriving import Part
from flota.worker.images.registry.failures import Interrupted
from flota.worker.images.registry.transport import Answer, Transport

# So many times in a row it may bring nothing, and it is this much that is something.
TRIES = 5
_SOMETHING = 64 << 10
# Seconds before the next try: twice as long each time, and a part of that by chance.
FIRST_WAIT = 0.2
_LONGEST_WAIT = 10.0
# Documents are small: who asks again gets all of it. Seconds to wait, unless the registry says how many.
WAITS = (0.3, 1.0, 2.0)
# Seconds between words about how far it is.
_TELL_EVERY = 0.1
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

# Gets how far it is, and a line for people or "".
Note = Callable[[int, str], None]


async def fetch(transport: Transport, digest: str, size: int, part: Part, note: Note) -> None:
    """Have all of it in `part`; `size` is what the manifest says, 0 = nothing.

    Raises BadImage (it is not what it should be), PullRefused, RegistryUnavailable, OSError (the file).
    """
    # Of several answers, or of earlier pulls.
    mixed = part.size > 0
    if mixed and not size:
        # Nobody knows whether it is whole.
        await part.empty()
    elif mixed:
        note(part.size, f"Resuming at {part.size / 1e6:.1f} MB of {size / 1e6:.1f} MB")
    anew = False
    failed = 0
    while True:
        before = part.size
        try:
            if not size or part.size < size:
                await _read(transport, digest, size, part, note)
            if part.digest == digest:
                return
            said = f"layer {digest} is damaged: the digest of what came is {part.digest}"
            await part.empty()
            if not mixed or anew:
                raise BadImage(said)
            mixed, anew = False, True
            note(0, "What had come is damaged, beginning anew")
        except (Interrupted, RegistryUnreachable) as error:
            failed = 1 if part.size - before >= _SOMETHING else failed + 1
            silent = isinstance(error, Interrupted) and error.silent
            if failed > TRIES or (silent and part.size <= before):
                raise
            mixed = part.size > 0
            wait = error.wait if isinstance(error, Interrupted) else 0.0
            wait = max(wait, min(FIRST_WAIT * 2 ** (failed - 1), _LONGEST_WAIT) * random.uniform(0.5, 1.0))
            note(part.size, f"Retrying at {part.size / 1e6:.1f} MB in {wait:.1f} s")
            await asyncio.sleep(wait)


async def _read(transport: Transport, digest: str, size: int, part: Part, note: Note) -> None:
    """One answer, from where the file ends. Raises Interrupted and what `fetch` does."""
    headers = {"Range": f"bytes={part.size}-"} if part.size else {}
    async with transport.get(f"blobs/{digest}", headers, also=(416,)) as answer:
        if part.size and (answer.status != 206 or not _begins_at(answer, part.size)):
            again = answer.status == 416 or answer.status == 206
            await part.empty()
            if again:
                raise transport.failures.broken("it does not give the range that was asked for")
        elif not part.size and answer.status != 200:
            raise transport.failures.other(f"status {answer.status} for a layer")
        note(part.size, "")
        await _append(answer, size, part, note)
    if part.size < size:
        raise transport.failures.broken("the connection ended too early")


async def _append(answer: Answer, size: int, part: Part, note: Note) -> None:
    """Raises Interrupted, OSError (the file)."""
    loop = asyncio.get_running_loop()
    trouble: OSError | None = None
    told = time.monotonic()

    def take(data: bytes) -> bool:
        nonlocal trouble, told
        try:
            part.append(data)
        except OSError as error:
            trouble = error
            return False
        now = time.monotonic()
        if now - told >= _TELL_EVERY:
            told = now
            loop.call_soon_threadsafe(note, part.size, "")
        # Whoever sends without end does not fill the disk: the digest will tell.
        return not size or part.size <= size

    await answer.into(take)
    if trouble is not None:
        raise trouble
    note(part.size, "")


def _begins_at(answer: Answer, size: int) -> bool:
    """Whether it is the range that was asked for."""
    found = _RANGE.fullmatch(answer.header("Content-Range").strip())
    return found is not None and int(found[1]) == size
