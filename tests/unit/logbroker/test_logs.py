"""Logs from simulated workers to a subscriber, over gRPC with mutual TLS."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from flota.manager.logbroker.subscription import MAX_MESSAGE
from flota.rpc.channels import node_channel
from flota.rpc.errors import FlotaError, InvalidArgument, NotFound, Unavailable, error_from
from flota.v1.logs_pb2 import (
    ListenSubscriptionsRequest,
    LogMessage,
    LogStream,
    PublishLogsMessage,
    SubscribeLogsMessage,
    SubscribeLogsRequest,
    SubscriptionMessage,
)
from flota.v1.logs_pb2_grpc import LogBrokerStub, LogsStub
from flota.v1.objects_pb2 import Node, Service
from flota.v1.types_pb2 import NodeState, TaskState
from tests.unit.dispatcher.swarm import MANAGER, PATIENCE, RUNNING, UNKNOWN, Swarm, set_state, task

FAILED = TaskState.TASK_STATE_FAILED


class Worker:
    """A worker that is asked, and sends what a test tells it to."""

    def __init__(self, swarm: Swarm, node_id: str) -> None:
        self.channel = node_channel(swarm.identity(node_id), swarm.address)
        self.stub = LogBrokerStub(self.channel)
        self.asked: list[SubscriptionMessage] = []
        self._news = asyncio.Event()

    async def listen(self) -> "Worker":
        self._call = self.stub.ListenSubscriptions(ListenSubscriptionsRequest(), wait_for_ready=True)
        self._reader = asyncio.create_task(self._read(self._call))
        await self._call.initial_metadata()
        return self

    async def _read(self, call: Any) -> None:
        try:
            async for message in call:
                self.asked.append(message)
                self._news.set()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            self.ending = error

    async def question(self, count: int = 1) -> SubscriptionMessage:
        """The newest thing it is told, once there are so many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.asked) < count:
                self._news.clear()
                await self._news.wait()
        return self.asked[-1]

    async def drop(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._reader])


def line(task_id: str, text: str, at: int = 0) -> LogMessage:
    message = LogMessage(stream=LogStream.LOG_STREAM_STDOUT, data=text.encode())
    message.context.task_id = task_id
    message.timestamp.seconds = at
    return message


class Publication:
    """One PublishLogs call."""

    def __init__(self, worker: Worker, subscription_id: str) -> None:
        self._id = subscription_id
        self.call = worker.stub.PublishLogs(wait_for_ready=True)

    async def send(self, *lines: LogMessage, close: bool = False, caught_up: bool = False) -> None:
        message = PublishLogsMessage(subscription_id=self._id, messages=lines, close=close, caught_up=caught_up)
        await self.call.write(message)

    async def finish(self) -> None:
        await self.call.done_writing()
        try:
            await self.call
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None


class Subscriber:
    """`service logs`."""

    def __init__(self, channel: grpc.aio.Channel, request: SubscribeLogsRequest, reads: bool = True) -> None:
        self.messages: list[SubscribeLogsMessage] = []
        self.error: FlotaError | None = None
        self._news = asyncio.Event()
        self.call = LogsStub(channel).SubscribeLogs(request, wait_for_ready=True)
        self.reader = asyncio.create_task(self._read()) if reads else None

    async def _read(self) -> None:
        try:
            async for message in self.call:
                self.messages.append(message)
                self._news.set()
        except grpc.aio.AioRpcError as error:
            self.error = error_from(error)
        self._news.set()

    @property
    def lines(self) -> list[str]:
        return [line.data.decode() for message in self.messages for line in message.messages]

    @property
    def warnings(self) -> list[str]:
        return [warning for message in self.messages for warning in message.warnings]

    async def until(self, lines: int = 0, warnings: int = 0) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.lines) < lines or len(self.warnings) < warnings:
                self._news.clear()
                await self._news.wait()

    async def end(self) -> None:
        """Wait until it has everything."""
        assert self.reader is not None
        async with asyncio.timeout(PATIENCE):
            await self.reader
        if self.error is not None:
            raise self.error


