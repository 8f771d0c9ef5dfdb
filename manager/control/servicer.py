"""The Control service on the leader, put together from one module per kind."""

import asyncio
from collections.abc import Callable
from random import Random

from flota.manager.clock import Clock
from flota.manager.raft.interface import MemberStatus
from flota.manager.store import Store
from flota.v1 import control_pb2_grpc


class Control(control_pb2_grpc.ControlServicer):
    """Register it with a gRPC server; run `run` while this manager leads."""

    name = "control"

    def __init__(
        self, store: Store, clock: Clock, rng: Random, members: Callable[[], list[MemberStatus]], own_node_id: str = ""
    ) -> None:
        """`members` is Raft's view of its group; `rng` makes ids and tokens."""
        self._store = store
        self._clock = clock
        self._rng = rng
        self._members = members
        self._own_node_id = own_node_id

    async def run(self) -> None:
        """Runs until cancelled; then open Watch streams end with Unavailable."""
        await asyncio.get_running_loop().create_future()
