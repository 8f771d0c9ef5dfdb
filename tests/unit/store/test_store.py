"""The store, with a consensus of one."""

import asyncio

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.store import (
    Compacted,
    Conflict,
    LocalProposer,
    NameTaken,
    Store,
    Transaction,
    TransactionTooLarge,
    WatchClosed,
)
from flota.manager.store.schema import KINDS
from flota.manager.store.watch import Event, WatchHub
from flota.v1.objects_pb2 import Config, Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import TaskState


@pytest.fixture
def store() -> Store:
    store = Store()
    LocalProposer(store)
    return store


def service(id: str, name: str) -> Service:
    made = Service(id=id)
    made.spec.annotations.name = name
    return made


def task(id: str, service_id: str = "s1", node_id: str = "", slot: int = 1) -> Task:
    return Task(id=id, service_id=service_id, node_id=node_id, slot=slot)


async def test_what_was_created_is_found_by_id_name_prefix_and_index(store: Store) -> None:
    def change(tx: Transaction) -> None:
        tx.create(service("abc", "web"))
        tx.create(task("t1", "abc", "n1", 1))
        tx.create(task("t2", "abc", "", 2))

    await store.update(change)
    assert store.services.get("abc") is store.services.by_name("web") is store.services.by_prefix("ab")[0]
    assert [t.id for t in store.tasks.by("service", "abc")] == ["t1", "t2"]
    assert [t.id for t in store.tasks.by("node", "n1")] == ["t1"]
    assert [t.id for t in store.tasks.by("slot", ("abc", 2))] == ["t2"]
    assert store.services.get("abc").meta.version.index == store.index == 1


async def test_an_update_moves_the_indices_and_the_version(store: Store) -> None:
    await store.update(lambda tx: tx.create(task("t1", node_id="n1")))
    changed = Task()
    changed.CopyFrom(store.tasks.get("t1"))
    changed.node_id = "n2"
    await store.update(lambda tx: tx.update(changed))
    assert store.tasks.by("node", "n1") == []
    stored = store.tasks.by("node", "n2")[0]
    assert stored.meta.version.index == 2
    assert stored.meta.created_at.ToNanoseconds() <= stored.meta.updated_at.ToNanoseconds()


async def test_a_transaction_sees_its_own_writes(store: Store) -> None:
    await store.update(lambda tx: tx.create(task("old", node_id="n1")))

    def change(tx: Transaction) -> None:
        tx.create(task("new", node_id="n1"))
        assert {t.id for t in tx.tasks.by("node", "n1")} == {"old", "new"}
        tx.remove(tx.tasks.get("old"))
        assert [t.id for t in tx.tasks.by("node", "n1")] == ["new"]
        assert tx.tasks.get("old") is None
        assert len(tx.tasks) == 1
        tx.create(service("s", "web"))
        assert tx.services.by_name("web").id == "s"

    await store.update(change)
    assert store.tasks.get("old") is None


async def test_a_change_that_rests_on_an_old_version_is_refused_and_nothing_of_it_is_applied(store: Store) -> None:
    await store.update(lambda tx: tx.create(task("t1")))
    stale = Task()
    stale.CopyFrom(store.tasks.get("t1"))
    await store.update(lambda tx: tx.update(stale))

    def change(tx: Transaction) -> None:
        tx.create(task("t2"))
        tx.update(stale)

    with pytest.raises(Conflict, match="rests on version 1"):
        await store.update(change)
    assert store.tasks.get("t2") is None


async def test_a_change_is_run_again_when_it_lost_a_race(store: Store) -> None:
    await store.update(lambda tx: tx.create(Node(id="n1")))
    proposer = store._proposer
    raced = False

    class Racing:
        async def propose(self, data: bytes) -> object:
            nonlocal raced
            if not raced:
                raced = True
                store.use(proposer)
                other = Node()
                other.CopyFrom(store.nodes.get("n1"))
                other.status.message = "first"
                await store.update(lambda tx: tx.update(other))
                store.use(self)
            return await proposer.propose(data)

    store.use(Racing())

    def change(tx: Transaction) -> None:
        node = Node()
        node.CopyFrom(tx.nodes.get("n1"))
        node.status.message += " second"
        tx.update(node)

    await store.update(change)
    assert store.nodes.get("n1").status.message == "first second"


async def test_require_makes_a_decision_rest_on_what_it_does_not_change(store: Store) -> None:
    await store.update(lambda tx: tx.create(Config(id="c1")))
    seen = store.configs.get("c1")
    await store.update(lambda tx: tx.remove(seen))

    def change(tx: Transaction) -> None:
        tx.require(seen)
        tx.create(service("s1", "web"))

    with pytest.raises(Conflict, match="config c1 does not exist"):
        await store.update(change)
    assert len(store.services) == 0


