"""The bytes of one connection passed on to another one, both ways, until both have ended."""

import asyncio
from contextlib import suppress
from typing import NamedTuple

# Bytes that are read at a time, and that may wait to be written before reading pauses.
CHUNK = 1 << 16


class Stream(NamedTuple):
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def relay(client: Stream, program: Stream, opening: bytes) -> None:
    """Tell the program `opening`, then pass on whatever comes, and each side's end. Closes both in any case.

    Returns when both have ended and all is written. Raises OSError when a side went away before.
    """
    try:
        program.writer.write(opening)
        await asyncio.gather(_pump(client.reader, program.writer), _pump(program.reader, client.writer))
        # The client may have to read the last of it yet.
        client.writer.close()
        await client.writer.wait_closed()
    except BaseException:
        client.writer.transport.abort()
        raise
    finally:
        program.writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything that comes, and then the end."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
