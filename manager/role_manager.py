"""Makes a node's role follow what was asked for (SwarmKit's manager/role_manager.go).

Promotion: the node's role becomes manager and its certificate is to be rotated; its daemon then renews it, starts a
manager process and joins the Raft group by itself. Demotion goes the other way round: first out of the Raft group
(never below what keeps a quorum), then the role. A leader that is to be demoted first hands leadership on. A node that
is up leaves the group only when its worker knows of the managers that stay: with its own manager gone it would have
nobody to turn to.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from flota.manager.store import Store, Transaction
from flota.v1.objects_pb2 import Certificate, Node
from flota.v1.types_pb2 import NodeRole, NodeState

_log = structlog.get_logger("role")
# SwarmKit's roleReconcileInterval.
_RETRY = 5.0
# Between two looks at whether a node has been told, and how long that is waited for.
_LOOK = 0.05
_PATIENCE = 10.0


class Membership(Protocol):
    """What the role manager needs of Raft."""

    async def remove_member(self, node_id: str) -> None:
        """Take a node out of the group; returns when that is committed, also when it was no member.

        Raises an exception with the reason when the rest would have no quorum.
        """
        ...

    async def transfer_leadership(self) -> None:
        """Hand leadership to the member that is furthest along."""
        ...


class RoleManager:
    """A loop of the leader."""

    name = "role manager"

    def __init__(
        self,
        store: Store,
        membership: Membership,
        own_node_id: str,
        knows_managers: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`knows_managers` says whether a node's worker was told of the managers there are now."""
        self._knows_managers = knows_managers
        # Nodes that are to be demoted and do not know yet, and until when they are waited for.
        self._untold: dict[str, float] = {}
        self._store = store
        self._membership = membership
        self._own_node_id = own_node_id

    async def run(self) -> None:
        """Runs until cancelled."""
        with self._store.watch("node") as changes:
            while True:
                pending = await self._reconcile()
                try:
                    wait = _LOOK if self._untold else _RETRY
                    async with asyncio.timeout(wait if pending else None):
                        await changes.next()
                        changes.drain()
                except TimeoutError:
                    continue

    async def _reconcile(self) -> bool:
        """Change what can be changed now; True when something is left to try again."""
        pending = False
        demoted = {node.id for node in self._store.nodes if node.role != node.spec.desired_role}
        self._untold = {node_id: until for node_id, until in self._untold.items() if node_id in demoted}
        for node in list(self._store.nodes):
            if node.role == node.spec.desired_role:
                continue
            try:
                if node.spec.desired_role == NodeRole.NODE_ROLE_WORKER:
                    if node.id == self._own_node_id:
                        _log.info("the leader is to be demoted: handing leadership on")
                        await self._membership.transfer_leadership()
                        return True
                    if self._is_untold(node):
                        pending = True
                        continue
                    await self._membership.remove_member(node.id)
                await self._set_role(node.id)
            except Exception as error:  # noqa: BLE001 - tried again; the reason is for people
                _log.warning("cannot change a role yet", node_id=node.id, reason=str(error))
                pending = True
        return pending

    def _is_untold(self, node: Node) -> bool:
        """Whether to wait until the node's worker knows who stays a manager; not for ever, nor for a dead node."""
        now = asyncio.get_running_loop().time()
        until = self._untold.setdefault(node.id, now + _PATIENCE)
        waits = node.status.state != NodeState.NODE_STATE_DOWN and now < until and not self._knows_managers(node.id)
        if not waits:
            del self._untold[node.id]
        return waits

    async def _set_role(self, node_id: str) -> None:
        def change(tx: Transaction) -> None:
            stored = tx.nodes.get(node_id)
            if stored is None or stored.role == stored.spec.desired_role:
                return
            changed = Node()
            changed.CopyFrom(stored)
            changed.role = stored.spec.desired_role
            changed.certificate.state = Certificate.STATE_ROTATE
            if changed.role == NodeRole.NODE_ROLE_WORKER:
                changed.ClearField("manager_status")
            tx.update(changed)

        await self._store.update(change)
