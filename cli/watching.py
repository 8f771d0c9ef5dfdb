"""Streams that outlive a leader: when one breaks because a manager went, the next manager is asked.

What a stream says is its reader's; this only decides when to try again, and when to give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

# Without a leader a stream breaks; another manager takes over well within this time.
RECONNECT_SECONDS = 30.0
_RETRY_SECONDS = 0.2


async def until_true(read: Callable[[Callable[[], None]], Awaitable[bool]]) -> None:
    """Run `read`, which follows one stream, until it gives True; False: the stream ended too early, so once more.

    `read` calls what it is given with each message. Raises what broke the stream when no manager has said anything for
    RECONNECT_SECONDS, or when it is anything but a manager that went.
    """
    import grpc

    loop = asyncio.get_running_loop()
    heard = loop.time()

    def hear() -> None:
        nonlocal heard
        heard = loop.time()

    while True:
        try:
            if await read(hear):
                return
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or loop.time() > heard + RECONNECT_SECONDS:
                raise
        await asyncio.sleep(_RETRY_SECONDS)
