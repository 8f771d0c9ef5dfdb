"""What managers are still to be told of tasks: the newest status of each, until they have it.

Statuses that matter to others (running, ended, trouble) are sent at once, many together while a call is on its way.
The steps before RUNNING are for people who watch: one that is passed within a moment is never sent, so that a start
costs the managers one write and not five. Sent again until acknowledged, also over the next session.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from flota.rpc.errors import InvalidArgument, PermissionDenied
from flota.v1.dispatcher_pb2 import UpdateTaskStatusRequest
from flota.v1.types_pb2 import TaskState, TaskStatus
from flota.worker import metrics

_log = structlog.get_logger("agent")

Update = UpdateTaskStatusRequest.Update
Send = Callable[[list[Update]], Awaitable[None]]

# Seconds between calls, and for which a status has to last that is only for people.
GAP = 0.02
PATIENCE = 0.15
_AT_ONCE = 1000


@dataclass(slots=True)
class _Waiting:
    status: TaskStatus
    due: float


class Reporter:
    """`put` statuses at any time; `run` while there is a session."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._wake = asyncio.Event()
        self._time = asyncio.get_running_loop().time

    def put(self, task_id: str, status: TaskStatus) -> None:
        """Managers are to know this; an older status of the task is forgotten."""
        if status.state <= TaskState.TASK_STATE_ASSIGNED:
            return
        matters = status.state >= TaskState.TASK_STATE_RUNNING or bool(status.error)
        due = self._time() + (0.0 if matters else PATIENCE)
        before = self._waiting.get(task_id)
        if before is not None and not matters:
            # What changes all the time is told from time to time.
            due = min(due, before.due)
        self._waiting[task_id] = _Waiting(status, due)
        self._wake.set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def run(self, send: Send) -> None:
        """Runs until cancelled. Raises what `send` raises, but for what will never be taken: that is dropped."""
        while True:
            await self._until_due()
            some = self._due()
            try:
                await send([Update(task_id=task_id, status=one.status) for task_id, one in some.items()])
            except (InvalidArgument, PermissionDenied) as error:
                _log.error("managers do not take what became of tasks", tasks=list(some), reason=str(error))
            metrics.REPORTS.inc()
            metrics.REPORTED.inc(len(some))
            for task_id, one in some.items():
                if self._waiting.get(task_id) is one:
                    del self._waiting[task_id]
            await asyncio.sleep(GAP)

    def _due(self) -> dict[str, _Waiting]:
        now = self._time()
        due = [(task_id, one) for task_id, one in self._waiting.items() if one.due <= now]
        return dict(due[:_AT_ONCE])

    async def _until_due(self) -> None:
        while True:
            self._wake.clear()
            first = min((one.due for one in self._waiting.values()), default=None)
            if first is not None and first <= self._time():
                return
            try:
                async with asyncio.timeout_at(first):
                    await self._wake.wait()
            except TimeoutError:
                continue