class Scene:
    """A swarm with a service `web` that has a task on each of two nodes."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.channel = node_channel(swarm.identity("m9", MANAGER), swarm.address)
        self.workers: list[Worker] = []

    async def fill(self) -> None:
        for node_id in ("w1", "w2"):
            node = Node(id=node_id)
            node.description.hostname = f"host-{node_id}"
            node.status.state = NodeState.NODE_STATE_READY
            await self.swarm.create(node)
        # The dispatcher has no session of theirs, and says so; what a test writes comes after that.
        await self.swarm.until(lambda: self.swarm.state("w1") == self.swarm.state("w2") == UNKNOWN)
        web = Service(id="web")
        web.spec.annotations.name = "web"
        await self.swarm.create(web, task("t1", "w1", state=RUNNING), task("t2", "w2", state=RUNNING))

    async def worker(self, node_id: str) -> Worker:
        worker = Worker(self.swarm, node_id)
        self.workers.append(worker)
        return await worker.listen()

    def subscribe(
        self, services: Iterable[str] = ("web",), tasks: Iterable[str] = (), *, reads: bool = True, **options: Any
    ) -> Subscriber:
        request = SubscribeLogsRequest()
        request.selector.service_ids.extend(services)
        request.selector.task_ids.extend(tasks)
        for name, value in options.items():
            if name == "streams":
                request.options.streams.extend(value)
            elif name == "until":
                request.options.until.FromNanoseconds(int(value * 1e9))
            else:
                setattr(request.options, name, value)
        return Subscriber(self.channel, request, reads)

    async def close(self) -> None:
        for worker in self.workers:
            await worker.drop()
            await worker.channel.close()
        await self.channel.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Swarm(tmp_path).serving() as swarm:
        scene = Scene(swarm)
        await scene.fill()
        yield scene
        await scene.close()


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Scene]:
    """Nodes that are silent for a tenth of a second are given up."""
    async with Swarm(tmp_path, answer_limit=0.1).serving() as swarm:
        scene = Scene(swarm)
        await scene.fill()
        yield scene
        await scene.close()


async def test_what_all_nodes_have_is_merged_in_order_of_time_and_then_it_ends(scene: Scene) -> None:
    one, two = await scene.worker("w1"), await scene.worker("w2")
    subscriber = scene.subscribe(tail=5, streams=[LogStream.LOG_STREAM_STDERR])
    question = await one.question()
    assert list(question.selector.service_ids) == ["web"]
    assert (question.options.tail, list(question.options.streams)) == (5, [LogStream.LOG_STREAM_STDERR])
    first = Publication(one, question.id)
    await first.send(line("t1", "1", at=1), line("t1", "4", at=4))
    second = Publication(two, (await two.question()).id)
    await second.send(line("t2", "2", at=2), line("t2", "3", at=3), line("t2", "4 too", at=4))
    # What is no later than the last line of either is known to be complete.
    await subscriber.until(lines=5)
    await first.send(line("t1", "7", at=7), line("t1", "6, by a clock that was set back", at=6), close=True)
    await second.send(line("t2", "5", at=5), line("t2", "8", at=8), close=True)
    await subscriber.end()
    assert subscriber.lines[:5] == ["1", "2", "3", "4", "4 too"]
    assert subscriber.lines[5:] == ["5", "7", "6, by a clock that was set back", "8"]
    assert {m.context.node_id for message in subscriber.messages for m in message.messages} == {"w1", "w2"}
    assert subscriber.warnings == []
    await first.finish()
    await second.finish()


async def test_who_follows_gets_what_was_in_order_and_then_lines_as_they_come(scene: Scene) -> None:
    one, two = await scene.worker("w1"), await scene.worker("w2")
    subscriber = scene.subscribe(follow=True)
    first, second = Publication(one, (await one.question()).id), Publication(two, (await two.question()).id)
    await second.send(line("t2", "2", at=2), line("t2", "4", at=4), caught_up=True)
    await first.send(line("t1", "1", at=1), line("t1", "3", at=3), caught_up=True)
    await subscriber.until(lines=4)
    assert subscriber.lines == ["1", "2", "3", "4"]
    await second.send(line("t2", "9", at=9))
    await subscriber.until(lines=5)
    await first.send(line("t1", "8, late", at=8))
    await subscriber.until(lines=6)
    assert subscriber.lines[4:] == ["9", "8, late"]
    assert subscriber.warnings == []


async def test_who_follows_until_a_time_is_done_then(scene: Scene) -> None:
    one, two = await scene.worker("w1"), await scene.worker("w2")
    subscriber = scene.subscribe(follow=True, until=time.time() + 2)
    publications = []
    for worker in (one, two):
        question = await worker.question()
        assert question.options.HasField("until")
        publications.append(Publication(worker, question.id))
        await publications[-1].send(caught_up=True)
    # Neither has said that it is done.
    await subscriber.end()
    assert subscriber.warnings == []


async def test_a_task_is_asked_for_only_where_it_is(scene: Scene) -> None:
    one, two = await scene.worker("w1"), await scene.worker("w2")
    subscriber = scene.subscribe([], ["t2"])
    publication = Publication(two, (await two.question()).id)
    await publication.send(line("t2", "a"))
    # Without a word that this was all, it may not have been.
    await publication.finish()
    await subscriber.end()
    assert subscriber.warnings == ["node host-w2 broke off: lines may be missing"]
    assert one.asked == []


async def test_followers_hear_of_tasks_and_nodes_that_come_later(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe([], ["t1"], follow=True)
    await Publication(one, (await one.question()).id).send(line("t1", "only"))
    await subscriber.until(lines=1)
    # Of a service.
    follower = scene.subscribe(follow=True)
    question = await one.question(2)
    publication = Publication(one, question.id)
    await publication.send(line("t1", "early"))
    await scene.swarm.create(Node(id="w3"), task("t3", "w3", state=RUNNING))
    three = await scene.worker("w3")
    later = Publication(three, (await three.question()).id)
    await later.send(line("t3", "late"))
    await follower.until(lines=2)
    assert follower.lines == ["early", "late"]
    assert subscriber.lines == ["only"]


async def test_a_follower_that_goes_is_told_to_workers(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe(follow=True)
    id = (await one.question()).id
    publication = Publication(one, id)
    await publication.send(line("t1", "a"))
    await subscriber.until(lines=1)
    subscriber.call.cancel()
    closing = await one.question(2)
    assert (closing.id, closing.close) == (id, True)
    # Lines that are on their way are nobody's any more.
    await publication.send(line("t1", "b"))
    await publication.finish()


async def test_following_ends_with_what_is_followed(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe([], ["t1"], follow=True)
    publication = Publication(one, (await one.question()).id)
    await publication.send(line("t1", "a"))
    await subscriber.until(lines=1)
    await scene.swarm.change("t1", set_state(FAILED))
    await publication.send(line("t1", "last words"), close=True)
    await subscriber.end()
    assert subscriber.lines == ["a", "last words"]


async def test_a_worker_that_had_nothing_left_is_asked_again(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe(follow=True)
    first = Publication(one, (await one.question()).id)
    await first.send(line("t1", "a", at=100), close=True)
    await first.finish()
    await subscriber.until(lines=1)
    await scene.swarm.create(task("t4", "w1", state=TaskState.TASK_STATE_ACCEPTED))
    await scene.swarm.change("t4", set_state(RUNNING))
    again = await one.question(2)
    assert again.id == one.asked[0].id
    assert (again.options.since.seconds, again.options.since.nanos) == (100, 1)
    await Publication(one, again.id).send(line("t4", "b", at=101))
    await subscriber.until(lines=2)
    assert subscriber.lines == ["a", "b"]


async def test_a_worker_that_comes_back_goes_on_where_it_was(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe(follow=True, tail=10)
    id = (await one.question()).id
    old = Publication(one, id)
    await old.send(line("t1", "a", at=7))
    await subscriber.until(lines=1)
    old.call.cancel()
    await subscriber.until(warnings=1)
    assert subscriber.warnings == ["node host-w1 broke off: lines may be missing"]
    await one.drop()
    await one.listen()
    again = await one.question(2)
    assert (again.id, again.options.since.seconds, again.options.HasField("tail")) == (id, 7, False)
    await Publication(one, id).send(line("t1", "b", at=8))
    await subscriber.until(lines=2)


async def test_nodes_that_are_down_or_gone_are_named_at_once(scene: Scene) -> None:
    def down(node: Node) -> None:
        node.status.state = NodeState.NODE_STATE_DOWN

    await scene.swarm.change("w2", down, "nodes")
    one = await scene.worker("w1")
    subscriber = scene.subscribe()
    await Publication(one, (await one.question()).id).send(close=True)
    await subscriber.end()
    assert subscriber.warnings == ["node host-w2 is down: lines are missing"]
    # One that goes down while it is listened to.
    follower, once = scene.subscribe(follow=True), scene.subscribe([], ["t1"])
    await one.question(3)
    await scene.swarm.change("w1", down, "nodes")
    await once.end()
    assert once.warnings == ["node host-w1 is down: lines are missing"]
    await follower.until(warnings=2)
    await scene.swarm.remove("w2", "nodes")
    gone = scene.subscribe([], ["t2"])
    await gone.end()
    assert gone.warnings == ["node w2 was removed from the cluster: lines are missing"]


async def test_nodes_that_do_not_answer_are_given_up(hasty: Scene) -> None:
    # One that never listens, and one that does and says nothing.
    one = await hasty.worker("w1")
    subscriber = hasty.subscribe()
    await subscriber.end()
    assert sorted(subscriber.warnings) == [
        "node host-w1 does not answer (for 0.1 s): lines are missing",
        "node host-w2 does not answer (for 0.1 s): lines are missing",
    ]
    # A follower only misses the one that cannot be asked.
    follower = hasty.subscribe(follow=True)
    await follower.until(warnings=1)
    assert follower.warnings == ["node host-w2 does not answer (for 0.1 s): lines are missing"]
    two = await hasty.worker("w2")
    await Publication(two, (await two.question()).id).send(line("t2", "here"))
    await follower.until(lines=1)
    assert one.asked[-1].options.follow


async def test_a_subscriber_that_does_not_read_makes_workers_wait(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe([], ["t1"], reads=False)
    publication = Publication(one, (await one.question()).id)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        for _ in range(300):
            await publication.send(*(line("t1", "x" * 1000) for _ in range(60)))
            sent += 60
        await publication.send(close=True)

    pouring = asyncio.create_task(pour())
    # Until it moves no more. Other subscribers are not held up.
    before = -1
    while sent != before:
        before = sent
        other = scene.subscribe([], ["t1"])
        quick = Publication(one, (await one.question(len(one.asked) + 1)).id)
        await quick.send(line("t1", "quick"), close=True)
        await other.end()
        assert other.lines == ["quick"]
    assert not pouring.done()
    lines = 0
    async for message in subscriber.call:
        assert message.ByteSize() < MAX_MESSAGE + 100_000
        lines += len(message.messages)
    await pouring
    assert lines == 18_000


async def test_a_worker_speaks_only_for_itself(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe([], ["t1"])
    id = (await one.question()).id
    publication = Publication(one, id)
    forged = line("t2", "forged")
    forged.context.node_id = "w2"
    await publication.send(forged, line("t1", "own"), close=True)
    await subscriber.end()
    assert subscriber.lines == ["own"]
    two = await scene.worker("w2")
    other = scene.subscribe([], ["t1"])
    intruder = Publication(two, (await one.question(2)).id)
    await intruder.send(line("t2", "who asked?"))
    with pytest.raises(FlotaError, match="node w2 was not asked"):
        await intruder.finish()
    other.call.cancel()


async def test_the_end_of_leadership_ends_everything(scene: Scene) -> None:
    one = await scene.worker("w1")
    subscriber = scene.subscribe(follow=True)
    await one.question()
    await scene.swarm.lose()
    with pytest.raises(Unavailable, match="does not lead any longer"):
        await subscriber.end()
    await asyncio.wait([one._reader])
    assert isinstance(one.ending, grpc.aio.AioRpcError)
    assert isinstance(error_from(one.ending), Unavailable)
    with pytest.raises(Unavailable, match="does not lead"):
        await scene.subscribe().end()


@pytest.mark.parametrize(
    ("services", "tasks", "options", "error", "text"),
    [
        ([], [], {}, InvalidArgument, "name at least one service or task"),
        (["nope"], [], {}, NotFound, "service nope not found"),
        ([], ["nope"], {}, NotFound, "task nope not found"),
        (["web"], [], {"tail": -1}, InvalidArgument, "invalid tail -1: a number of lines from 0, or unset for all"),
        (["web"], [], {"streams": [0]}, InvalidArgument, "invalid stream 'UNSPECIFIED'"),
    ],
)
async def test_what_cannot_be_asked_for(
    scene: Scene, services: list[str], tasks: list[str], options: dict[str, Any], error: type[FlotaError], text: str
) -> None:
    with pytest.raises(error, match=text):
        await scene.subscribe(services, tasks, **options).end()
