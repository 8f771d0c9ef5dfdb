"""Writes what presence finds into nodes: their state, their address, what they tell about their machine.

Level-triggered: for each node the newest wish is kept until the store has it, many nodes go into one transaction, and
what is as it should be is not written. So a burst of registrations after a change of leader costs a few transactions,
and a session that begins and ends quickly never leaves the older state behind.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from flota.manager.clock import Clock, timestamp
from flota.manager.dispatcher.metrics import TRANSITIONS
from flota.manager.store import MAX_CHANGES_PER_TRANSACTION, Store, StoreError, Transaction
from flota.manager.watch_loop import RETRY_DELAY
from flota.rpc.errors import FlotaError
from flota.v1.objects_pb2 import Node, NodeDescription
from flota.v1.types_pb2 import NodeState

_log = structlog.get_logger("dispatcher")
State: TypeAlias = "NodeState.ValueType"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a node shall be. Description and address are None while nothing new is known."""

    state: State
    reason: str
    description: NodeDescription | None = None
    address: str | None = None


class NodeWriter:
    """`run` it while this manager leads."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wishes: dict[str, Wish] = {}
        self._waiters: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._wake = asyncio.Event()

    def want(self, node_id: str, wish: Wish) -> None:
        """Replaces what was wanted of the node before."""
        self._wishes[node_id] = wish
        self._wake.set()

    async def written(self, node_id: str) -> None:
        """Wait until the store has what is wanted of the node now. Raises what `end` is given."""
        if node_id in self._wishes:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[node_id].append(waiter)
            await waiter

    def end(self, error: FlotaError) -> None:
        """Nothing will be written any more."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        self._waiters.clear()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wishes:
                if not await self._write():
                    await asyncio.sleep(RETRY_DELAY)

    async def _write(self) -> bool:
        """Commit some of what is wanted; False when consensus cannot take it at the moment."""
        some = dict(list(self._wishes.items())[:MAX_CHANGES_PER_TRANSACTION])

        def change(tx: Transaction) -> list[str]:
            return [name for node_id, wish in some.items() if (name := self._apply(tx, node_id, wish))]

        try:
            moved = await self._store.update(change)
        except (StoreError, FlotaError) as error:
            _log.warning("cannot commit the state of nodes", reason=str(error), nodes=len(some))
            return False
        for name in moved:
            TRANSITIONS.labels(name).inc()
        for node_id, wish in some.items():
            # Not if something newer is wanted by now.
            if self._wishes.get(node_id) is wish:
                del self._wishes[node_id]
                for waiter in self._waiters.pop(node_id, ()):
                    if not waiter.done():
                        waiter.set_result(None)
        return True

    def _apply(self, tx: Transaction, node_id: str, wish: Wish) -> str:
        """Give the node what it lacks; says the new state's name if that changed."""
        stored = tx.nodes.get(node_id)
        if stored is None:
            return ""
        moves = stored.status.state != wish.state
        description = wish.description if wish.description != stored.description else None
        elsewhere = wish.address is not None and stored.status.address != wish.address
        if not (moves or description is not None or elsewhere):
            return ""
        changed = Node()
        changed.CopyFrom(stored)
        if moves:
            changed.status.state = wish.state
            changed.status.message = wish.reason
            changed.status.since.CopyFrom(timestamp(self._clock.now()))
        if description is not None:
            changed.description.CopyFrom(description)
        if elsewhere:
            changed.status.address = wish.address or ""
        tx.update(changed)
        name = NodeState.Name(wish.state).removeprefix("NODE_STATE_").lower()
        if moves:
            _log.info("node", node_id=node_id, state=name, reason=wish.reason)
        return name if moves else ""
