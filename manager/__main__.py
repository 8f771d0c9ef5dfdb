"""`python -m flota.manager`: a manager process, configured by the daemon (proto/flota/v1/process.proto).

Imports are done before the first line is read, so that a process the daemon keeps warm is quick to become a manager.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import structlog
import uvloop
from google.protobuf import json_format

from flota.manager.process import Manager
from flota.manager.raft.interface import StorageCorrupt, StorageLocked
from flota.rpc import child
from flota.rpc.errors import FlotaError
from flota.rpc.logging import configure
from flota.v1.process_pb2 import ManagerConfig

# Nice value.
_PRIORITY = -15
_log = structlog.get_logger("manager")


def main() -> int:
    """Wait for the configuration, be a manager until standard input ends; gives the exit status."""
    # A ^C in the daemon's terminal is the daemon's business: it tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        # Before whatever else the machine does: a manager that is kept from its heartbeats is taken for dead.
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    # What the imports made stays: collecting garbage need never look at it again.
    gc.collect()
    gc.freeze()
    # Messages are not its business, and a store is full of them: a full collection would hold up heartbeats.
    gc.set_threshold(50_000, 20, 100)
    line = sys.stdin.buffer.readline()
    if not line.strip():
        return 0
    try:
        config = json_format.Parse(line, ManagerConfig())
    except json_format.ParseError as error:
        return child.failed(f"this is no configuration of a manager: {error}")
    configure("manager", config.hostname)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: ManagerConfig) -> int:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with AsyncExitStack() as stack:
        told = asyncio.create_task(_input_ends(stopping))
        stack.callback(told.cancel)
        try:
            manager = Manager(config)
            if not await _done_before(stopping, manager.serve(stack)):
                return 0
            child.serve_metrics(config.metrics_address, stack)
        except (FlotaError, OSError, ValueError, StorageCorrupt, StorageLocked) as error:
            return child.failed(str(error))
        child.ready()
        await manager.run(stopping)
    return 0


async def _input_ends(stopping: asyncio.Event) -> None:
    """Set `stopping` when the daemon is gone."""
    daemon = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(daemon), sys.stdin)
    while await daemon.read(4096):
        pass
    stopping.set()


async def _done_before(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`, and give it up when `stopping` comes first."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
