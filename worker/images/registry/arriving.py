"""Blobs on their way, as files: as much of each as has come, whatever happens to who fetches it.

    STATE/images/partial/HEX    the beginning of the blob of that digest, or all of it

A file's size says how far it is; whether it is right says its digest, once it is whole. It stays until the image that
needed it is stored, for a day if nobody comes back for it, and not at all when the disk is full.
"""

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from flota.worker.runtime.processes import to_the_end

# Seconds for which what nobody waits for stays.
KEPT = 86_400.0
_STEP = 16 << 20
_PIECE = 1 << 20
_HEX = re.compile(r"[0-9a-f]{64}")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Held:
    """By how many pulls, of which one at a time writes."""

    users: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    # It was found to be what its digest says.
    proved: bool = False


class Part:
    """The file of one blob, while it is written. `size` is how far it is."""

    def __init__(self, path: Path, threads: Executor) -> None:
        self.size = 0
        self._threads = threads
        self._hash = hashlib.sha256()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def digest(self) -> str:
        """Of what is there."""
        return f"sha256:{self._hash.hexdigest()}"

    async def recall(self) -> None:
        """Know what came earlier. Raises OSError."""
        while await self._in_thread(self._read_on):
            pass

    def append(self, data: bytes) -> None:
        """There is more. Blocks. Raises OSError."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, self.size)
            self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    async def empty(self) -> None:
        """Begin anew. Raises OSError."""
        await self._in_thread(os.ftruncate, self._file, 0)
        self.size = 0
        self._hash = hashlib.sha256()

    def close(self) -> None:
        os.close(self._file)

    def _read_on(self) -> bool:
        end = self.size + _STEP
        while self.size < end:
            data = os.pread(self._file, _PIECE, self.size)
            if not data:
                return False
            self._hash.update(data)
            self.size += len(data)
        return True

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # A thread cannot be interrupted, and the file must not be closed under it.
        return await to_the_end(_awaited(self._threads, lambda: function(*args, **kwargs)))


class Arrivals:
    """All of them, in `directory`; what takes long is done in `threads`."""

    def __init__(self, directory: Path, threads: Executor) -> None:
        self._directory = directory
        self._threads = threads
        self._held: dict[str, _Held] = {}

    def open(self) -> None:
        """Blocks. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where it is, as far as it has come."""
        return self._directory / digest.removeprefix("sha256:")

    def hold(self, digests: Collection[str]) -> None:
        """Somebody needs them: they stay."""
        for digest in digests:
            self._held.setdefault(digest, _Held()).users += 1

    async def release(self, digests: Collection[str], *, keep: bool) -> None:
        """Whoever held them does not need them any more; without `keep`, what nobody else holds goes."""
        gone = []
        for digest in digests:
            held = self._held[digest]
            held.users -= 1
            if held.users == 0:
                del self._held[digest]
                if not keep:
                    gone += self._put_aside(self.path(digest))
        if gone:
            await to_the_end(_awaited(self._threads, lambda: _delete(gone)))

    @asynccontextmanager
    async def writing(self, digest: str) -> AsyncIterator[Part]:
        """The file of one that is held; one at a time. It knows what came earlier. Raises OSError."""
        async with self._held[digest].writing:
            part = Part(self.path(digest), self._threads)
            try:
                await part.recall()
                yield part
            finally:
                part.close()

    def proved(self, digest: str) -> bool:
        """Whether one that is held is whole and right."""
        return self._held[digest].proved

    def prove(self, digest: str) -> None:
        """It is."""
        self._held[digest].proved = True

    async def collect(self, age: float) -> int:
        """Remove what nobody holds and has not grown for `age` seconds; how many bytes that were. Raises OSError."""
        held = {self.path(digest).name for digest in self._held}
        before = time.time() - age

        def old() -> list[tuple[Path, int]]:
            found = []
            for one in os.scandir(self._directory):
                with suppress(FileNotFoundError):
                    if one.name not in held and (one.stat().st_mtime <= before or not _HEX.fullmatch(one.name)):
                        found.append((Path(one.path), one.stat().st_size))
            return found

        found = await to_the_end(_awaited(self._threads, old))
        # Somebody may have come for one meanwhile.
        held = {self.path(digest).name for digest in self._held}
        found = [(path, size) for path, size in found if path.name not in held]
        gone = [aside for path, _ in found for aside in self._put_aside(path)]
        await to_the_end(_awaited(self._threads, lambda: _delete(gone)))
        return sum(size for _, size in found)

    def _put_aside(self, path: Path) -> list[Path]:
        """Out of the way of who comes next: deleting a large file takes a while."""
        aside = path.with_name(f"gone-{secrets.token_hex(6)}")
        with suppress(OSError):
            path.rename(aside)
            return [aside]
        return []


async def _awaited(threads: Executor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function)


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
