"""Tasks of nodes that stay away."""

from flota.manager.clock import timestamp
from flota.manager.dispatcher.orphans import ORPHAN_AFTER, orphaned
from flota.manager.store import LocalProposer, Store, Transaction
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeState, TaskState
from tests.unit.dispatcher.swarm import ASSIGNED, RUNNING, task

NOW = 1_000_000.0


def node(id: str, state: "NodeState.ValueType", since: float) -> Node:
    made = Node(id=id)
    made.status.state = state
    made.status.since.CopyFrom(timestamp(since))
    return made


async def test_after_a_day_nobody_knows() -> None:
    store = Store()
    LocalProposer(store)

    def fill(tx: Transaction) -> None:
        tx.create(node("gone", NodeState.NODE_STATE_DOWN, NOW - ORPHAN_AFTER))
        tx.create(node("away", NodeState.NODE_STATE_DOWN, NOW - ORPHAN_AFTER + 1))
        tx.create(node("here", NodeState.NODE_STATE_READY, NOW - 10 * ORPHAN_AFTER))
        for node_id in ("gone", "away", "here"):
            tx.create(task(f"running-{node_id}", node_id, state=RUNNING))
        tx.create(task("assigned", "gone", state=ASSIGNED))
        tx.create(task("pending", "gone", state=TaskState.TASK_STATE_PENDING))
        tx.create(task("failed", "gone", state=TaskState.TASK_STATE_FAILED))

    await store.update(fill)
    given_up = [changed for group in orphaned(store, NOW) for changed in group.update]
    assert {changed.id for changed in given_up} == {"running-gone", "assigned"}
    assert {changed.status.state for changed in given_up} == {TaskState.TASK_STATE_ORPHANED}
    assert store.tasks.get("assigned").status.state == ASSIGNED
