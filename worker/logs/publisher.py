"""LogPublisher: this node's side of the log broker (proto/flota/v1/logs.proto).

    ListenSubscriptions ──► somebody wants the lines of services or tasks ──► PublishLogs, one stream for each who asks

A subscriber who does not read holds up its own stream and nobody else's: the next part of a file is read only when the
last one has been taken, so that no more than a part waits for each subscriber.

Trouble with a stream ends that stream; what is still wanted, the managers ask for again. It is never trouble of the
session the channel belongs to.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import structlog

from flota.v1.logs_pb2 import (
    ListenSubscriptionsRequest,
    LogContext,
    LogMessage,
    LogOptions,
    PublishLogsMessage,
    SubscriptionMessage,
)
from flota.v1.logs_pb2_grpc import LogBrokerStub
from flota.worker.logs.changes import Changes
from flota.worker.logs.entries import LogEntry
from flota.worker.logs.files import LogFile

if TYPE_CHECKING:
    from flota.v1.logs_pb2_grpc import LogBrokerAsyncStub

_log = structlog.get_logger("logs")
_THREADS = 2
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class TaskLog:
    """A task of this node and where its log is, or will be once it has a container."""

    task_id: str
    service_id: str
    path: Path
    # Nothing more will be written.
    ended: bool


class LogPublisher:
    """One per worker. `start` it, `run` it with every session's channel, `stop` it; all methods on the event loop."""

    def __init__(self, logs: Callable[[], Iterable[TaskLog]]) -> None:
        """`logs` gives all tasks of this node that there are now."""
        self._logs = logs
        self._changes = Changes()
        self._threads = ThreadPoolExecutor(_THREADS, "logs")
        self._subscriptions: dict[str, tuple[_Subscription, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Before `run`."""
        await self._changes.start()

    async def stop(self) -> None:
        """After `run` was cancelled."""
        await self._changes.stop()
        self._threads.shutdown(wait=False)

    def __len__(self) -> int:
        """How many subscribers are served."""
        return len(self._subscriptions)

    def changed(self) -> None:
        """There are other tasks than before, or one of them has a container now or has ended. Cheap."""
        for subscription, _ in self._subscriptions.values():
            subscription.tasks_changed.set()

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Serve the managers behind `channel`; runs until cancelled."""
        stub = LogBrokerStub(channel)
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    try:
                        async for message in stub.ListenSubscriptions(ListenSubscriptionsRequest()):
                            pause = _FIRST_PAUSE
                            self._take(message, stub, group)
                    finally:
                        self._close_all()
            except* grpc.aio.AioRpcError as errors:
                _log.debug("not asked for logs at the moment", reason=str(errors.exceptions[0]))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take(self, message: SubscriptionMessage, stub: "LogBrokerAsyncStub", group: asyncio.TaskGroup) -> None:
        self._close(message.id)
        if not message.close:
            subscription = _Subscription(message, self._logs, self._changes, self._threads)
            task = group.create_task(self._serve(subscription, stub), name=f"logs: {message.id}")
            self._subscriptions[message.id] = subscription, task

    async def _serve(self, subscription: "_Subscription", stub: "LogBrokerAsyncStub") -> None:
        try:
            await subscription.run(stub)
        except grpc.aio.AioRpcError as error:
            _log.info("sending logs broke off", subscription=subscription.id, reason=error.details())
        except OSError as error:
            _log.warning("logs cannot be read", subscription=subscription.id, error=str(error))
        except Exception:  # noqa: BLE001 - one subscriber's trouble is not the others'
            _log.exception("a defect ends a subscription", subscription=subscription.id)
        finally:
            known = self._subscriptions.get(subscription.id)
            if known is not None and known[0] is subscription:
                del self._subscriptions[subscription.id]

    def _close(self, subscription_id: str) -> None:
        known = self._subscriptions.pop(subscription_id, None)
        if known is not None:
            known[1].cancel()

    def _close_all(self) -> None:
        for subscription_id in list(self._subscriptions):
            self._close(subscription_id)


class _Subscription:
    """One subscriber's lines from this node."""

    def __init__(
        self,
        message: SubscriptionMessage,
        logs: Callable[[], Iterable[TaskLog]],
        changes: Changes,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.id = message.id
        self.tasks_changed = asyncio.Event()
        self._services = frozenset(message.selector.service_ids)
        self._tasks = frozenset(message.selector.task_ids)
        self._options = message.options
        self._logs = logs
        self._changes = changes
        self._threads = threads
        self._readers: dict[str, _Reader] = {}
        # Whoever has it reads and sends; so only one part is in memory.
        self._turn = asyncio.Lock()

    async def run(self, stub: "LogBrokerAsyncStub") -> None:
        """Send everything that is wanted. Raises AioRpcError, OSError."""
        self._call = stub.PublishLogs()
        try:
            async with asyncio.TaskGroup() as group:
                await self._follow_tasks(group)
            await self._call.write(PublishLogsMessage(subscription_id=self.id, close=True))
            await self._call.done_writing()
            await self._call
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            self._call.cancel()

    async def _follow_tasks(self, group: asyncio.TaskGroup) -> None:
        """Have a reader for each task, now and as they come; returns when there will be no more of them."""
        first = True
        while True:
            self.tasks_changed.clear()
            there = {one.task_id: one for one in self._logs() if self._wants(one)}
            for task_id, log in there.items():
                if task_id not in self._readers and log.path.exists():
                    self._readers[task_id] = reader = _Reader(log, self._options, with_tail=first)
                    group.create_task(self._read(reader))
            for task_id, reader in list(self._readers.items()):
                if task_id not in there or there[task_id].ended:
                    reader.end()
                if task_id not in there and reader.finished:
                    del self._readers[task_id]
            first = False
            if not self._options.follow or not self._may_get_more(there):
                return
            await self.tasks_changed.wait()

    def _wants(self, log: TaskLog) -> bool:
        return log.service_id in self._services or log.task_id in self._tasks

    def _may_get_more(self, there: dict[str, TaskLog]) -> bool:
        return bool(self._services) or any(not log.ended for log in there.values())

    async def _read(self, reader: "_Reader") -> None:
        try:
            with self._changes.watch(reader.file.path.parent, reader.news):
                while True:
                    reader.news.clear()
                    last = reader.ended or not self._options.follow
                    while await self._send_next(reader):
                        pass
                    if last:
                        return
                    await reader.news.wait()
        finally:
            reader.finished = True
            reader.file.close()

    async def _send_next(self, reader: "_Reader") -> bool:
        """Read a part and send it, which waits while the subscriber does not read. False if there is none."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            entries = await loop.run_in_executor(self._threads, reader.file.read)
            if entries:
                messages = [reader.message(entry) for entry in entries]
                await self._call.write(PublishLogsMessage(subscription_id=self.id, messages=messages))
        return entries is not None


class _Reader:
    """One task's log, read for one subscriber."""

    def __init__(self, log: TaskLog, options: LogOptions, *, with_tail: bool) -> None:
        tail = options.tail if with_tail and options.HasField("tail") else None
        self.news = asyncio.Event()
        self.ended = False
        self.finished = False
        self.file = LogFile(log.path, tail=tail, since=max(0, options.since.ToNanoseconds()), streams=options.streams)
        self._context = LogContext(service_id=log.service_id, task_id=log.task_id)

    def end(self) -> None:
        """Nothing more will be written."""
        if not self.ended:
            self.ended = True
            self.news.set()

    def message(self, entry: LogEntry) -> LogMessage:
        """The entry as it goes over the wire."""
        message = LogMessage(context=self._context, stream=entry.stream, data=entry.data)
        message.timestamp.FromNanoseconds(entry.time)
        return message


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
