"""A node whose join was cut short does not stay for ever; one that is slow, or was ever here, does."""

import asyncio
from contextlib import suppress

from flota.manager.clock import timestamp
from flota.manager.ghosts import GHOST_AFTER, GhostHunter, ghosts
from flota.manager.raft.interface import MembershipRefused, MemberStatus
from flota.manager.store import LocalProposer, Store
from flota.v1.objects_pb2 import Cluster, Node
from flota.v1.types_pb2 import NodeState
from tests.simulation import virtual_time

UNKNOWN, READY, DOWN = NodeState.NODE_STATE_UNKNOWN, NodeState.NODE_STATE_READY, NodeState.NODE_STATE_DOWN


def node(id: str, created: float = 0.0, state: NodeState.ValueType = UNKNOWN, hostname: str = "") -> Node:
    made = Node(id=id)
    made.meta.created_at.CopyFrom(timestamp(created))
    made.status.state = state
    made.description.hostname = hostname
    return made


def member(node_id: str, reachable: bool) -> MemberStatus:
    return MemberStatus(raft_id=1, node_id=node_id, address="", voter=True, leader=False, reachable=reachable)


def test_a_ghost_never_said_a_word_and_had_its_time() -> None:
    now = 1000.0
    nodes = [
        node("ghost"),
        node("ghost-that-is-down", state=DOWN),
        node("slow", created=now - GHOST_AFTER),
        node("here", state=READY),
        node("was-here", state=DOWN, hostname="w1"),
    ]
    assert [one.id for one in ghosts(nodes, now)] == ["ghost", "ghost-that-is-down"]


class Group:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def remove_member(self, node_id: str) -> None:
        self.asked.append(node_id)
        if len(self.asked) == 1:
            raise MembershipRefused("the rest would have no quorum")

    async def transfer_leadership(self) -> None:
        raise AssertionError


class Now:
    def now(self) -> float:
        return asyncio.get_running_loop().time()


async def hunted(within: float) -> tuple[set[str], float, list[str], set[str]]:
    """Who is left, when somebody went, who was asked to leave the group, and whose certificate is refused."""
    store, group = Store(Now()), Group()
    LocalProposer(store)
    await store.update(lambda tx: tx.create(Cluster(id="c")))
    for name in ("ghost", "silent", "alive"):
        await store.update(lambda tx, name=name: tx.create(node(name)))  # type: ignore[misc]
    members = [member("alive", True), member("silent", False)]
    hunting = asyncio.create_task(GhostHunter(store, group, Now(), lambda: members).run())
    with store.watch("node") as changes, suppress(TimeoutError):
        async with asyncio.timeout(within):
            await changes.next()
    gone_at = Now().now()
    await asyncio.sleep(within)
    hunting.cancel()
    await asyncio.gather(hunting, return_exceptions=True)
    assert store.cluster is not None
    return {one.id for one in store.nodes}, gone_at, group.asked, set(store.cluster.removed_nodes)


def test_a_ghost_leaves_the_cluster_and_a_member_of_the_group_never_does_by_itself() -> None:
    left, at, asked, refused = virtual_time.run(hunted(3600))
    # A group that would have no quorum without it is asked again.
    assert (left, asked, refused) == ({"alive", "silent"}, ["ghost", "ghost"], {"ghost"})
    assert GHOST_AFTER < at < GHOST_AFTER + 60
