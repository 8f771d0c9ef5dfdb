"""What containers of a real worker say, asked for through the real broker."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from flota.rpc.channels import node_channel
from flota.v1.logs_pb2 import LogStream, SubscribeLogsRequest
from flota.v1.logs_pb2_grpc import LogsStub
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import Driver, TaskState
from flota.worker.logs.files import LogFile
from tests.cluster.worker.machine import PATIENCE, Cluster, eventually
from tests.unit.dispatcher.swarm import MANAGER

RUNNING, COMPLETE = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE
ENDED = COMPLETE, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_SHUTDOWN


class Person:
    """Somebody who asks for logs."""

    def __init__(self, cluster: Cluster) -> None:
        self._swarm = cluster.swarm

    async def logs(
        self,
        *tasks: Task,
        follow: bool = False,
        until: int = 0,
        tail: int | None = None,
        heard: Callable[[int], None] = lambda _: None,
    ) -> list[tuple[int, str]]:
        """Streams and texts; those of the service without tasks, and no more than `until` of them if that is set.

        `heard` is told how many there are so far.
        """
        request = SubscribeLogsRequest()
        request.selector.task_ids.extend(task.id for task in tasks)
        request.selector.service_ids.extend([] if tasks else ["svc"])
        request.options.follow = follow
        if tail is not None:
            request.options.tail = tail
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


async def test_full_files_are_kept_and_a_kill_of_the_worker_loses_nothing(booted: Cluster) -> None:
    # 60 KB of lines in files of 8 KB; the worker is killed in the middle, and back while one more file fills.
    task = booted.task(
        "one",
        "n=0; while [ $n -lt 800 ]; do echo line $n; n=$((n+1));"
        " while [ $((n % 100)) = 0 -a ! -e /go$((n/100)) ]; do sleep 0.01; done; done; sleep 1000",
    )
    options = {"max-size": "8k", "max-file": "12", "compress": "true"}
    task.log_driver.CopyFrom(Driver(name="json-file", options=options))
    await booted.swarm.create(task)
    root = f"/proc/{(await booted.until(task, RUNNING)).container.pid}/root"
    directory = booted.log_file(task).parent
    following = asyncio.create_task(Person(booted).logs(task, follow=True, until=400))
    for part in range(1, 9):
        if part == 4:
            await following
            await booted.machine.kill()
        if part == 6:
            await booted.boot()
        # Each hundred lines are most of a file.
        await eventually(partial(_says, booted.log_file(task), f"line {100 * part - 1}"))
        touch(f"{root}/go{part}")
        if not 4 <= part < 6:
            # The worker has seen to the one before.
            await eventually((directory / "log.tmp").exists)
    expected = [f"line {n}\n" for n in range(800)]
    assert [text for _, text in await following] == expected[:400]
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while len(lines) < 800:
            lines = [text for _, text in await Person(booted).logs(task)]
    assert lines == expected
    await eventually(lambda: any(one.suffix == ".gz" for one in directory.iterdir()))
    assert [text for _, text in await Person(booted).logs(task, tail=250)] == expected[-250:]
    await booted.want(task, TaskState.TASK_STATE_SHUTDOWN)
    await booted.until(task, *ENDED)
    await eventually(lambda: not (directory / "log.tmp").exists())
    assert [text for _, text in await Person(booted).logs(task)] == expected


async def test_a_flooded_log_has_its_last_lines_and_its_bound(booted: Cluster) -> None:
    task = booted.task("one", "yes $(printf %01000d 0) | head -c 16000000; echo; echo last; sleep 1000")
    task.log_driver.CopyFrom(Driver(name="json-file", options={"max-size": "2m", "max-file": "3"}))
    await booted.swarm.create(task)
    await booted.until(task, RUNNING)
    log, largest = booted.log_file(task), 0

    def is_over() -> bool:
        nonlocal largest
        largest = max(largest, _on_disk(log.parent))
        return _says(log, "last")

    await eventually(is_over)
    # Three files, and those that come while the worker does not look.
    assert largest < 6 * (2 << 20)
    # Two full ones at least, and what is in the third.
    lines = await Person(booted).logs(task)
    assert len(lines) > 2 * (2 << 20) / 1100
    assert lines[-1][1] == "last\n"


def _says(log: Path, last: str) -> bool:
    """Whether this is the last line on the disk, whoever looks after the log."""
    file = LogFile(log, tail=1)
    entries = file.read() or []
    file.close()
    return [one.data.decode() for one in entries] == [f"{last}\n"]


def _on_disk(directory: Path) -> int:
    """Bytes of the files in it, each counted once."""
    found = {}
    for one in directory.glob("log*"):
        with suppress(FileNotFoundError):
            status = one.stat()
            found[status.st_ino] = status.st_size
    return sum(found.values())
