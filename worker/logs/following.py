"""The log of one container of this node, for somebody on this node: no manager has to pass it on."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from flota.v1.logs_pb2 import LogMessage, LogOptions
from flota.worker.logs.changes import Changes
from flota.worker.logs.merging import News, Reader, TaskLog, merged, parts

# Bytes in one message, about.
_MOST = 256 << 10
# How often it is asked whether a container that says nothing has ended.
_PERIOD = 0.5


async def follow(changes: Changes, log: Callable[[], TaskLog], options: LogOptions) -> AsyncIterator[list[LogMessage]]:
    """Lines as `options` want them, in groups; with follow until the container has ended. Raises OSError.

    `log` says how it is now.
    """
    now = log()
    reader = Reader(now, options, with_tail=True)
    news = asyncio.Event()
    until = options.until.ToNanoseconds() if options.HasField("until") else None
    try:
        with changes.watch(now.path.parent, News(reader.news, news)):
            while True:
                news.clear()
                if not options.follow or log().ended or (until is not None and time.time_ns() > until):
                    reader.end()
                while True:
                    while reader.needs_more:
                        await asyncio.to_thread(reader.read_part)
                    if not (messages := merged([reader])):
                        break
                    for part in parts(messages, _MOST):
                        yield part
                if reader.finished:
                    return
                try:
                    async with asyncio.timeout(_PERIOD):
                        await news.wait()
                except TimeoutError:
                    pass
    finally:
        reader.close()
