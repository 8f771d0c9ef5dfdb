"""Thousands of pretended workers: they drive their tasks as real ones would, and report what became of them.

One object for all of them: a real worker's steps become timers of the virtual loop, and reports that fall together are
committed together, as the dispatcher does. No container, no network.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from random import Random

from flota.manager.clock import Clock, timestamp
from flota.manager.store import Store, Transaction, WatchClosed
from flota.v1.objects_pb2 import Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import TaskState

_STATES = TaskState
_READY, _RUNNING = TaskState.TASK_STATE_READY, TaskState.TASK_STATE_RUNNING
# Virtual seconds in which reports gather, and how many go into one transaction.
_GATHER = 0.02
_AT_ONCE = 200


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds; each a little more or less by chance."""

    # Image, network, container.
    prepare: float = 1.0
    # From the start of the program until it is healthy.
    start: float = 0.5
    stop: float = 0.5
    # A job's task, until it completes.
    job: float = 10.0


class Fleet:
    """All workers. `run` it; nodes in `dead` do nothing until they are taken out of it."""

    def __init__(self, store: Store, clock: Clock, rng: Random, pace: Pace) -> None:
        self._store, self._clock, self._rng, self._pace = store, clock, rng, pace
        self.dead: set[str] = set()
        self.transactions = 0
        self._reports: dict[str, TaskState.ValueType] = {}
        self._wake = asyncio.Event()
        # Tasks whose next step is on its way.
        self._busy: set[str] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            while True:
                try:
                    with self._store.watch("task") as changes:
                        for task in self._store.tasks:
                            self._look(task)
                        async for batch in changes:
                            for event in batch:
                                if isinstance(event.object, Task) and event.kind != StoreAction.KIND_REMOVE:
                                    self._look(event.object)
                except WatchClosed:
                    continue

    def revive(self, node_ids: Iterable[str]) -> None:
        """Nodes are back, without their containers: what they had has failed."""
        for node_id in node_ids:
            self.dead.discard(node_id)
            for task in self._store.tasks.by("node", node_id):
                if TaskState.TASK_STATE_ASSIGNED <= task.status.state <= _RUNNING:
                    self._put(task.id, TaskState.TASK_STATE_FAILED)

    def _look(self, task: Task) -> None:
        """Begin a task's next step, if there is one."""
        state, wanted = task.status.state, task.desired_state
        if not task.node_id or not TaskState.TASK_STATE_ASSIGNED <= state <= _RUNNING or task.id in self._busy:
            return
        if wanted > TaskState.TASK_STATE_COMPLETE:
            self._after(self._pace.stop if state == _RUNNING else 0.0, task, TaskState.TASK_STATE_SHUTDOWN)
        elif state < _READY:
            self._after(self._pace.prepare, task, _READY)
        elif state < _RUNNING and wanted > _READY:
            self._after(self._pace.start, task, _RUNNING)
        elif state == _RUNNING and wanted == TaskState.TASK_STATE_COMPLETE:
            self._after(self._pace.job, task, TaskState.TASK_STATE_COMPLETE)

    def _after(self, seconds: float, task: Task, state: "TaskState.ValueType") -> None:
        self._busy.add(task.id)
        delay = seconds * self._rng.uniform(0.7, 1.3)
        asyncio.get_running_loop().call_later(delay, self._reach, task.id, task.node_id, state)

    def _reach(self, task_id: str, node_id: str, state: "TaskState.ValueType") -> None:
        self._busy.discard(task_id)
        if node_id in self.dead:
            return
        task = self._store.tasks.get(task_id)
        if task is None:
            return
        if task.desired_state > TaskState.TASK_STATE_COMPLETE and state <= _RUNNING:
            # It is to stop meanwhile.
            self._look(task)
            return
        self._put(task_id, state)

    def _put(self, task_id: str, state: "TaskState.ValueType") -> None:
        self._reports[task_id] = state
        self._wake.set()

    async def _report(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER)
            self._wake.clear()
            reports, self._reports = list(self._reports.items()), {}
            for start in range(0, len(reports), _AT_ONCE):
                self.transactions += 1
                await self._store.update(partial(self._write, reports=reports[start : start + _AT_ONCE]))

    def _write(self, tx: Transaction, reports: "list[tuple[str, TaskState.ValueType]]") -> None:
        now = timestamp(self._clock.now())
        for task_id, state in reports:
            stored = tx.tasks.get(task_id)
            if stored is None or stored.status.state >= state or stored.node_id in self.dead:
                continue
            changed = Task()
            changed.CopyFrom(stored)
            changed.status.state = state
            changed.status.timestamp.CopyFrom(now)
            changed.status.applied_at.CopyFrom(now)
            changed.status.message = TaskState.Name(state)[len("TASK_STATE_") :].lower()
            tx.update(changed)