async def test_names_are_unique_per_kind_and_free_again_after_removal(store: Store) -> None:
    await store.update(lambda tx: tx.create(service("s1", "web")))
    with pytest.raises(NameTaken, match="'web' is taken"):
        await store.update(lambda tx: tx.create(service("s2", "web")))

    def twice(tx: Transaction) -> None:
        tx.create(service("s3", "db"))
        tx.create(service("s4", "db"))

    with pytest.raises(NameTaken):
        await store.update(twice)

    def replace(tx: Transaction) -> None:
        tx.remove(tx.services.get("s1"))
        tx.create(service("s2", "web"))

    await store.update(replace)
    assert store.services.by_name("web").id == "s2"


async def test_a_watch_sees_every_transaction_of_its_kinds_in_order(store: Store) -> None:
    with store.watch("task") as changes:
        await store.update(lambda tx: tx.create(service("s1", "web")))
        await store.update(lambda tx: tx.create(task("t1")))
        await store.update(lambda tx: tx.remove(tx.tasks.get("t1")))
        first = await changes.next()
        second = await changes.next()
    assert [(e.kind, e.object.id, e.index) for e in first + second] == [
        (StoreAction.KIND_CREATE, "t1", 2),
        (StoreAction.KIND_REMOVE, "t1", 3),
    ]


async def test_a_waiting_watcher_wakes_up(store: Store) -> None:
    with store.watch() as changes:
        waiting = asyncio.create_task(changes.next())
        await asyncio.sleep(0)
        await store.update(lambda tx: tx.create(task("t1")))
        assert [event.object.id for event in await waiting] == ["t1"]


async def test_a_watch_resumes_after_a_version_or_says_that_it_cannot(store: Store) -> None:
    for number in range(5):
        await store.update(lambda tx, number=number: tx.create(task(f"t{number}")))
    with store.watch("task", after=3) as changes:
        assert [event.object.id for event in changes.drain()] == ["t3", "t4"]
    replaced = Store()
    replaced.restore(store.snapshot()(), index=5)
    with pytest.raises(Compacted):
        replaced.watch("task", after=4)


async def test_a_snapshot_restores_everything_and_ends_watches(store: Store) -> None:
    await store.update(lambda tx: tx.create(service("s1", "web")))
    await store.update(lambda tx: tx.create(task("t1", "s1")))
    write = store.snapshot()
    await store.update(lambda tx: tx.remove(tx.tasks.get("t1")))
    with store.watch() as changes:
        store.restore(write(), index=2)
        with pytest.raises(WatchClosed):
            await changes.next()
    assert store.tasks.by("service", "s1")[0].meta.version.index == 2
    assert store.services.by_name("web").id == "s1"


async def test_replicas_that_apply_the_same_entries_are_equal(store: Store) -> None:
    entries: list[bytes] = []

    class Recording:
        def __init__(self, inner: LocalProposer) -> None:
            self.inner = inner

        async def propose(self, data: bytes) -> object:
            entries.append(data)
            return await self.inner.propose(data)

    store.use(Recording(LocalProposer(store)))
    await store.update(lambda tx: tx.create(task("t1")))
    moved = Task()
    moved.CopyFrom(store.tasks.get("t1"))
    moved.status.state = TaskState.TASK_STATE_RUNNING
    await store.update(lambda tx: tx.update(moved))
    with pytest.raises(Conflict):
        await store.update(lambda tx: tx.update(moved))
    replica = Store()
    for index, entry in enumerate(entries, 1):
        replica.apply(index, entry)
    assert b"".join(replica.snapshot()()) == b"".join(store.snapshot()())


async def test_a_batch_splits_and_an_oversized_transaction_is_refused(store: Store) -> None:
    await store.batch([lambda tx, n=n: tx.create(task(f"t{n:03}")) for n in range(450)])
    assert len(store.tasks) == 450
    assert store.index == 3
    big = Config(id="c")
    big.spec.data = b"x" * 1_600_000
    with pytest.raises(TransactionTooLarge, match="at most 1,500,000"):
        await store.update(lambda tx: tx.create(big))


def test_the_keys_of_a_task_are_those_of_its_indices() -> None:
    kind = KINDS["task"]
    made = task("t1", "s1", "n1", 3)
    made.spec.networks.add(target="front")
    made.networks.add(network_id="back")
    made.spec.container.secrets.add(secret_id="x")
    made.spec.container.configs.add(config_id="y")
    for one in (made, task("t2"), Task(id="t3", service_id="global", node_id="n1")):
        assert kind.keys is not None
        assert list(map(set, kind.keys(one))) == [set(keys_of(one)) for keys_of in kind.indices.values()]


def test_events_are_kept_by_their_number_not_by_that_of_transactions() -> None:
    hub = WatchHub(retained=10)
    for index in range(1, 6):
        things = [
            Event("task", StoreAction.KIND_CREATE, task(f"{index}-{n}"), None, index, Timestamp()) for n in range(4)
        ]
        hub.publish(things)
    assert [event.index for event in hub.open((), after=3).drain()] == [4] * 4 + [5] * 4
    with pytest.raises(Compacted, match="kept: after 3"):
        hub.open((), after=2)
    # One transaction is kept, however large.
    hub.publish([Event("task", StoreAction.KIND_CREATE, task(str(n)), None, 6, Timestamp()) for n in range(50)])
    assert len(hub.open((), after=5).drain()) == 50
