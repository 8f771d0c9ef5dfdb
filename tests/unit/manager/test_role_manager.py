"""Demotion: a node leaves the Raft group only when its worker knows of the managers that stay."""

import asyncio

import pytest

from flota.manager.role_manager import RoleManager
from flota.manager.store import LocalProposer, Store
from flota.v1.objects_pb2 import Node
from flota.v1.types_pb2 import NodeRole, NodeState
from tests.simulation import virtual_time

MANAGER, WORKER = NodeRole.NODE_ROLE_MANAGER, NodeRole.NODE_ROLE_WORKER


class Group:
    """Remembers when members were taken out."""

    def __init__(self) -> None:
        self.removed: dict[str, float] = {}

    async def remove_member(self, node_id: str) -> None:
        self.removed[node_id] = asyncio.get_running_loop().time()

    async def transfer_leadership(self) -> None:
        raise AssertionError("the leader is not to be demoted here")


async def demote(told_after: float, state: NodeState.ValueType) -> float:
    """When the member leaves the group, if its worker is told so late."""
    store, group = Store(), Group()
    LocalProposer(store)
    node = Node(id="m2", role=MANAGER)
    node.spec.desired_role = WORKER
    node.status.state = state
    await store.update(lambda tx: tx.create(node))
    loop = asyncio.get_running_loop()
    manager = RoleManager(store, group, "m1", lambda _: loop.time() >= told_after)
    running = asyncio.create_task(manager.run())
    with store.watch("node") as changes:
        while (now := store.nodes.get("m2")) is None or now.role != WORKER:
            await changes.next()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return group.removed["m2"]


@pytest.mark.parametrize(
    ("told_after", "state", "least", "most"),
    [
        (0.0, NodeState.NODE_STATE_READY, 0.0, 0.1),
        (2.0, NodeState.NODE_STATE_READY, 2.0, 2.2),
        # Nobody waits for ever, and nobody for a node that is dead.
        (1e9, NodeState.NODE_STATE_READY, 10.0, 10.2),
        (1e9, NodeState.NODE_STATE_DOWN, 0.0, 0.1),
    ],
)
def test_a_demoted_node_is_told_who_stays_first(
    told_after: float, state: NodeState.ValueType, least: float, most: float
) -> None:
    assert least <= virtual_time.run(demote(told_after, state)) <= most
