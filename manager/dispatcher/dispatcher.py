"""The Dispatcher service on the leader."""

import asyncio
from collections.abc import Callable
from random import Random

from flota.manager.clock import Clock
from flota.manager.store import Store
from flota.v1 import dispatcher_pb2_grpc
from flota.v1.types_pb2 import Peer


class Dispatcher(dispatcher_pb2_grpc.DispatcherServicer):
    """Register it with a gRPC server; run `run` while this manager leads: calls outside of that get Unavailable."""

    name = "dispatcher"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        rng: Random,
        managers: Callable[[], list[Peer]],
        root_ca: Callable[[], bytes],
        own_node_id: str = "",
    ) -> None:
        """`managers` are the addresses workers may turn to, `root_ca` PEM of the roots they shall trust."""
        self._store = store
        self._clock = clock
        self._rng = rng
        self._managers = managers
        self._root_ca = root_ca
        self._own_node_id = own_node_id

    async def run(self) -> None:
        """Runs until cancelled; then all sessions end with Unavailable."""
        await asyncio.get_running_loop().create_future()
