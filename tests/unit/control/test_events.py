"""Events: what a change means to people, from the past and as it happens."""

import asyncio
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.store import Event
from flota.manager.store.memory import KEPT, Memory
from flota.manager.store.watch import WatchHub
from flota.rpc.errors import InvalidArgument, Unavailable
from flota.v1.control_pb2 import EventsRequest, RemoveServiceRequest
from flota.v1.objects_pb2 import Node
from flota.v1.store_pb2 import StoreAction, SwarmEvent
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState
from tests.unit.control.cluster import Cluster
from tests.unit.control.specs import create_secret, create_service, image, refused, update_service

EVER = Timestamp()


async def past(cluster: Cluster, **more: Any) -> list[SwarmEvent]:
    return [event async for event in cluster.control.Events(EventsRequest(since=EVER, **more), None)]


def told(events: list[SwarmEvent], kind: str) -> list[tuple[str, dict[str, str]]]:
    return [(event.action, dict(event.attributes)) for event in events if event.kind == kind]


async def test_a_service_from_its_beginning_to_its_end(cluster: Cluster) -> None:
    web = await create_service(cluster, "web")
    await update_service(cluster, web, image("other"))
    await cluster.control.RemoveService(RemoveServiceRequest(service_id="web"), None)
    seen = told(await past(cluster), "service")
    assert [action for action, _ in seen] == ["create", "update", "remove"]
    assert seen[1][1]["image.new"] == "other"
    assert all(attributes["name"] == "web" for _, attributes in seen)


async def test_tasks_are_told_of_by_what_became_of_them(cluster: Cluster) -> None:
    await create_service(cluster, "web")
    await cluster.add_node("w1")
    await cluster.add_task("web", 1, "w1", TaskState.TASK_STATE_PREPARING)
    await cluster.add_task("web", 2, "w1", TaskState.TASK_STATE_RUNNING)
    await cluster.add_task("web", 3, "w1", TaskState.TASK_STATE_FAILED, error="exit code 3")
    seen = told(await past(cluster), "task")
    assert [(action, each["name"], each["node"]) for action, each in seen] == [
        ("running", "web.2", "w1"),
        ("failed", "web.3", "w1"),
    ]
    assert seen[1][1]["error"] == "exit code 3"


async def test_nodes_that_only_beat_are_no_news(cluster: Cluster) -> None:
    await cluster.add_node("w1")
    for change in (
        lambda node: setattr(node.status, "message", "still here"),
        lambda node: setattr(node.status, "state", NodeState.NODE_STATE_DOWN),
        lambda node: setattr(node.spec, "availability", NodeAvailability.NODE_AVAILABILITY_DRAIN),
    ):
        node = Node.FromString(cluster.node("w1").SerializeToString())
        change(node)
        await cluster.put(node)
    seen = [each for each in told(await past(cluster), "node") if each[1]["name"] == "w1"]
    assert seen == [
        ("create", {"name": "w1"}),
        ("update", {"name": "w1", "state.old": "ready", "state.new": "down"}),
        ("update", {"name": "w1", "availability.old": "active", "availability.new": "drain"}),
    ]


async def test_what_the_command_line_keeps_is_no_news(cluster: Cluster) -> None:
    await create_secret(cluster, "key", b"x")
    from flota.v1.control_pb2 import CreateConfigRequest

    request = CreateConfigRequest()
    request.spec.annotations.name, request.spec.data = "shop.deploying", b"x"
    request.spec.annotations.labels["flota.stack.record"] = "turn"
    await cluster.control.CreateConfig(request, None)
    events = await past(cluster)
    assert told(events, "secret") == [("create", {"name": "key"})]
    assert told(events, "config") == []
    assert "x" not in {value for event in events for value in event.attributes.values()}


async def test_since_and_until(cluster: Cluster) -> None:
    await create_service(cluster, "a")
    first = (await past(cluster))[-1].at
    await asyncio.sleep(0.002)
    await create_service(cluster, "b")
    assert "b" not in [each["name"] for _, each in told(await past(cluster, until=first), "service")]
    later = Timestamp(seconds=first.seconds, nanos=first.nanos + 1)
    asked = EventsRequest(since=later)
    seen = [event async for event in cluster.control.Events(asked, None)]
    assert [event.attributes["name"] for event in seen if event.kind == "service"] == ["b"]
    with refused(InvalidArgument, "since is later than until"):
        [event async for event in cluster.control.Events(EventsRequest(since=later, until=first), None)]


def named(events: list[SwarmEvent]) -> list[str]:
    return [attributes["name"] for _, attributes in told(events, "service")]


async def restarted(cluster: Cluster) -> None:
    """The manager starts again, from a snapshot of now."""
    cluster.store.restore(cluster.store.snapshot()(), cluster.store.index)


async def test_the_past_is_known_after_a_restart_from_a_snapshot(cluster: Cluster) -> None:
    await create_service(cluster, "a")
    before = await past(cluster)
    await restarted(cluster)
    assert await past(cluster) == before
    await create_service(cluster, "b")
    await restarted(cluster)
    await create_service(cluster, "c")
    assert named(await past(cluster)) == ["a", "b", "c"]
    first = before[-1].at
    assert named(await past(cluster, until=first)) == ["a"]


async def test_a_snapshot_carries_the_newest_events_only(cluster: Cluster) -> None:
    for number in range(KEPT + 5):
        await create_secret(cluster, f"s{number}", b"x")
    await restarted(cluster)
    events = await past(cluster)
    assert len(events) == KEPT
    assert [events[0].attributes["name"], events[-1].attributes["name"]] == ["s5", f"s{KEPT + 4}"]


async def test_what_is_told_has_no_gap(cluster: Cluster) -> None:
    await create_service(cluster, "a")
    await restarted(cluster)
    hub = WatchHub(retained=2)
    memory = Memory(hub, lambda event: None)
    memory.replace(await past(cluster), 0)
    assert memory.before
    assert memory.freeze()() == list(memory.before)
    for index in (1, 2, 3):
        hub.publish([Event("node", StoreAction.KIND_CREATE, Node(), None, index, EVER)])
    assert not memory.before, "changes in between are no longer known"


async def test_what_happens_from_now_on(cluster: Cluster) -> None:
    await create_service(cluster, "a")
    stream = cluster.control.Events(EventsRequest(follow=True), None)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await create_service(cluster, "b")
    assert (await first).attributes["name"] == "b"
    running = asyncio.ensure_future(cluster.control.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with refused(Unavailable, "this manager does not lead any longer…"):
        await anext(stream)
