"""What containers of a real worker say, asked for through the real broker."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from flota.rpc.channels import node_channel
from flota.v1.logs_pb2 import LogStream, SubscribeLogsRequest
from flota.v1.logs_pb2_grpc import LogsStub
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import Driver, TaskState
from tests.cluster.worker.machine import PATIENCE, Cluster
from tests.unit.dispatcher.swarm import MANAGER

RUNNING, COMPLETE = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE


class Person:
    """Somebody who asks for logs."""

    def __init__(self, cluster: Cluster) -> None:
        self._swarm = cluster.swarm

    async def logs(
        self, *tasks: Task, follow: bool = False, until: int = 0, heard: Callable[[int], None] = lambda _: None
    ) -> list[tuple[int, str]]:
        """Streams and texts; those of the service without tasks, and no more than `until` of them if that is set.

        `heard` is told how many there are so far.
        """
        request = SubscribeLogsRequest()
        request.selector.task_ids.extend(task.id for task in tasks)
        request.selector.service_ids.extend([] if tasks else ["svc"])
        request.options.follow = follow
        found: list[tuple[int, str]] = []
        async with node_channel(self._swarm.identity("m9", MANAGER), self._swarm.address) as channel:
            async with asyncio.timeout(PATIENCE):
                async for message in LogsStub(channel).SubscribeLogs(request):
                    assert not message.warnings
                    found += [(line.stream, line.data.decode()) for line in message.messages]
                    heard(len(found))
                    if until and len(found) >= until:
                        break
        return found


def touch(path: str) -> None:
    """Let a container go on."""
    Path(path).touch()


@pytest.fixture
async def booted(cluster: Cluster) -> Cluster:
    await cluster.boot()
    service = Service(id="svc")
    service.spec.annotations.name = "web"
    await cluster.swarm.create(service)
    return cluster


async def test_both_streams_and_lines_of_any_length(booted: Cluster) -> None:
    task = booted.task("one", "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf unfinished")
    await booted.swarm.create(task)
    await booted.until(task, COMPLETE)
    lines = await Person(booted).logs(task)
    errors = [text for stream, text in lines if stream == LogStream.LOG_STREAM_STDERR]
    assert errors == ["err\n"]
    said = "".join(text for stream, text in lines if stream == LogStream.LOG_STREAM_STDOUT)
    assert said == f"out\n{'x' * 20000}\nunfinished"


async def test_a_service_is_followed_through_its_tasks(booted: Cluster) -> None:
    first = booted.task("first", "echo first; sleep 1000")
    await booted.swarm.create(first)
    await booted.until(first, RUNNING)
    following = asyncio.create_task(Person(booted).logs(follow=True, until=3))
    while len(await Person(booted).logs()) < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    later = booted.task("later", "echo second; echo third >&2")
    await booted.swarm.create(later)
    assert {text for _, text in await following} == {"first\n", "second\n", "third\n"}


async def test_a_follower_misses_nothing_when_logs_are_replaced(booted: Cluster) -> None:
    # 3,500 bytes a round: nearly each brings a new file, and none begins before the last one was heard.
    rounds = "r=0; while [ $r -lt 6 ]; do n=0; while [ $n -lt 60 ]; do echo line $r $n; n=$((n+1)); done; r=$((r+1))"
    task = booted.task("one", f"{rounds}; while [ ! -e /go$r ]; do sleep 0.01; done; done")
    task.log_driver.CopyFrom(Driver(name="json-file", options={"max-size": "4k"}))
    await booted.swarm.create(task)
    root = f"/proc/{(await booted.until(task, RUNNING)).container.pid}/root"

    def heard(count: int) -> None:
        if count % 60 == 0:
            touch(f"{root}/go{count // 60}")

    lines = await Person(booted).logs(task, follow=True, heard=heard)
    assert [text for _, text in lines] == [f"line {r} {n}\n" for r in range(6) for n in range(60)]
    assert booted.log_file(task).stat().st_size < 5000


async def test_following_goes_on_when_the_worker_is_started_again(booted: Cluster) -> None:
    task = booted.task("one", "echo before; while [ ! -e /go ]; do sleep 0.05; done; echo after")
    await booted.swarm.create(task)
    await booted.until(task, RUNNING)
    asked = Person(booted)
    while not await asked.logs(task):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await booted.machine.kill()
    await booted.boot()
    root = f"/proc/{booted.status(task).container.pid}/root"
    following = asyncio.create_task(asked.logs(task, follow=True))
    touch(f"{root}/go")
    assert [text for _, text in await following] == ["before\n", "after\n"]
