"""Shares the event loop: so many turns at each round of it, whoever else wants one waits in line.

A change that five hundred workers hear of makes five hundred streams ready at once. Each needs little, together they
would keep the loop, which also carries Raft's heartbeats, for a tenth of a second.
"""

import asyncio
from collections import deque


class Pace:
    """One for all streams of a process."""

    def __init__(self, turns: int = 16) -> None:
        self._turns = turns
        self._left = turns
        self._line: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()

    async def turn(self) -> None:
        """Returns when it is the caller's turn: at once, or a few rounds of the loop later."""
        if self._left == self._turns:
            self._loop.call_soon(self._next_round)
        if self._left > 0:
            self._left -= 1
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._line.append(waiter)
        await waiter

    def _next_round(self) -> None:
        self._left = self._turns
        while self._line and self._left > 0:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._left -= 1
        if self._left < self._turns:
            self._loop.call_soon(self._next_round)
