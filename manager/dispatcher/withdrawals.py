"""Tasks that are told to stop, kept from their own nodes for the moment until nobody is sent to them any longer.

A task leaves names, virtual addresses and published ports everywhere before its program hears of its end: then no
connection is begun with a program that is about to go. Every node that could send to it confirms that it no longer
does; one that is silent (it may be cut off) is waited for `LIMIT` seconds and no longer. No I/O; it knows ids only.
"""

import asyncio
from collections.abc import Callable, Iterable

# Seconds. A confirmation takes some milliseconds, on a node with very much to do a few hundred.
LIMIT = 1.0


class Withdrawals:
    """`release(task_id)` hears of each task that was held, once. `end` it."""

    def __init__(self, release: Callable[[str], None]) -> None:
        self._release = release
        self._waiting: dict[str, set[str]] = {}
        self._limits: dict[str, asyncio.TimerHandle] = {}

    def hold(self, task_id: str, nodes: Iterable[str]) -> None:
        """Release the task when all of `nodes` have confirmed (at once if there is none)."""
        if task_id in self._waiting:
            return
        waiting = set(nodes)
        if not waiting:
            self._release(task_id)
            return
        self._waiting[task_id] = waiting
        self._limits[task_id] = asyncio.get_running_loop().call_later(LIMIT, self._let_go, task_id)

    def confirmed(self, node_id: str, task_ids: Iterable[str]) -> None:
        """The node does not send to these tasks any longer."""
        for task_id in task_ids:
            waiting = self._waiting.get(task_id)
            if waiting is not None:
                waiting.discard(node_id)
                if not waiting:
                    self._let_go(task_id)

    def forget(self, node_id: str) -> None:
        """The node's stream ended: it will not confirm anything."""
        self.confirmed(node_id, [task_id for task_id, nodes in self._waiting.items() if node_id in nodes])

    def end(self) -> None:
        """Nothing is released any more."""
        for limit in self._limits.values():
            limit.cancel()
        self._limits.clear()
        self._waiting.clear()

    def _let_go(self, task_id: str) -> None:
        self._limits.pop(task_id).cancel()
        del self._waiting[task_id]
        self._release(task_id)
