"""Who asks for logs and who can be asked, for one term of leadership."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from flota.manager.logbroker.metrics import LISTENERS, SUBSCRIPTIONS
from flota.manager.logbroker.selection import check
from flota.manager.logbroker.subscription import Subscription
from flota.manager.store import Event, Store, WatchClosed
from flota.rpc.errors import FailedPrecondition, FlotaError, PermissionDenied
from flota.v1.ids import new_id
from flota.v1.logs_pb2 import LogMessage, PublishLogsMessage, SubscribeLogsRequest, SubscriptionMessage
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeState, TaskState


class Listener:
    """A worker that can be asked: what it is still to be told."""

    def __init__(self) -> None:
        self._waiting: list[SubscriptionMessage] = []
        self._news = asyncio.Event()
        self._error: FlotaError | None = None

    def tell(self, message: SubscriptionMessage) -> None:
        self._waiting.append(message)
        self._news.set()

    def end(self, error: FlotaError) -> None:
        self._error = error
        self._news.set()

    async def messages(self) -> AsyncIterator[SubscriptionMessage]:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._error is not None:
                raise self._error
            waiting, self._waiting = self._waiting, []
            for message in waiting:
                yield message


class Term:
    """Who asks and who can be asked, while this manager leads."""

    def __init__(self, store: Store, limit: float) -> None:
        self._store = store
        self._limit = limit
        self._subscriptions: dict[str, Subscription] = {}
        self._listeners: dict[str, Listener] = {}
        self._error: FlotaError | None = None

    async def run(self) -> None:
        """Follow the store for those who follow, until cancelled."""
        while True:
            with self._store.watch("task", "node", "service") as changes:
                for subscription in self._subscriptions.values():
                    self._review(subscription)
                try:
                    async for events in changes:
                        if self._subscriptions:
                            self._note(events)
                except WatchClosed:
                    continue

    def end(self, error: FlotaError) -> None:
        """Leadership is lost."""
        self._error = error
        for listener in self._listeners.values():
            listener.end(error)
        for subscription in self._subscriptions.values():
            subscription.end(error)

    # Subscribers.

    def subscribe(self, request: SubscribeLogsRequest) -> Subscription:
        """Ask the nodes that have what is selected. Raises InvalidArgument, NotFound."""
        check(request, self._store)
        subscription = Subscription(new_id(), request, self._limit, self._name_of)
        self._subscriptions[subscription.id] = subscription
        self._review(subscription)
        SUBSCRIPTIONS.set(len(self._subscriptions))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The subscriber has gone or has everything; workers that are not done are told."""
        del self._subscriptions[subscription.id]
        SUBSCRIPTIONS.set(len(self._subscriptions))
        for node_id in subscription.open_nodes:
            listener = self._listeners.get(node_id)
            if listener is not None:
                listener.tell(SubscriptionMessage(id=subscription.id, close=True))
        subscription.end()

    def _review(self, subscription: Subscription) -> None:
        """Ask every node that should be."""
        for task in subscription.selection.tasks(self._store):
            self._involve(subscription, task.node_id)
        if not subscription.selection.goes_on(self._store):
            subscription.leave()

    def _involve(self, subscription: Subscription, node_id: str) -> None:
        if node_id in subscription:
            return
        subscription.add(node_id)
        node = self._store.nodes.get(node_id)
        listener = self._listeners.get(node_id)
        if node is None:
            subscription.warn(node_id, "was removed from the cluster: lines are missing")
        elif listener is not None:
            listener.tell(subscription.question(node_id))
        elif node.status.state == NodeState.NODE_STATE_DOWN:
            subscription.warn(node_id, "is down: lines are missing")

    def _name_of(self, node_id: str) -> str:
        node = self._store.nodes.get(node_id)
        return node.description.hostname or node_id if node is not None else node_id

    # Workers.

    def listen(self, node_id: str) -> Listener:
        """The worker can be asked; it is, for everything that it has not done with."""
        listener = Listener()
        replaced = self._listeners.get(node_id)
        if replaced is not None:
            replaced.end(FailedPrecondition("another stream of this node took this one's place"))
        self._listeners[node_id] = listener
        LISTENERS.set(len(self._listeners))
        for subscription in self._subscriptions.values():
            if node_id in subscription and not subscription.is_done(node_id):
                listener.tell(subscription.question(node_id))
        return listener

    def stop_listening(self, node_id: str, listener: Listener) -> None:
        """Its stream is over."""
        if self._listeners.get(node_id) is listener:
            del self._listeners[node_id]
            LISTENERS.set(len(self._listeners))

    async def publish(self, node_id: str, requests: AsyncIterator[PublishLogsMessage]) -> None:
        """Lines of one worker. Raises PermissionDenied for a subscription it was not asked about, and `end`'s error."""
        this_call = object()
        brings: set[Subscription] = set()
        try:
            async for request in requests:
                if self._error is not None:
                    raise self._error
                subscription = self._subscriptions.get(request.subscription_id)
                if subscription is None:
                    continue
                if node_id not in subscription:
                    raise PermissionDenied(f"node {node_id} was not asked for subscription {subscription.id}")
                if subscription not in brings:
                    brings.add(subscription)
                    subscription.begin(node_id, this_call)
                lines = self._own(node_id, request.messages)
                await subscription.put(node_id, this_call, lines, caught_up=request.caught_up)
                if request.close:
                    brings.discard(subscription)
                    subscription.done(node_id, this_call)
        finally:
            # A connection that breaks looks like a call that ends: only `close` says that there is no more.
            for subscription in brings:
                subscription.broken(node_id, this_call)

    def _own(self, node_id: str, messages: Iterable[LogMessage]) -> list[LogMessage]:
        """Lines of the node's own tasks, under its own name: a worker cannot speak for others."""
        kept = []
        for message in messages:
            task = self._store.tasks.get(message.context.task_id)
            if task is None or task.node_id == node_id:
                message.context.node_id = node_id
                kept.append(message)
        return kept

    # What happens meanwhile.

    def _note(self, events: list[Event]) -> None:
        ended = False
        for event in events:
            match event.object:
                case Task() as task:
                    removed = event.kind == StoreAction.KIND_REMOVE
                    ended = ended or removed or is_terminal(task)
                    if not removed:
                        self._note_task(task, event.old)
                case Node() as node if event.kind == StoreAction.KIND_REMOVE:
                    self._warn_of(node.id, "was removed from the cluster: lines are missing")
                case Node() as node if node.status.state == NodeState.NODE_STATE_DOWN:
                    self._warn_of(node.id, "is down: lines are missing")
                case Service() if event.kind == StoreAction.KIND_REMOVE:
                    ended = True
                case _:
                    pass
        if ended:
            for subscription in self._subscriptions.values():
                if not subscription.selection.goes_on(self._store):
                    subscription.leave()

    def _note_task(self, task: Task, old: object) -> None:
        began = isinstance(old, Task) and old.status.state < TaskState.TASK_STATE_STARTING <= task.status.state
        for subscription in self._subscriptions.values():
            if not subscription.follows or not subscription.selection.takes(task):
                continue
            if task.node_id not in subscription:
                self._involve(subscription, task.node_id)
            elif began and subscription.is_done(task.node_id) and (listener := self._listeners.get(task.node_id)):
                # The worker had nothing left to follow; now it has.
                listener.tell(subscription.question(task.node_id))

    def _warn_of(self, node_id: str, why: str) -> None:
        for subscription in self._subscriptions.values():
            if node_id in subscription:
                subscription.warn(node_id, why)
