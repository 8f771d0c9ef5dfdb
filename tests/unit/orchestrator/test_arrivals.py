"""Which nodes have come, and from when on tasks are moved because of it."""

import pytest

from flota.manager.orchestrator.arrivals import SETTLE, Arrivals
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeAvailability, NodeState
from tests.unit.orchestrator.tables import Tables

READY, DOWN = NodeState.NODE_STATE_READY, NodeState.NODE_STATE_DOWN
ACTIVE, PAUSE = NodeAvailability.NODE_AVAILABILITY_ACTIVE, NodeAvailability.NODE_AVAILABILITY_PAUSE


class Nodes:
    """Nodes as they change, and what is noted of them; `write` does what is asked for."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.arrivals = Arrivals()

    def put(
        self,
        state: "NodeState.ValueType" = READY,
        availability: "NodeAvailability.ValueType" = ACTIVE,
        now: float = 100.0,
    ) -> None:
        known = self.tables.nodes.get("n1")
        node = self.tables.node("n1", state, availability)
        node.arrival_handled = known is not None and known.arrival_handled
        self.arrivals.note(node, now)

    def write(self, comers: bool) -> list[str]:
        groups = self.arrivals.comers(self.tables) if comers else self.arrivals.leavers(self.tables)
        for group in groups:
            for node in group.update:
                assert isinstance(node, Node)
                self.tables.nodes.put(node)
                self.arrivals.note(node, 100.0)
        return [group.owner for group in groups]


def test_a_node_that_came_is_due_when_it_has_been_there_for_a_while_and_once() -> None:
    nodes = Nodes()
    nodes.put(now=100.0)
    nodes.put(now=101.0)
    assert nodes.arrivals.due_at == 100.0 + SETTLE
    assert nodes.write(comers=True) == ["n1"]
    assert (nodes.arrivals.due_at, nodes.write(comers=True)) == (None, [])
    nodes.put(now=200.0)
    assert nodes.arrivals.due_at is None


@pytest.mark.parametrize(("state", "availability"), [(DOWN, ACTIVE), (READY, PAUSE)])
def test_one_that_went_is_news_when_it_comes_back_also_when_that_was_quick(
    state: "NodeState.ValueType", availability: "NodeAvailability.ValueType"
) -> None:
    nodes = Nodes()
    nodes.put()
    nodes.write(comers=True)
    nodes.put(state, availability)
    assert nodes.arrivals.due_at is None
    nodes.put(now=300.0)
    assert nodes.arrivals.due_at == 300.0 + SETTLE
    assert nodes.write(comers=False) == ["n1"]
    assert nodes.write(comers=True) == ["n1"]
    assert nodes.arrivals.due_at is None


@pytest.mark.parametrize("state", [NodeState.NODE_STATE_UNKNOWN, NodeState.NODE_STATE_DISCONNECTED])
def test_one_that_was_only_not_heard_of_for_a_moment_has_not_come(state: "NodeState.ValueType") -> None:
    nodes = Nodes()
    nodes.put()
    nodes.write(comers=True)
    nodes.put(state)
    nodes.put()
    assert (nodes.arrivals.due_at, nodes.write(comers=False)) == (None, [])


def test_one_that_is_gone_is_forgotten() -> None:
    nodes = Nodes()
    nodes.put()
    nodes.arrivals.forget("n1")
    assert nodes.arrivals.due_at is None
