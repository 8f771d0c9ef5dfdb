"""Watch: what is there, then every change in its order, for as many clients as like, none of which holds up another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flota.rpc.errors import InvalidArgument, ResourceExhausted, Unavailable
from flota.v1.control_pb2 import RemoveServiceRequest, WatchMessage, WatchRequest
from flota.v1.store_pb2 import StoreAction
from tests.unit.control.cluster import Cluster
from tests.unit.control.specs import create_network, create_secret, create_service, image, refused, update_service

CREATE, UPDATE, REMOVE, MARK = (
    StoreAction.KIND_CREATE,
    StoreAction.KIND_UPDATE,
    StoreAction.KIND_REMOVE,
    StoreAction.KIND_UNSPECIFIED,
)


class Watching:
    """One client's stream."""

    def __init__(self, cluster: Cluster, *selectors: WatchRequest.Selector, existing: bool = False) -> None:
        request = WatchRequest(selectors=selectors, include_existing=existing)
        self.stream: AsyncIterator[WatchMessage] = cluster.control.Watch(request, None)

    async def begin(self) -> "Watching":
        """Open it: the first message is asked for, and whatever happens from now on is seen."""
        self._first = asyncio.ensure_future(self.stream.__anext__())
        await asyncio.sleep(0)
        return self

    async def next(self) -> WatchMessage:
        """The next message."""
        first = self.__dict__.pop("_first", None)
        return await (first if first is not None else self.stream.__anext__())

    async def end(self) -> None:
        """The client goes."""
        await self.stream.aclose()  # type: ignore[attr-defined]


def named(message: WatchMessage) -> tuple[Any, str]:
    thing = getattr(message.object, message.object.WhichOneof("kind") or "")
    return message.kind, thing.spec.annotations.name


def selector(kind: str, **more: Any) -> WatchRequest.Selector:
    return WatchRequest.Selector(kind=kind, **more)


async def test_what_is_there_then_a_mark_then_changes(cluster: Cluster) -> None:
    web = await create_service(cluster, "web")
    watching = Watching(cluster, selector("service"), selector("network"), existing=True)
    seen = [await watching.next() for _ in range(4)]
    assert [message.kind for message in seen] == [CREATE, CREATE, CREATE, MARK]
    assert {named(message)[1] for message in seen[:3]} == {"ingress", "flota", "web"}
    assert seen[3].version.index == cluster.store.index
    await create_secret(cluster, "unseen")
    after = await update_service(cluster, web, image("busybox:2"))
    await cluster.control.RemoveService(RemoveServiceRequest(service_id="web"), None)
    updated, removed = await watching.next(), await watching.next()
    assert named(updated) == (UPDATE, "web")
    assert updated.old.service.spec.task.container.image == "busybox"
    assert updated.object.service == after
    assert updated.version == after.meta.version
    assert named(removed) == (REMOVE, "web")
    assert removed.object.service.spec.task.container.image == "busybox:2"
    assert not removed.HasField("old")
    await watching.end()


async def test_nothing_falls_between_what_is_there_and_the_changes(cluster: Cluster) -> None:
    for number in range(20):
        await create_service(cluster, f"s{number}")
    watching = Watching(cluster, selector("service"), existing=True)
    seen = [await watching.next() for _ in range(5)]
    for number in range(20, 40):
        await create_service(cluster, f"s{number}")
    seen += [await watching.next() for _ in range(36)]
    assert [named(message)[1] for message in seen if message.kind == CREATE] == [f"s{number}" for number in range(40)]
    assert [message.kind for message in seen].index(MARK) == 20
    await watching.end()


async def test_selected_by_id_and_by_service(cluster: Cluster) -> None:
    web, db = await create_service(cluster, "web"), await create_service(cluster, "db")
    by_id = await Watching(cluster, selector("service", ids=[db.id])).begin()
    tasks = await Watching(cluster, selector("task", service_ids=[web.id])).begin()
    everything = await Watching(cluster).begin()
    await update_service(cluster, web, image("busybox:2"))
    await update_service(cluster, db, image("busybox:2"))
    await cluster.add_task("db", 1, "m1")
    mine = await cluster.add_task("web", 1, "m1")
    assert named(await by_id.next()) == (UPDATE, "db")
    assert (await tasks.next()).object.task.id == mine.id
    kinds = [(await everything.next()).object.WhichOneof("kind") for _ in range(4)]
    assert kinds == ["service", "service", "task", "task"]
    for watching in (by_id, tasks, everything):
        await watching.end()


async def test_selectors_that_are_none(cluster: Cluster) -> None:
    with refused(InvalidArgument, "invalid watch kind 'pod': allowed are cluster, config, network, node, …"):
        await Watching(cluster, selector("pod")).next()
    with refused(InvalidArgument, "invalid watch kind 'node': only tasks are selected by service"):
        await Watching(cluster, selector("node", service_ids=["x"])).next()


async def test_secrets_are_shown_without_their_data(cluster: Cluster) -> None:
    watching = await Watching(cluster, selector("secret")).begin()
    await create_secret(cluster, "key", b"very secret")
    message = await watching.next()
    assert named(message) == (CREATE, "key")
    assert b"very secret" not in message.SerializeToString()
    await watching.end()


async def test_a_client_that_falls_behind_is_cut_and_others_are_not(cluster: Cluster) -> None:
    cluster.control.max_waiting = 10
    slow = await Watching(cluster, selector("service")).begin()
    quick = await Watching(cluster, selector("service")).begin()
    for number in range(15):
        await create_service(cluster, f"s{number}")
        assert named(await quick.next()) == (CREATE, f"s{number}")
    assert named(await slow.next()) == (CREATE, "s0")
    with refused(ResourceExhausted, "this watch fell 11 changes behind and was ended: open it again with …"):
        while True:
            await slow.next()
    await quick.end()


async def test_streams_end_when_leadership_does(cluster: Cluster) -> None:
    leading = asyncio.create_task(cluster.control.run())
    watching = await Watching(cluster, selector("service")).begin()
    leading.cancel()
    with refused(Unavailable, "this manager does not lead any longer: open the watch again"):
        await watching.next()
    with pytest.raises(asyncio.CancelledError):
        await leading


async def test_streams_end_when_the_store_is_replaced(cluster: Cluster) -> None:
    watching = await Watching(cluster, selector("service")).begin()
    cluster.store.restore(cluster.store.snapshot()(), cluster.store.index)
    with refused(Unavailable, "the store was replaced by a snapshot: open the watch again with include_existing"):
        await watching.next()


async def test_a_client_that_goes_leaves_nothing_behind(cluster: Cluster) -> None:
    before = asyncio.all_tasks()
    watching = Watching(cluster, existing=True)
    await watching.next()
    assert len(asyncio.all_tasks()) == len(before) + 1
    await watching.end()
    assert asyncio.all_tasks() == before
    await create_network(cluster, "after")
