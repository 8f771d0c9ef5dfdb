"""Consensus as the loops see it: commits take a while, and one that is reported as failed may have been applied.

Transactions are applied in the order in which they were proposed, also when whoever proposed them is gone by then. The
rules are checked after each of them.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from random import Random

from flota.manager.store import LocalProposer, Store
from flota.rpc.errors import Unavailable

# Whether the leader's loops are at work: only they are failed, everybody else would just ask again.
BY_LEADER: ContextVar[bool] = ContextVar("by_leader", default=False)


class Ledger(LocalProposer):
    """`latency` is the range of seconds that a commit takes, None = none; `fails` the share of the leader's."""

    def __init__(self, store: Store, rng: Random, after_each: Callable[[], None]) -> None:
        super().__init__(store)
        self._rng = rng
        self._after_each = after_each
        self._entries: asyncio.Queue[tuple[bytes, bool, asyncio.Future[object]]] = asyncio.Queue()
        self.latency: tuple[float, float] | None = None
        self.fails = 0.0

    async def propose(self, data: bytes) -> object:
        if self.latency is None:
            return await self._apply(data)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._entries.put_nowait((data, BY_LEADER.get(), answer))
        return await answer

    async def run(self) -> None:
        """Commits what was proposed; runs until cancelled."""
        while True:
            data, by_leader, answer = await self._entries.get()
            await asyncio.sleep(self._rng.uniform(*self.latency or (0, 0)))
            refused = by_leader and self._rng.random() < self.fails
            # It failed for good, or only its answer was lost.
            outcome = None if refused and self._rng.random() < 0.5 else await self._apply(data)
            if answer.done():
                continue
            if refused:
                answer.set_exception(Unavailable("the simulation lost it"))
            else:
                answer.set_result(outcome)

    async def _apply(self, data: bytes) -> object:
        outcome = await super().propose(data)
        self._after_each()
        return outcome
