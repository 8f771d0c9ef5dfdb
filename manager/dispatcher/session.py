"""One worker's session: its identity, and what wakes and ends the streams that belong to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flota.rpc.errors import FailedPrecondition, FlotaError
from flota.v1.types_pb2 import Peer

if TYPE_CHECKING:
    from flota.manager.dispatcher.outbox import Outbox


class Session:
    """`outbox` is there while the worker has its assignments stream open."""

    def __init__(self, node_id: str, id: str) -> None:
        self.node_id = node_id
        self.id = id
        self.outbox: Outbox | None = None
        self.ended = False
        # The managers its worker was last told of.
        self.managers: list[Peer] = []
        self._error: FlotaError | None = None
        self._wake = asyncio.Event()

    def end(self, error: FlotaError | None) -> None:
        """End its streams: with `error`, or quietly with None."""
        if self.ended:
            return
        self.ended, self._error = True, error
        self._wake.set()
        if self.outbox is not None:
            self.outbox.end(error)

    def attach(self, outbox: Outbox) -> None:
        """The worker opened its assignments stream; another one that it had ends."""
        if self.outbox is not None:
            self.outbox.end(FailedPrecondition("another assignments stream of this session took this one's place"))
        self.outbox = outbox

    def poke(self) -> None:
        """There may be something to say on the session's stream."""
        self._wake.set()

    def is_open(self) -> bool:
        """False when the session has ended quietly. Raises what it ended with otherwise."""
        if self._error is not None:
            raise self._error
        return not self.ended

    async def poked(self) -> None:
        """Wait for the next poke, or the end."""
        await self._wake.wait()
        self._wake.clear()
