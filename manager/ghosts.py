"""Removes nodes that nobody is: a machine that lost power while it joined knows nothing of it afterwards.

A node describes itself when it opens its first session. One that did not within twice the time that a join may take is
a leftover: its certificate is refused, and it is taken out of the Raft group if it was a learner there. A voter never
is: its machine knows what it is before it becomes one (node/record.py), and takes up where it was whenever it comes
back. To give up on one is for people to decide (`flota node rm --force`).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from flota.manager.clock import Clock, seconds
from flota.manager.control.nodes import refusing
from flota.manager.raft.interface import MemberStatus
from flota.manager.role_manager import Membership
from flota.manager.store import Store, Transaction
from flota.rpc.errors import FlotaError
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeState

_log = structlog.get_logger("node")
# Seconds. A join gives up after 30, and takes back what it did within another 10.
GHOST_AFTER = 90.0
_EVERY = 15.0


def ghosts(nodes: Iterable[Node], now: float) -> list[Node]:
    """Nodes that never had a session, and will not get one. Pure."""
    return [
        node
        for node in nodes
        if not node.description.hostname
        and node.status.state in (NodeState.NODE_STATE_UNKNOWN, NodeState.NODE_STATE_DOWN)
        and now - seconds(node.meta.created_at) > GHOST_AFTER
    ]


class GhostHunter:
    """A loop of the leader."""

    name = "ghosts"

    def __init__(
        self, store: Store, membership: Membership, clock: Clock, members: Callable[[], Sequence[MemberStatus]]
    ) -> None:
        self._store = store
        self._membership = membership
        self._clock = clock
        self._members = members

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            voters = {member.node_id for member in self._members() if member.voter}
            for node in ghosts(self._store.nodes, self._clock.now()):
                if node.id not in voters:
                    await self._remove(node.id)
            await asyncio.sleep(_EVERY)

    async def _remove(self, node_id: str) -> None:
        try:
            await self._membership.remove_member(node_id)
            await self._store.update(self._removal(node_id))
        except FlotaError as error:
            _log.warning("a node that never came cannot be removed yet", node_id=node_id, reason=str(error))
            return
        _log.info("removed a node that never came: its join was cut short", node_id=node_id)

    def _removal(self, node_id: str) -> Callable[[Transaction], None]:
        def change(tx: Transaction) -> None:
            node, cluster = tx.nodes.get(node_id), next(iter(tx.clusters), None)
            if node is None or not ghosts([node], self._clock.now()):
                return
            if cluster is not None:
                tx.update(refusing(cluster, node, self._clock.now()))
            tx.remove(node)

        return change
