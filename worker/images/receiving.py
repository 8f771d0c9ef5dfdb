"""What comes over the wire in parts becomes a file, and a compressed file a plain one.

The files have no names: they are gone when they are closed, or we are.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from flota.worker.images.compression import LONGEST_MAGIC, is_compressed, plain
from flota.worker.images.contents import Extent

_CHUNK = 1 << 20


async def receive(data: AsyncIterator[bytes], directory: Path, threads: Executor) -> BinaryIO:
    """A new file with all of `data`, for the caller to close. Raises OSError, and what `data` raises."""
    loop = asyncio.get_running_loop()
    file = new_file(directory)
    try:
        async for part in data:
            await loop.run_in_executor(threads, _write, file, part)
    except BaseException:
        file.close()
        raise
    return file


def new_file(directory: Path) -> BinaryIO:
    """An empty file without a name. Raises OSError."""
    return cast(BinaryIO, TemporaryFile(dir=directory, buffering=0))


def make_plain(file: BinaryIO, directory: Path) -> BinaryIO:
    """The file itself, or if it is compressed another with what it holds. Blocks. Raises Damaged, OSError."""
    if not is_compressed(Extent(file).read(LONGEST_MAGIC)):
        return file
    source, target = plain(Extent(file)), new_file(directory)
    try:
        while part := source.read(_CHUNK):
            _write(target, part)
    except BaseException:
        target.close()
        raise
    return target


def _write(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
