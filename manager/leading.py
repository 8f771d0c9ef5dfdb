"""Runs the leader's loops while this manager leads, and only then.

A loop that fails with a defect takes all of them down with it; they begin again from the store after a pause, which is
what a new leader would do. A manager whose loops keep failing hands leadership on: another one may fare better.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from flota.manager.orchestrator.leader import LeaderLoop
from flota.manager.raft.interface import RaftError
from flota.manager.raft.node import RaftNode

_log = structlog.get_logger("leader")
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# So many failures in a row, and leadership is handed on.
_PATIENCE = 3
# A run that lasted so long was no failure in a row.
_SOUND = 60.0


class Leading:
    """See the module's docstring. `loops` makes the loops afresh."""

    def __init__(self, raft: RaftNode, loops: Callable[[], Sequence[LeaderLoop]]) -> None:
        self._raft = raft
        self._loops = loops

    async def run(self) -> None:
        """Until cancelled, or the Raft member stops."""
        reign: asyncio.Task[None] | None = None
        try:
            async for leads in self._raft.leadership():
                await _end(reign)
                reign = asyncio.create_task(self._reign(), name="reign") if leads else None
        finally:
            await _end(reign)

    async def _reign(self) -> None:
        _log.info("leading", term=self._raft.raft.term)
        failures, pause = 0, _FIRST_PAUSE
        while True:
            began = asyncio.get_running_loop().time()
            try:
                async with asyncio.TaskGroup() as group:
                    for loop in self._loops():
                        group.create_task(loop.run(), name=loop.name)
            except ExceptionGroup as error:
                _log.exception("a loop of the leader failed", exc_info=error)
            if asyncio.get_running_loop().time() - began > _SOUND:
                failures, pause = 0, _FIRST_PAUSE
            failures += 1
            if failures % _PATIENCE == 0:
                try:
                    await self._raft.transfer_leadership()
                except RaftError as error:
                    _log.info("nobody else can lead", reason=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
