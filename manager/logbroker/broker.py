"""The Logs and LogBroker services on the leader."""

import asyncio

from flota.manager.store import Store
from flota.v1 import logs_pb2_grpc


class LogBroker(logs_pb2_grpc.LogsServicer, logs_pb2_grpc.LogBrokerServicer):
    """Register it for both services; run `run` while this manager leads."""

    name = "log broker"

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Runs until cancelled; then open subscriptions end with Unavailable."""
        await asyncio.get_running_loop().create_future()
