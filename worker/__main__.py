"""`python -m flota.worker`: a worker process, configured by the daemon (proto/flota/v1/process.proto).

Imports are done before the first line is read, so that a process the daemon keeps warm is quick to become a worker.
"""

import asyncio
import gc
import os
import signal
import stat
import sys
from contextlib import AsyncExitStack

import uvloop
from google.protobuf import json_format

from flota.overlay import OverlayError
from flota.rpc import child
from flota.rpc.errors import FlotaError
from flota.rpc.logging import configure
from flota.v1.process_pb2 import WorkerConfig
from flota.worker.process import Worker
from flota.worker.runtime.machine import RuntimeUnavailable

_LONGEST_LINE = 1 << 20


def main() -> int:
    """Be a worker until standard input ends; gives the exit status."""
    # A ^C in the daemon's terminal is the daemon's business: it tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the imports made stays: collecting garbage need never look at it again.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve())


async def _serve() -> int:
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not stat.S_ISFIFO(kind) and not stat.S_ISSOCK(kind):
        return child.failed("standard input is no pipe: this process is started by `flota daemon`")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with AsyncExitStack() as stack:
        try:
            config = await _configuration(lines, stopping)
            if config is None:
                return 0
            configure("worker", config.hostname)
            worker = Worker(config)
            await worker.start(stack)
            child.serve_metrics(config.metrics_address, stack)
            while not config.identity_directory:
                child.ready()
                config = await _configuration(lines, stopping)
                if config is None:
                    return 0
            await worker.join(config, stack)
        except (FlotaError, OverlayError, RuntimeUnavailable, OSError, ValueError) as error:
            return child.failed(str(error))
        child.ready()
        following = asyncio.create_task(_until_end(lines, stopping))
        stack.callback(following.cancel)
        await worker.run(stopping)
    return 0


async def _configuration(lines: asyncio.StreamReader, stopping: asyncio.Event) -> WorkerConfig | None:
    """The daemon's next line; None when there will be none. Raises ValueError."""
    reading, waiting = asyncio.create_task(lines.readline()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((reading, waiting), return_when=asyncio.FIRST_COMPLETED)
        line = reading.result() if reading.done() else b""
    finally:
        reading.cancel()
        waiting.cancel()
        await asyncio.gather(reading, waiting, return_exceptions=True)
    if not line.strip():
        return None
    try:
        return json_format.Parse(line, WorkerConfig())
    except json_format.ParseError as error:
        raise ValueError(f"this is no configuration of a worker: {error}") from None


async def _until_end(lines: asyncio.StreamReader, stopping: asyncio.Event) -> None:
    """Set `stopping` when the daemon is gone."""
    while await lines.read(4096):
        pass
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
