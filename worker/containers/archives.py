"""Runs archive.py over a container's root, and passes on what it says and takes."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.containers_pb2 import ReadArchiveMessage
from flota.worker.containers.archive import MISSING

_CHUNK = 256 << 10
_PROGRAM = "flota.worker.containers.archive"


async def read(root: Path, path: str, *, only_stat: bool) -> AsyncIterator[ReadArchiveMessage]:
    """What is at `path`, then a tar of it. Raises NotFound, InvalidArgument."""
    async with _run(root, "stat" if only_stat else "read", path) as process:
        assert process.stdout is not None
        if line := await process.stdout.readline():
            told = json.loads(line)
            stat = ReadArchiveMessage.Stat(
                name=told["name"], size=told["size"], mode=told["mode"], link_target=told["linkTarget"]
            )
            stat.modified_at.seconds = told["seconds"]
            yield ReadArchiveMessage(stat=stat)
        while data := await process.stdout.read(_CHUNK):
            yield ReadArchiveMessage(data=data)
        await _check(process)


async def whole(root: Path, *, as_layer: bool = False) -> AsyncIterator[bytes]:
    """A tar of everything in `root`, or of a container's writable layer as an image has it. Raises InvalidArgument."""
    async with _run(root, "layer" if as_layer else "export", "") as process:
        assert process.stdout is not None
        while data := await process.stdout.read(_CHUNK):
            yield data
        await _check(process)


async def write(root: Path, path: str, data: AsyncIterator[bytes], *, keep_kinds: bool) -> None:
    """Unpack a tar into the directory `path`. Raises NotFound, InvalidArgument."""
    more = ("keep-kinds",) if keep_kinds else ()
    async with _run(root, "write", path, *more) as process:
        assert process.stdin is not None
        # It may end before it has read all; why, it says then.
        with suppress(ConnectionError):
            async for part in data:
                if process.stdin.is_closing():
                    # uvloop has a RuntimeError for who writes then.
                    break
                process.stdin.write(part)
                await process.stdin.drain()
            process.stdin.close()
        await _check(process)


@asynccontextmanager
async def _run(root: Path, work: str, path: str, *more: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _PROGRAM, str(root), work, path, *more), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _check(process: Process) -> None:
    assert process.stderr is not None
    said = (await process.stderr.read()).decode(errors="replace").strip()
    if await process.wait():
        raise (NotFound if process.returncode == MISSING else InvalidArgument)(said.rpartition("\n")[2])
