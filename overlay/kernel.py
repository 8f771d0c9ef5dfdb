"""The overlay's kernel thread: everything that enters namespaces or waits for netlink happens on it, in order.

One thread, because entering a namespace changes the whole thread, because the kernel takes one lock for links anyway,
and because two changes of one network must not overtake each other. The event loop never waits for the kernel.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class KernelThread:
    """Owned by one Network: `start` before the first call, `stop` after the last."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlay-kernel")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on the thread, after all calls before it.

        A call that has begun is waited for also when the caller is cancelled: half a change is nobody's.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def stop(self) -> None:
        """Wait for what is under way and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def open_home() -> int:
    """Descriptor of the namespace that the process lives in."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
