"""A queue of bounded size between one who writes and one who reads, which either side may end.

What streams are joined with: who writes waits while the other does not read, and nobody waits for one who has gone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipe(Generic[T]):
    """`size`: so many items wait in it at most."""

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    async def put(self, item: T) -> bool:
        """Write, and wait while it is full. False when nobody will read it."""
        while len(self._items) >= self._size and not self._closed and not self._ended:
            await self._wait()
        if self._closed or self._ended:
            return False
        self._items.append(item)
        self._changed.set()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """The writer has no more. What waits is still read; then `error` is raised, if there is one."""
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.set()

    def close(self) -> None:
        """The reader has gone."""
        self._closed = True
        self._items.clear()
        self._changed.set()

    @property
    def closed(self) -> bool:
        """Whether the reader has gone."""
        return self._closed

    async def wait_closed(self) -> None:
        """Until the reader has gone."""
        while not self._closed:
            await self._wait()

    async def __aiter__(self) -> AsyncIterator[T]:
        """Read until the end. Raises what the writer ended with."""
        while True:
            if self._items:
                item = self._items.popleft()
                self._changed.set()
                yield item
            elif self._ended or self._closed:
                if self._error is not None:
                    raise self._error
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
