"""`flota service logs`: who wrote what, in whole lines, also when the stream breaks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from flota.cli.logs import parse_since
from flota.manager.clock import timestamp
from flota.manager.logbroker.broker import LogBroker
from flota.rpc.callers import Caller, set_caller
from flota.rpc.errors import FailedPrecondition, Unavailable
from flota.stacks.errors import BadValue
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.logs_pb2 import (
    ListenSubscriptionsRequest,
    LogMessage,
    LogStream,
    PublishLogsMessage,
    SubscribeLogsMessage,
    SubscriptionMessage,
)
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import Driver
from tests.unit.cli.conftest import Flota, on_terminal
from tests.unit.cli.daemon import Daemon

OUT, ERR = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR


def message(
    task: Task, data: str, at: float = 1_700_000_000.5, stream: "LogStream.ValueType" = OUT
) -> SubscribeLogsMessage:
    """One message from a task."""
    made = LogMessage(timestamp=timestamp(at), stream=stream, data=data.encode())
    made.context.service_id, made.context.node_id, made.context.task_id = task.service_id, task.node_id, task.id
    return SubscribeLogsMessage(messages=[made])


@pytest.fixture
def tasks(swarm: Daemon, flota: Flota) -> list[Task]:
    """web.1 and web.10, of ten."""
    create = flota("service", "create", "-d", "--name", "web", "--replicas", "10", "--env", "A=1", "--env", "B=2", "x")
    assert create.status == 0
    service = swarm.cluster.service("web")
    changed = type(service).FromString(service.SerializeToString())
    changed.spec.task.log_driver.CopyFrom(Driver(name="json-file", options={"env": "A,C"}))
    swarm.run(swarm.cluster.put(changed))
    return [swarm.run(swarm.cluster.add_task("web", slot, "m1")) for slot in (1, 10)]


def test_each_line_says_which_task_on_which_node_wrote_it(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    one, ten = tasks
    swarm.logs.answers = [[message(one, "hello\n"), message(ten, "oh no\n", stream=ERR), message(one, "bye\n")]] * 5
    done = flota("service", "logs", "web")
    assert done.status == 0
    assert done.out == f"web.1.{one.id[:12]}@m1     | hello\nweb.1.{one.id[:12]}@m1     | bye\n"
    assert done.err == f"web.10.{ten.id[:12]}@m1    | oh no\n"
    assert flota("service", "logs", "--no-task-ids", "web").lines[0] == "web.1@m1     | hello"
    assert flota("service", "logs", "--no-trunc", "web").lines[0] == f"web.1.{one.id}@m1     | hello"
    assert flota("service", "logs", "--no-resolve", "--no-task-ids", "web").lines[0] == (
        f"{one.service_id}.1@{one.node_id}     | hello"
    )
    assert flota("service", "logs", "-t", "--details", "web").lines[0] == (
        f"2023-11-14T22:13:20.500000000Z web.1.{one.id[:12]}@m1     | A=1 hello"
    )


def test_what_is_asked_is_what_was_said(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    flota("service", "logs", "--tail", "7", "--since", "1700000000.25", "web")
    flota("service", "logs", tasks[1].id[:6])
    by_service, by_task = swarm.logs.requests
    assert list(by_service.selector.service_ids) == [tasks[0].service_id]
    assert by_service.options.tail == 7
    assert (by_service.options.since.seconds, by_service.options.since.nanos) == (1_700_000_000, 250_000_000)
    assert list(by_task.selector.task_ids) == [tasks[1].id]
    assert not by_task.options.HasField("tail")
    done = flota("service", "logs", "nope")
    assert (done.status, done.err) == (1, "flota: no such task or service: nope\n")


def test_parts_of_a_line_stay_together(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    one, ten = tasks
    parts = [message(one, "a long "), message(ten, "other\n"), message(one, "line\n"), message(ten, "no end")]
    swarm.logs.answers = [parts, parts]
    assert flota("service", "logs", "--no-task-ids", "web").lines == [
        "web.10@m1    | other", "web.1@m1     | a long line", "web.10@m1    | no end",
    ]  # fmt: skip
    assert flota("service", "logs", "--raw", "web").out == "a long other\nline\nno end"


def test_warnings_are_told_once_and_refusals_fail(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    warning = SubscribeLogsMessage(warnings=["node w1 is down: its lines are missing"])
    swarm.logs.answers = [[warning, message(tasks[0], "hello\n"), warning], [FailedPrecondition("no logs of that")]]
    done = flota("service", "logs", "web")
    assert done.err == "Warning: node w1 is down: its lines are missing\n"
    assert done.status == 0
    done = flota("service", "logs", "web")
    assert (done.status, done.err) == (1, "flota: Error response from daemon: no logs of that\n")


def test_a_stream_that_breaks_is_opened_where_it_broke_off(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    one, ten = tasks
    start = 1_700_000_000.0
    lines = [message(one, f"{number}\n", start + number) for number in range(4)]
    late = message(ten, "late\n", start + 1.5)
    swarm.logs.answers = [
        [lines[0], lines[1], Unavailable("this manager does not lead any longer")],
        [Unavailable("there is no leader at the moment")],
        [lines[1], late, lines[2], lines[3], FailedPrecondition("the service was removed")],
    ]
    done = flota("service", "logs", "--follow", "--no-task-ids", "--tail", "2", "web")
    assert [line.rpartition(" ")[2] for line in done.lines] == ["0", "1", "late", "2", "3"]
    assert done.err == "flota: Error response from daemon: the service was removed\n"
    again = swarm.logs.requests[-1].options
    assert (again.since.seconds, again.HasField("tail"), again.follow) == (1_700_000_001, False, True)


def test_the_first_failure_is_told_at_once(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    swarm.logs.answers = [[Unavailable("there is no leader at the moment")]]
    done = flota("service", "logs", "--follow", "web")
    assert (done.status, done.err) == (1, "flota: Error response from daemon: there is no leader at the moment\n")


@pytest.fixture
def following(swarm: Daemon, tasks: list[Task]) -> Iterator[subprocess.Popen[str]]:
    """`service logs --follow` in a process of its own, waiting for more."""
    swarm.logs.answers = [[message(tasks[0], "hello\n")]]
    process = subprocess.Popen(
        [sys.executable, "-m", "flota.cli", "-H", swarm.host, "service", "logs", "-f", "--raw", "web"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_ends_it_without_a_word(swarm: Daemon, following: "subprocess.Popen[str]") -> None:
    assert following.stdout is not None
    assert following.stdout.readline() == "hello\n"
    assert swarm.logs.subscribed.wait(30)
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=120)
    assert (following.returncode, out, err) == (130, "", "")


def test_a_reader_that_has_enough_is_no_error(swarm: Daemon, tasks: list[Task]) -> None:
    many = SubscribeLogsMessage()
    for _ in range(20_000):
        many.messages.extend(message(tasks[0], "hello\n").messages)
    swarm.logs.answers = [[many]]
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "flota.cli", "-H", swarm.host, "service", "logs", "--raw", "web"],
        stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert os.read(reading, 6) == b"hello\n"
    os.close(reading)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")


def test_on_a_terminal_each_task_has_its_colour_unless_one_wants_none(swarm: Daemon, tasks: list[Task]) -> None:
    one, ten = tasks
    answer = [message(one, "hello\n"), message(ten, "hello\n"), message(one, "bye\n")]
    swarm.logs.answers = [answer, answer, answer]
    argv = ("service", "logs", "--no-task-ids", "web")
    status, shown, err = on_terminal(swarm, *argv, NO_COLOR="")
    assert (status, err) == (0, "")
    colours = [line.split("m", 1)[0] for line in shown.splitlines()]
    assert colours[0] == colours[2] != colours[1]
    assert all(colour.startswith("\x1b[") for colour in colours)
    plain = ["web.1@m1     | hello", "web.10@m1    | hello", "web.1@m1     | bye"]
    assert on_terminal(swarm, *argv, NO_COLOR="1")[1].splitlines() == plain
    assert "\x1b" not in on_terminal(swarm, *argv, "--raw", NO_COLOR="")[1]


class Worker:
    """A node's worker: sends a line for each of its tasks to whoever asks, through the real broker."""

    def __init__(self, broker: LogBroker, tasks: list[Task]) -> None:
        self.broker, self.tasks = broker, tasks

    async def send_initial_metadata(self, _: object) -> None:
        """What the broker asks of the call's context."""

    async def run(self) -> None:
        """Listens until cancelled."""
        set_caller(Caller(Kind.CALLER_WORKER, self.tasks[0].node_id))
        async for asked in self.broker.ListenSubscriptions(ListenSubscriptionsRequest(), self):
            if not asked.close:
                await self.broker.PublishLogs(self.lines(asked), None)

    async def lines(self, asked: SubscriptionMessage) -> AsyncIterator[PublishLogsMessage]:
        """What is selected, then the end."""
        selected = {*asked.selector.service_ids, *asked.selector.task_ids}
        for task in self.tasks:
            if not selected & {task.id, task.service_id}:
                continue
            (line,) = message(task, f"I am {task.slot}\n").messages
            yield PublishLogsMessage(subscription_id=asked.id, messages=[line])
        yield PublishLogsMessage(subscription_id=asked.id, close=True)


