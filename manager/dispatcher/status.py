"""What workers report of their tasks, committed: many reports in one transaction, answered when the store has them.

Reports that come while nothing is on its way are committed at once; those that come during a commit, or within a few
milliseconds of the last one, wait for each other. A task only moves forward, so the order in which reports arrive does
not matter: what is behind the store's state is passed over.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from flota.manager.clock import Clock, seconds, timestamp
from flota.manager.dispatcher.metrics import COMMIT, START, UPDATES
from flota.manager.store import MAX_CHANGES_PER_TRANSACTION, Store, StoreError, Transaction
from flota.rpc.errors import FlotaError, InvalidArgument, PermissionDenied, Unavailable
from flota.v1.dispatcher_pb2 import UpdateTaskStatusRequest
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import may_advance, short_name
from flota.v1.types_pb2 import TaskState, TaskStatus

Update = UpdateTaskStatusRequest.Update

# Seconds between two commits, unless a transaction is full.
GAP = 0.005
# Well under the store's limit of 1.5 MB, so that envelopes fit too.
_MAX_BYTES = 1_200_000
# Characters of a message or error that are kept.
_MAX_TEXT = 4096


@dataclass(slots=True)
class _Report:
    """One call of a worker."""

    arrived: float
    left: int
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Item:
    report: _Report
    update: Update


class StatusWriter:
    """`run` it while this manager leads. `applied_by` is this manager's node id."""

    def __init__(self, store: Store, clock: Clock, applied_by: str) -> None:
        self._store = store
        self._clock = clock
        self._applied_by = applied_by
        self._waiting: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._error: FlotaError | None = None

    async def submit(self, node_id: str, updates: Sequence[Update]) -> None:
        """Returns when all of it is committed.

        Raises PermissionDenied for a task of another node, InvalidArgument for a state workers do not report: then
        none of it is taken. Raises Unavailable when consensus fails; some of it may have been taken.
        """
        for update in updates:
            self._check(node_id, update)
        if self._error is not None:
            raise self._error
        if not updates:
            return
        loop = asyncio.get_running_loop()
        report = _Report(loop.time(), len(updates), loop.create_future())
        self._waiting.extend(_Item(report, update) for update in updates)
        self._wake.set()
        await report.done
        COMMIT.observe(loop.time() - report.arrived)

    def end(self, error: FlotaError) -> None:
        """Nothing will be committed any more; what waits fails with `error`."""
        self._error = error
        while self._waiting:
            _fail(self._waiting.popleft().report, error)

    async def run(self) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        began = -GAP
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                if len(self._waiting) < MAX_CHANGES_PER_TRANSACTION and (pause := began + GAP - loop.time()) > 0:
                    await asyncio.sleep(pause)
                began = loop.time()
                await self._commit(self._take())

    def _check(self, node_id: str, update: Update) -> None:
        state = update.status.state
        if not TaskState.TASK_STATE_ASSIGNED < state <= TaskState.TASK_STATE_REJECTED:
            raise InvalidArgument.of(
                f"state of task {update.task_id}", short_name(state), "workers report ACCEPTED to REJECTED"
            )
        task = self._store.tasks.get(update.task_id)
        if task is not None and task.node_id != node_id:
            raise PermissionDenied(f"task {update.task_id} is not on node {node_id}")

    def _take(self) -> list[_Item]:
        """What goes into the next transaction."""
        items: list[_Item] = []
        size = 0
        while self._waiting and len(items) < MAX_CHANGES_PER_TRANSACTION:
            update = self._waiting[0].update
            task = self._store.tasks.get(update.task_id)
            if task is not None:
                size += task.ByteSize() + min(update.ByteSize(), 2 * _MAX_TEXT)
                if items and size > _MAX_BYTES:
                    break
            items.append(self._waiting.popleft())
        return items

    async def _commit(self, items: list[_Item]) -> None:
        def change(tx: Transaction) -> list[str]:
            now = self._clock.now()
            return [self._apply(tx, item.update, now) for item in items]

        try:
            results = await self._store.update(change)
        except asyncio.CancelledError:
            for item in items:
                _fail(item.report, Unavailable("this manager does not lead any longer"))
            raise
        except (StoreError, FlotaError) as error:
            failure = error if isinstance(error, FlotaError) else Unavailable(str(error))
            for item in items:
                _fail(item.report, failure)
            return
        for item, result in zip(items, results, strict=True):
            UPDATES.labels("taken" if result == _STARTED else result).inc()
            if result == _STARTED:
                self._measure(item.update.task_id)
            item.report.left -= 1
            if not item.report.left and not item.report.done.done():
                item.report.done.set_result(None)

    def _apply(self, tx: Transaction, update: Update, now: float) -> str:
        stored = tx.tasks.get(update.task_id)
        if stored is None:
            return "gone"
        if not _is_news(stored.status, update.status):
            return "old"
        changed = Task()
        changed.CopyFrom(stored)
        status = changed.status
        status.CopyFrom(update.status)
        status.message, status.error = _short(status.message), _short(status.error)
        status.applied_at.CopyFrom(timestamp(now))
        status.applied_by = self._applied_by
        tx.update(changed)
        starts = stored.status.state < TaskState.TASK_STATE_RUNNING == status.state
        return _STARTED if starts else "taken"

    def _measure(self, task_id: str) -> None:
        task = self._store.tasks.get(task_id)
        if task is not None:
            START.observe(max(0.0, self._clock.now() - seconds(task.meta.created_at)))


_STARTED = "started"


def _is_news(known: TaskStatus, told: TaskStatus) -> bool:
    if known.state != told.state:
        return may_advance(known.state, told.state)
    return told.state <= TaskState.TASK_STATE_RUNNING and (
        known.message != told.message
        or known.error != told.error
        or known.container != told.container
        or known.ports != told.ports
        or known.unready != told.unready
    )


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _fail(report: _Report, error: FlotaError) -> None:
    if not report.done.done():
        report.done.set_exception(error)
