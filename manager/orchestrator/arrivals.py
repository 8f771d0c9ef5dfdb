"""Nodes that have come, come back, or were made active, until the rebalancer has taken notice of them.

Whether it has stands in the node (`Node.arrival_handled`), so that a node that comes while the leader changes is not
forgotten, and one that a new leader only hears of again is no news.
"""

from collections.abc import Iterator

from flota.manager.orchestrator.changes import Group
from flota.manager.store import ReadTables
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeAvailability, NodeState

# Seconds for which a node has to be there before tasks are moved because of it.
SETTLE = 3.0


class Arrivals:
    """What is to be noted of nodes' coming and going, and from when on. Our own writes are noted as any others."""

    def __init__(self) -> None:
        self._came: set[str] = set()
        self._left: set[str] = set()
        self._last_came = 0.0

    @property
    def due_at(self) -> float | None:
        """When the nodes that came have been there long enough (wall seconds); None when none came."""
        return self._last_came + SETTLE if self._came else None

    def note(self, node: Node, now: float) -> None:
        """Look at a node that is new or has changed."""
        if not node.arrival_handled:
            self._left.discard(node.id)
        if _is_away(node):
            self._came.discard(node.id)
            if node.arrival_handled:
                self._left.add(node.id)
        elif _takes_tasks(node):
            if node.arrival_handled and node.id not in self._left:
                self._came.discard(node.id)
            elif node.id not in self._came:
                self._came.add(node.id)
                self._last_came = now

    def forget(self, node_id: str) -> None:
        """The node is gone."""
        self._came.discard(node_id)
        self._left.discard(node_id)

    def leavers(self, tables: ReadTables) -> list[Group]:
        """What to write so that nodes that went are news when they come back."""
        return list(_marked(self._left, tables, handled=False))

    def comers(self, tables: ReadTables) -> list[Group]:
        """What to write once everybody has been asked to move tasks to the nodes that came."""
        return list(_marked(self._came, tables, handled=True))


def _marked(node_ids: set[str], tables: ReadTables, handled: bool) -> Iterator[Group]:
    for node_id in sorted(node_ids):
        node = tables.nodes.get(node_id)
        if node is not None and node.arrival_handled != handled:
            marked = Node()
            marked.CopyFrom(node)
            marked.arrival_handled = handled
            yield Group(node_id, update=[marked])


def _takes_tasks(node: Node) -> bool:
    return (
        node.status.state == NodeState.NODE_STATE_READY
        and node.spec.availability == NodeAvailability.NODE_AVAILABILITY_ACTIVE
    )


def _is_away(node: Node) -> bool:
    """Down, drained or paused. Not: disconnected or unknown, which is over in a moment or becomes down."""
    return (
        node.status.state == NodeState.NODE_STATE_DOWN
        or node.spec.availability != NodeAvailability.NODE_AVAILABILITY_ACTIVE
    )
