"""LogPublisher: this node's side of the log broker (proto/flota/v1/logs.proto).

    ListenSubscriptions ──► somebody wants the lines of services or tasks ──► PublishLogs, one stream for each who asks

A subscriber who does not read holds up its own stream and nobody else's: the next part of a file is read only when the
last one has been taken, so that no more than a part of each task's log waits for each subscriber.

Trouble with a stream ends that stream; what is still wanted, the managers ask for again. It is never trouble of the
session the channel belongs to.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import structlog

from flota.v1.logs_pb2 import (
    ListenSubscriptionsRequest,
    PublishLogsMessage,
    SubscriptionMessage,
)
from flota.v1.logs_pb2_grpc import LogBrokerStub
from flota.worker.logs.changes import Changes
from flota.worker.logs.merging import News, Reader, TaskLog, merged, parts

if TYPE_CHECKING:
    from flota.v1.logs_pb2_grpc import LogBrokerAsyncStub

_log = structlog.get_logger("logs")
_THREADS = 2
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
# Bytes in one message, about.
_MOST = 256 << 10


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

    async def run(self, channel: grpc.aio.Channel, retired: asyncio.Event) -> None:
        """Serve the managers behind `channel`; runs until cancelled.

        Once `retired`, until they ask over another channel: there they ask for what is still wanted.
        """
        stub = LogBrokerStub(channel)
        pause = _FIRST_PAUSE
        while not retired.is_set():
            try:
                async with _Serving() as serving:
                    async for message in stub.ListenSubscriptions(ListenSubscriptionsRequest()):
                        pause = _FIRST_PAUSE
                        self._take(message, stub, serving)
            except grpc.aio.AioRpcError as error:
                _log.debug("not asked for logs at the moment", reason=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await retired.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take(self, message: SubscriptionMessage, stub: "LogBrokerAsyncStub", serving: "_Serving") -> None:
        self._close(message.id)
        if not message.close:
            subscription = _Subscription(message, self._logs, self._changes, self._threads)
            task = serving.begin(self._serve(subscription, stub), f"logs: {message.id}")
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


class _Serving:
    """Tasks that end with the stream that asked for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> "_Serving":
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
        # Also when a file has changed: each reader knows whether it was its own.
        self.tasks_changed = asyncio.Event()
        self._services = frozenset(message.selector.service_ids)
        self._tasks = frozenset(message.selector.task_ids)
        self._options = message.options
        self._follows = message.options.follow
        self._logs = logs
        self._changes = changes
        self._threads = threads
        self._readers: dict[str, Reader] = {}
        self._watched: dict[str, ExitStack] = {}
        self._first = True

    async def run(self, stub: "LogBrokerAsyncStub") -> None:
        """Send everything that is wanted. Raises AioRpcError, OSError."""
        self._call = stub.PublishLogs()
        try:
            await self._send_all()
            await self._call.write(PublishLogsMessage(subscription_id=self.id, close=True))
            await self._call.done_writing()
            await self._call
        finally:
            self._call.cancel()
            for watched in self._watched.values():
                watched.close()

    async def _send_all(self) -> None:
        """What there is, and with follow what comes; returns when there will be no more of it."""
        caught_up = False
        while True:
            self.tasks_changed.clear()
            goes_on = self._look()
            while await self._send_next():
                pass
            if not self._follows or not (goes_on or self._unfinished()):
                return
            if not caught_up:
                caught_up = True
                await self._call.write(PublishLogsMessage(subscription_id=self.id, caught_up=True))
            try:
                async with asyncio.timeout(self._time_left()):
                    await self.tasks_changed.wait()
            except TimeoutError:
                self._follows = False
                for reader in self._readers.values():
                    reader.end()

    def _look(self) -> bool:
        """Have a reader for each task there is now; whether there may be more of them."""
        there = {one.task_id: one for one in self._logs() if self._wants(one)}
        for task_id, log in there.items():
            if task_id not in self._readers and log.path.exists():
                self._readers[task_id] = reader = Reader(log, self._options, with_tail=self._first)
                self._watched[task_id] = watched = ExitStack()
                watched.callback(reader.close)
                watched.enter_context(self._changes.watch(log.path.parent, News(reader.news, self.tasks_changed)))
        for task_id, reader in list(self._readers.items()):
            if task_id not in there or there[task_id].ended or not self._follows:
                reader.end()
            if task_id not in there and reader.finished:
                del self._readers[task_id]
                self._watched.pop(task_id).close()
        self._first = False
        return bool(self._services) or any(not log.ended for log in there.values())

    def _wants(self, log: TaskLog) -> bool:
        return log.service_id in self._services or log.task_id in self._tasks

    def _unfinished(self) -> bool:
        return any(not reader.finished for reader in self._readers.values())

    def _time_left(self) -> float | None:
        """Seconds until the last moment of interest; None = for ever."""
        if not self._options.HasField("until"):
            return None
        return max(0.0, (self._options.until.ToNanoseconds() - time.time_ns()) / 1e9)

    async def _send_next(self) -> bool:
        """Read what is needed for the next lines and send them, which waits while the subscriber does not read.

        False if there are none.
        """
        loop = asyncio.get_running_loop()
        readers = list(self._readers.values())
        for reader in readers:
            while reader.needs_more:
                await loop.run_in_executor(self._threads, reader.read_part)
        messages = merged(readers)
        for part in parts(messages, _MOST):
            await self._call.write(PublishLogsMessage(subscription_id=self.id, messages=part))
        return bool(messages)
