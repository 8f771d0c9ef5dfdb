"""This node's side of the log broker against the real one, with log files that grow."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from flota.rpc.channels import node_channel
from flota.v1.logs_pb2 import LogStream, SubscribeLogsMessage, SubscribeLogsRequest
from flota.v1.logs_pb2_grpc import LogsStub
from flota.v1.objects_pb2 import Node, Service
from flota.v1.types_pb2 import NodeState, TaskState
from flota.worker.logs import LogPublisher, TaskLog, changes, merging
from flota.worker.logs.entries import LogEntry
from flota.worker.logs.files import CHUNK, LogFile
from tests.unit.dispatcher.swarm import MANAGER, PATIENCE, RUNNING, Swarm, set_state, task
from tests.unit.logs.conmon import BEGIN, Conmon


class Subscriber:
    """`service logs`."""

    def __init__(self, channel: grpc.aio.Channel, request: SubscribeLogsRequest, reads: bool) -> None:
        self.messages: list[SubscribeLogsMessage] = []
        self._news = asyncio.Event()
        self.call = LogsStub(channel).SubscribeLogs(request)
        self._reader = asyncio.create_task(self._read()) if reads else None

    async def _read(self) -> None:
        async for message in self.call:
            self.messages.append(message)
            self._news.set()

    @property
    def lines(self) -> list[str]:
        return [one.data.decode() for message in self.messages for one in message.messages]

    @property
    def warnings(self) -> list[str]:
        return [warning for message in self.messages for warning in message.warnings]

    async def until(self, *lines: str) -> None:
        """Wait for exactly these, tasks' lines in any order."""
        async with asyncio.timeout(PATIENCE):
            while len(self.lines) < len(lines):
                self._news.clear()
                await self._news.wait()
        assert sorted(self.lines) == sorted(lines)

    async def end(self) -> list[str]:
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE):
            await self._reader
        return self.lines

    def go(self) -> None:
        self.call.cancel()


class Scene:
    """A swarm with node w1, whose worker publishes the logs of the tasks a test makes, and a service `web`."""

    def __init__(self, swarm: Swarm, directory: Path) -> None:
        self.swarm = swarm
        self.directory = directory
        self.logs: dict[str, TaskLog] = {}
        self.publisher = LogPublisher(lambda: list(self.logs.values()))
        self.worker = node_channel(swarm.identity("w1"), swarm.address)
        self.person = node_channel(swarm.identity("m9", MANAGER), swarm.address)
        self.running: asyncio.Task[None] | None = None

    async def fill(self) -> None:
        node, web = Node(id="w1"), Service(id="web")
        node.description.hostname = "host1"
        node.status.state = NodeState.NODE_STATE_READY
        web.spec.annotations.name = "web"
        await self.swarm.create(node, web)
        await self.publisher.start()

    async def listen(self) -> None:
        """Until the managers know the worker."""
        self.running = asyncio.create_task(self.publisher.run(self.worker, asyncio.Event()))

    async def unlisten(self) -> None:
        assert self.running is not None
        self.running.cancel()
        await asyncio.wait([self.running])

    async def task(self, task_id: str) -> Conmon:
        """A task with a container."""
        conmon = Conmon(self.directory / task_id / "log")
        self.logs[task_id] = TaskLog(task_id, "web", conmon.path, ended=False)
        await self.swarm.create(task(task_id, "w1", state=RUNNING))
        self.publisher.changed()
        return conmon

    async def end(self, task_id: str) -> None:
        """Its container has ended."""
        self.logs[task_id] = TaskLog(task_id, "web", self.logs[task_id].path, ended=True)
        self.publisher.changed()
        await self.swarm.change(task_id, set_state(TaskState.TASK_STATE_COMPLETE))

    def subscribe(self, *tasks: str, reads: bool = True, **options: Any) -> Subscriber:
        request = SubscribeLogsRequest()
        request.selector.task_ids.extend(tasks)
        if not tasks:
            request.selector.service_ids.append("web")
        since = options.pop("since", 0)
        if since:
            request.options.since.FromNanoseconds(since)
        if until := options.pop("until", 0):
            request.options.until.FromNanoseconds(until)
        request.options.streams.extend(options.pop("streams", []))
        for name, value in options.items():
            setattr(request.options, name, value)
        return Subscriber(self.person, request, reads)

    async def close(self) -> None:
        if self.running is not None:
            await self.unlisten()
        await self.publisher.stop()
        await self.worker.close()
        await self.person.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Swarm(tmp_path / "swarm").serving() as swarm:
        scene = Scene(swarm, tmp_path)
        await scene.fill()
        await scene.listen()
        yield scene
        await scene.close()


async def test_everything_there_is_and_then_an_end(scene: Scene) -> None:
    one, two = await scene.task("t1"), await scene.task("t2")
    one.write("a", "b")
    two.write("c", stream="stderr")
    subscriber = scene.subscribe()
    assert sorted(await subscriber.end()) == ["a\n", "b\n", "c\n"]
    assert subscriber.warnings == []
    messages = {one.data: one for message in subscriber.messages for one in message.messages}
    context = messages[b"a\n"].context
    assert (context.task_id, context.service_id, context.node_id) == ("t1", "web", "w1")
    assert messages[b"b\n"].timestamp.ToNanoseconds() == BEGIN + 1_000_000
    assert messages[b"c\n"].stream == LogStream.LOG_STREAM_STDERR


