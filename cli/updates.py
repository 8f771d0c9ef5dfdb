"""Updates that name the version they rest on: when something else came first, read again and try again.

Only for changes that are worked out anew from what was read (a role, a label, a token); a whole new service spec is
the person's to look at again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_ATTEMPTS = 5


async def with_newest(once: Callable[[], Awaitable[T]]) -> T:
    """Run `once` (read, change, write) until nobody comes in between; the last refusal is raised."""
    import grpc

    for _ in range(_ATTEMPTS - 1):
        try:
            return await once()
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ABORTED:
                raise
    return await once()
