"""The Logs and LogBroker services on the leader: calls, passed to the state of the term (term.py)."""

from collections.abc import AsyncIterator
from typing import Any

from flota.manager.logbroker.term import Term
from flota.manager.store import Store
from flota.rpc.callers import current_caller
from flota.rpc.errors import Unavailable
from flota.v1 import logs_pb2_grpc
from flota.v1.logs_pb2 import (
    ListenSubscriptionsRequest,
    PublishLogsMessage,
    PublishLogsResponse,
    SubscribeLogsMessage,
    SubscribeLogsRequest,
    SubscriptionMessage,
)

# Seconds a node may be silent.
ANSWER_LIMIT = 5.0


class LogBroker(logs_pb2_grpc.LogsServicer, logs_pb2_grpc.LogBrokerServicer):
    """Register it for both services; run `run` while this manager leads."""

    name = "log broker"

    def __init__(self, store: Store, *, answer_limit: float = ANSWER_LIMIT) -> None:
        """`answer_limit`: seconds a node may be silent before its lines are given up."""
        self._store = store
        self._limit = answer_limit
        self._term: Term | None = None

    async def run(self) -> None:
        """Runs until cancelled; then open subscriptions end with Unavailable."""
        self._term = term = Term(self._store, self._limit)
        try:
            await term.run()
        finally:
            self._term = None
            term.end(Unavailable("this manager does not lead any longer: try again"))

    def _now(self) -> Term:
        if self._term is None:
            raise Unavailable("this manager does not lead: try again")
        return self._term

    async def SubscribeLogs(self, request: SubscribeLogsRequest, context: Any) -> AsyncIterator[SubscribeLogsMessage]:
        """Raises InvalidArgument, NotFound, Unavailable (leadership was lost)."""
        term = self._now()
        subscription = term.subscribe(request)
        try:
            async for message in subscription.messages():
                yield message
        finally:
            term.unsubscribe(subscription)

    async def ListenSubscriptions(
        self, request: ListenSubscriptionsRequest, context: Any
    ) -> AsyncIterator[SubscriptionMessage]:
        """Raises Unavailable, FailedPrecondition (another stream took its place)."""
        term, node_id = self._now(), current_caller().node_id
        listener = term.listen(node_id)
        try:
            # So that the worker knows that it is heard of.
            await context.send_initial_metadata(())
            async for message in listener.messages():
                yield message
        finally:
            term.stop_listening(node_id, listener)

    async def PublishLogs(self, requests: AsyncIterator[PublishLogsMessage], context: Any) -> PublishLogsResponse:
        """Raises Unavailable, PermissionDenied."""
        await self._now().publish(current_caller().node_id, requests)
        return PublishLogsResponse()