async def broker_with_worker(daemon: Daemon, tasks: list[Task]) -> list["asyncio.Task[None]"]:
    """Begin both, and return once the worker is heard of."""
    broker = daemon.logs.broker = LogBroker(daemon.cluster.store)
    begun = [asyncio.create_task(broker.run())]
    await asyncio.sleep(0)
    begun.append(asyncio.create_task(Worker(broker, tasks).run()))
    await asyncio.sleep(0)
    return begun


async def end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in reversed(tasks):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_through_the_real_broker(swarm: Daemon, tasks: list[Task], flota: Flota) -> None:
    begun = swarm.run(broker_with_worker(swarm, tasks))
    try:
        done = flota("service", "logs", "--no-task-ids", "web")
        assert (done.status, done.err) == (0, "")
        assert done.lines == ["web.1@m1     | I am 1", "web.10@m1    | I am 10"]
        assert flota("service", "logs", "--raw", tasks[1].id).out == "I am 10\n"
    finally:
        swarm.run(end(begun))


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("10m", 1_700_000_000 - 600, 0),
        ("1h30m", 1_700_000_000 - 5400, 0),
        ("250ms", 1_699_999_999, 750_000_000),
        ("1136073600", 1_136_073_600, 0),
        ("1136073600.000000001", 1_136_073_600, 1),
        ("2026-01-31T13:45:00Z", 1_769_867_100, 0),
        ("2026-01-31T13:45:00.5Z", 1_769_867_100, 500_000_000),
        ("2026-01-31t14:45+01:00", 1_769_867_100, 0),
    ],
)
def test_since_is_read_as_people_write_it(text: str, seconds: int, nanos: int) -> None:
    read = parse_since(text, 1_700_000_000.0)
    assert (read.seconds, read.nanos) == (seconds, nanos)


def test_a_time_without_a_zone_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert parse_since("2026-01-31T15:45:00", 0).seconds == 1_769_867_100
        assert parse_since("2026-01-31", 0).seconds == 1_769_817_600 - 7200
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "yesterday", "10", "2026-13-01", "10 minutes", "-5m", "2026-01-31T25:00:00Z"])
def test_since_that_cannot_be_read(text: str) -> None:
    if text == "10":
        assert parse_since(text, 0).seconds == 10
        return
    with pytest.raises(BadValue):
        parse_since(text, 1_700_000_000.0)


@pytest.mark.parametrize("flags", [["--tail", "-1"], ["--tail", "many"], ["--since", "yesterday"]])
def test_bad_flags_are_one_line(swarm: Daemon, tasks: list[Task], flota: Flota, flags: list[str]) -> None:
    done = flota("service", "logs", *flags, "web")
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(f"flota: invalid {flags[0]} {flags[1]!r}: ")
    assert done.err.count("\n") == 1
    assert swarm.logs.requests == []
    assert threading.active_count() < 50
