"""The daemon of one machine: owns its directories, its socket and its two children, from start to signal.

It never looks into the cluster's state: what a node is stands in `node.Node`, how a child lives in `child.Child`.
"""

import asyncio
import gc
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress

import structlog

from flota.node.following import Follower
from flota.node.node import Node, Programs
from flota.node.notify import READY, STOPPING, Notifier
from flota.node.options import DaemonOptions
from flota.node.places import CannotStart, Places
from flota.node.serving import socket_server
from flota.rpc.logging import configure

__all__ = ["DaemonOptions", "run"]

_log = structlog.get_logger("daemon")
# Calls that are being answered when we are told to stop get this long.
_GRACE = 1.0
# We are called ready without the children, should they take longer.
_READY_LIMIT = 5.0


def run(options: DaemonOptions, programs: Programs | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; gives the exit status. A refusal to start is one line on stderr."""
    try:
        options.check()
        places = Places(options.state_directory, options.run_directory)
        locks = places.claim()
        try:
            configure("daemon", os.uname().nodename)
            # What the imports made stays: collecting garbage need never look at it again.
            gc.collect()
            gc.freeze()
            asyncio.run(_live(Node(options, places, programs), Notifier()))
        finally:
            for lock in locks:
                os.close(lock)
    except (CannotStart, OSError) as refusal:
        print(f"flota daemon: {refusal}", file=sys.stderr)
        return 1
    return 0


async def _live(node: Node, notifier: Notifier) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(node.stop)
        server = socket_server(node)
        await node.start()
        await server.start()
        stack.push_async_callback(server.stop, _GRACE)
        stack.callback(node.gateway.close)
        node.gateway.open()
        _log.info("the daemon answers", socket=str(node.places.socket))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(Follower(node).run()), group.create_task(_say_ready(node, notifier))]
            tasks.append(group.create_task(node.gateway.run()))
            await stopping.wait()
            for task in tasks:
                task.cancel()
        notifier.tell(STOPPING)
        _log.info("the daemon stops")


async def _say_ready(node: Node, notifier: Notifier) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_LIMIT):
            for child in (node.worker, node.manager):
                if child.wanted:
                    await child.until_tried()
    notifier.tell(READY)
