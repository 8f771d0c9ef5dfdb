"""Chunks from another thread as a file that goes forwards only: as much of a file as tarfile needs, and no copies."""

import os
from queue import Queue

from flota.worker.images import recipe
from flota.worker.images.errors import BadLayer

CHUNK = 1 << 20


class ChunkStream:
    """Chunks from a queue as a file: `seek` and `read` go forwards only, `copy` writes to a descriptor.

    None in the queue is the end.
    """

    def __init__(self, chunks: "Queue[bytes | None]", writer: recipe.Writer | None) -> None:
        self._chunks = chunks
        self._writer = writer
        self._now = memoryview(b"")
        self._at = 0
        self._before = 0
        self._ended = False
        # What was read last.
        self.last = b""

    def tell(self) -> int:
        return self._before + self._at

    def seek(self, position: int) -> None:
        count = position - self.tell()
        if count < 0:
            raise BadLayer("its entries overlap")
        while count > 0 and (part := self._part(count)):
            count -= len(part)
            if self._writer is not None:
                self._writer.data(part)

    def read(self, size: int) -> bytes:
        self.last = bytes(self._part(size))
        while len(self.last) < size and (more := self._part(size - len(self.last))):
            self.last += more
        if self._writer is not None:
            self._writer.data(self.last)
        return self.last

    def copy(self, target: int, path: str, offset: int, size: int) -> None:
        """Write the next bytes to a file, opened as `target`; what it is called, and where in it they are."""
        if self._writer is not None:
            self._writer.content(path, offset, size)
        while size:
            part = self._part(size)
            if not part:
                raise BadLayer("the archive ends too early")
            size -= len(part)
            while part:
                part = part[os.write(target, part) :]

    def finish(self) -> None:
        """Whatever is behind the last entry. Raises OSError."""
        while part := self._part(CHUNK):
            if self._writer is not None:
                self._writer.data(part)
        if self._writer is not None:
            self._writer.close()

    def skip_all(self) -> None:
        """Read to the end: the other side must not be kept waiting."""
        while self._part(CHUNK):
            pass

    def _part(self, size: int) -> memoryview:
        """Up to so many bytes of what is at hand; none at the end."""
        if self._at == len(self._now) and not self._ended:
            chunk = self._chunks.get()
            self._ended = chunk is None
            self._before += self._at
            self._now, self._at = memoryview(chunk or b""), 0
        part = self._now[self._at : self._at + size]
        self._at += len(part)
        return part