async def test_tail_since_and_streams(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a", "b")
    one.write("c", stream="stderr")
    assert await scene.subscribe(tail=2).end() == ["b\n", "c\n"]
    assert await scene.subscribe(since=BEGIN + 2_000_000).end() == ["c\n"]
    assert await scene.subscribe("t1", streams=[LogStream.LOG_STREAM_STDOUT], tail=1).end() == ["b\n"]


async def test_lines_of_several_tasks_come_in_order_of_time(scene: Scene) -> None:
    logs = [await scene.task(f"t{number}") for number in range(3)]
    # Conmon's lines are a millisecond apart: each log is longer than a part that is read at once.
    for number, log in enumerate(logs):
        log.lines = number * 500
        log.write(*(f"{number} {'x' * 100}" for _ in range(2000)))
    subscriber = scene.subscribe()
    await subscriber.end()
    times = [one.timestamp.ToNanoseconds() for message in subscriber.messages for one in message.messages]
    assert len(times) == 6000
    assert times == sorted(times)


async def test_nothing_after_until(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a", "b", "c")
    assert await scene.subscribe(until=BEGIN + 1_000_000).end() == ["a\n", "b\n"]
    assert await scene.subscribe(until=BEGIN + 1_000_000, follow=True).end() == ["a\n", "b\n"]


async def test_tasks_without_a_container_have_no_lines(scene: Scene) -> None:
    scene.logs["t1"] = TaskLog("t1", "web", scene.directory / "t1/log", ended=False)
    await scene.swarm.create(task("t1", "w1", state=TaskState.TASK_STATE_PREPARING))
    assert await scene.subscribe().end() == []


async def test_following_lines_as_they_come_also_of_later_tasks(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("old", "a")
    follower = scene.subscribe(follow=True, tail=1)
    await follower.until("a\n")
    one.write("b")
    await follower.until("a\n", "b\n")
    one.rotate()
    one.write("c")
    await follower.until("a\n", "b\n", "c\n")
    # The newcomer's lines are all wanted, and more of both.
    two = await scene.task("t2")
    two.write("d", "e")
    scene.publisher.changed()
    one.write("f")
    await follower.until("a\n", "b\n", "c\n", "d\n", "e\n", "f\n")
    follower.go()


async def test_a_task_that_was_there_before_its_container_is_followed(scene: Scene) -> None:
    await scene.task("t1")
    follower = scene.subscribe(follow=True)
    scene.logs["t2"] = TaskLog("t2", "web", scene.directory / "t2/log", ended=False)
    await scene.swarm.create(task("t2", "w1", state=TaskState.TASK_STATE_PREPARING))
    scene.publisher.changed()
    Conmon(scene.directory / "t2/log").write("here")
    scene.publisher.changed()
    await follower.until("here\n")
    follower.go()


async def test_following_a_task_ends_with_it_and_with_all_its_lines(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a")
    follower = scene.subscribe("t1", follow=True)
    await follower.until("a\n")
    one.write(*(f"last {number}" for number in range(5000)))
    await scene.end("t1")
    lines = await follower.end()
    assert lines[-1] == "last 4999\n"
    assert len(lines) == 5001
    assert follower.warnings == []


async def test_a_task_that_is_forgotten_ends(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a")
    follower = scene.subscribe("t1", follow=True)
    await follower.until("a\n")
    one.write("b")
    one.path.unlink()
    del scene.logs["t1"]
    scene.publisher.changed()
    await follower.until("a\n", "b\n")
    follower.go()


async def test_who_does_not_read_holds_up_only_itself(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene.task("t1")
    one.write(*("x" * 1000 for _ in range(20_000)))
    reads = 0

    class Counting(LogFile):
        def read(self) -> list[LogEntry] | None:
            nonlocal reads
            reads += self.path == one.path
            return super().read()

    monkeypatch.setattr(merging, "LogFile", Counting)
    lazy = scene.subscribe("t1", reads=False)
    before = -1
    # Until no more is read for it; others are served meanwhile.
    while reads != before or not reads:
        before = reads
        number = len(scene.logs)
        (await scene.task(f"q{number}")).write("quick")
        assert await scene.subscribe(f"q{number}").end() == ["quick\n"]
    assert reads * CHUNK < one.path.stat().st_size / 2
    lines = 0
    async for message in lazy.call:
        lines += len(message.messages)
    assert lines == 20_000


async def test_a_follower_that_goes_is_read_for_no_longer(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a")
    follower = scene.subscribe(follow=True)
    await follower.until("a\n")
    assert len(scene.publisher) == 1
    follower.go()
    async with asyncio.timeout(PATIENCE):
        while len(scene.publisher):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_after_a_broken_connection_it_goes_on(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a")
    follower = scene.subscribe(follow=True)
    await follower.until("a\n")
    await scene.unlisten()
    one.write("b")
    await scene.listen()
    await follower.until("a\n", "b\n")
    follower.go()


async def test_a_leader_that_comes_back_is_listened_to_again(scene: Scene) -> None:
    one = await scene.task("t1")
    one.write("a")
    assert await scene.subscribe().end() == ["a\n"]
    await scene.swarm.lose()
    await scene.swarm.lead()
    assert await scene.subscribe().end() == ["a\n"]


async def test_without_inotify_it_is_only_slower(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(changes.Inotify, "add_watch", none_left)
    one = await scene.task("t1")
    follower = scene.subscribe(follow=True)
    one.write("a")
    await follower.until("a\n")
    one.write("b")
    await follower.until("a\n", "b\n")
    follower.go()
