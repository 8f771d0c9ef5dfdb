"""Threads that wait for the kernel, so that the event loop never does.

`KernelThread` is one thread on which everything happens that makes and removes namespaces, links and entries, in
order: entering a namespace changes a whole thread, the kernel takes one lock for links anyway, and two changes of one
network must not overtake each other.

`NamespaceThreads` are several, for nftables: the kernel takes some ten milliseconds to let go of a rule that is
replaced (it waits for its readers), for which no attaching task should have to wait.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from flota.overlay import namespaces

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8


class KernelThread:
    """Owned by one Network; `stop` after the last call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlay-kernel")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on the thread, after all calls before it.

        A call that has begun is waited for also when the caller is cancelled: half a change is nobody's.
        """
        return await _finish(self._executor, lambda: function(*args, **kwargs))

    def stop(self) -> None:
        """Wait for what is under way and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class NamespaceThreads:
    """Owned by one Network; `home` is the namespace they live in when not called elsewhere."""

    def __init__(self, home: int) -> None:
        self._home = home
        self._executor = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="overlay-nftables")

    async def inside(self, namespace: Path | None, function: Callable[[], T]) -> T:
        """Run `function` on a thread that is in a kept namespace, or in the node's (None). Callers keep the order."""

        def there() -> T:
            if namespace is None:
                return function()
            with namespaces.entered(namespace, self._home):
                return function()

        return await _finish(self._executor, there)

    def stop(self) -> None:
        """Wait for what is under way and end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)


async def _finish(executor: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    future = asyncio.get_running_loop().run_in_executor(executor, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def open_home() -> int:
    """Descriptor of the namespace that the process lives in."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
