"""How a layer's tar is made again from the directory it was unpacked into, byte for byte.

Images are kept unpacked, but whoever saves or pushes one has to give the very tar whose digest the configuration has.
While a layer is unpacked everything in its tar that is not the content of a file (headers, padding, whiteouts) is
written down, and in the place of each file's content where that now is. (The idea is that of Docker's tar-split.)

    entries, compressed with zlib:  B length bytes   |   F length-of-path path offset size

Files are read in a thread that is chrooted into the layer, so no link in it leads outside.
"""

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from flota.rpc.errors import FailedPrecondition
from flota.worker.images.confining import confined

_BYTES, _FILE = b"B", b"F"
_LENGTH = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")
_CHUNK = 1 << 20
# Mostly zeros and repetitions: more effort saves next to nothing.
_LEVEL = 1


class Writer:
    """Takes down what a tar consists of. Raises OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zlib = zlib.compressobj(_LEVEL)
        self._pending: list[bytes] = []
        self._size = 0

    def data(self, data: bytes | memoryview) -> None:
        """These bytes come next."""
        if data:
            self._pending.append(bytes(data))
            self._size += len(data)
            if self._size >= _CHUNK:
                self._flush()

    def content(self, path: str, offset: int, size: int) -> None:
        """So many bytes of a file come next."""
        self._flush()
        name = os.fsencode(path)
        self._put(_FILE + _LENGTH.pack(len(name)) + name + _PLACE.pack(offset, size))

    def close(self) -> None:
        """That was all."""
        self._flush()
        self._file.write(self._zlib.flush())
        self._file.flush()

    def _flush(self) -> None:
        if self._pending:
            self._put(_BYTES + _LENGTH.pack(self._size) + b"".join(self._pending))
            self._pending, self._size = [], 0

    def _put(self, data: bytes) -> None:
        self._file.write(self._zlib.compress(data))


def replay(recipe: Path, directory: Path, diff_id: str, write: Callable[[bytes], None]) -> None:
    """Give `write` the tar of a layer, part by part. Blocks.

    Raises FailedPrecondition when it is not the tar of that digest, OSError, and what `write` raises.
    """
    failure: list[BaseException] = []
    digest = hashlib.sha256()

    def run() -> None:
        try:
            with recipe.open("rb") as file, confined(directory):
                for part in _parts(file):
                    digest.update(part)
                    write(part)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name="replay")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    if f"sha256:{digest.hexdigest()}" != diff_id:
        raise FailedPrecondition(f"layer {diff_id} cannot be made again as it came: pull or load its image anew")


def _parts(file: BinaryIO) -> Iterator[bytes]:
    source = _Entries(file)
    while kind := source.read(1):
        (length,) = _LENGTH.unpack(source.read(_LENGTH.size))
        if kind == _BYTES:
            yield source.read(length)
        else:
            path = source.read(length)
            yield from _content(path, *_PLACE.unpack(source.read(_PLACE.size)))


def _content(path: bytes, offset: int, size: int) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME)
    try:
        while size:
            part = os.pread(descriptor, min(size, _CHUNK), offset)
            if not part:
                # Another file of that name took its place; the digest will tell.
                return
            yield part
            offset += len(part)
            size -= len(part)
    finally:
        os.close(descriptor)


class _Entries:
    """The plain bytes of a recipe."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zlib = zlib.decompressobj()
        self._buffer = b""

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        while len(self._buffer) < size:
            more = self._zlib.decompress(self._zlib.unconsumed_tail or self._file.read(64 << 10), _CHUNK)
            if not more and (self._zlib.eof or not self._zlib.unconsumed_tail):
                break
            self._buffer += more
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
