"""When a worker is told what: gaps, sizes, the end. On virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from flota.manager.dispatcher.assignments import Assignments, Urgency
from flota.manager.dispatcher.outbox import MAX_BYTES, MAX_CHANGES, Outbox, gap
from flota.manager.dispatcher.pace import Pace
from flota.manager.store import LocalProposer, Store, Transaction
from flota.rpc.errors import Unavailable
from flota.v1.dispatcher_pb2 import AssignmentsMessage
from flota.v1.objects_pb2 import Config
from tests.simulation.virtual_time import run
from tests.unit.dispatcher.swarm import Held, key_of, task


class Worker:
    """Reads an outbox; `pause` seconds after each message."""

    def __init__(self, outbox: Outbox, pause: float = 0.0) -> None:
        self.outbox = outbox
        self.pause = pause
        self.got: list[tuple[float, AssignmentsMessage]] = []
        self.held = Held()
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.outbox.messages():
            self.got.append((asyncio.get_running_loop().time(), message))
            self.held.take(message)
            await asyncio.sleep(self.pause)

    @property
    def times(self) -> list[float]:
        """When messages after the first came, in milliseconds."""
        return [round(at * 1000, 3) for at, message in self.got[1:]]


class Bench:
    """A store and its index; touches go to one outbox."""

    def __init__(self) -> None:
        self.store = Store()
        LocalProposer(self.store)
        self.assignments = Assignments(self.store, lambda nodes, keys, urgency: None)

    async def create(self, *things: Any) -> None:
        """Each in a transaction of its own: together they may be too large."""

        with self.store.watch() as changes:
            for thing in things:
                await self.store.update(partial(Transaction.create, thing=thing))
            self.assignments.note(changes.drain())


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def call() -> None:
        run(test())

    call.__name__ = test.__name__
    return call


@virtual
async def test_an_idle_worker_hears_at_once_and_a_busy_one_after_the_gap() -> None:
    bench = Bench()
    await bench.create(task("t1", "w1"), task("t2", "w1"))
    worker = Worker(Outbox("w1", bench.assignments, Pace()))
    await asyncio.sleep(1)
    worker.outbox.touch(("task", "t1"), gap(Urgency.OWN, 1))
    await asyncio.sleep(0.001)
    worker.outbox.touch(("peer", "n", "t1"), gap(Urgency.SPREAD, 100))
    worker.outbox.touch(("peer", "n", "t2"), gap(Urgency.SPREAD, 100))
    await asyncio.sleep(0.5)
    worker.outbox.touch(("peer", "n", "t1"), gap(Urgency.SPREAD, 100))
    await asyncio.sleep(0.001)
    worker.outbox.touch(("peer", "n", "t2"), gap(Urgency.SPREAD, 100))
    # What is its own does not wait for what is told to many, and takes it along.
    worker.outbox.touch(("task", "t2"), gap(Urgency.OWN, 1))
    await asyncio.sleep(1)
    assert worker.times == [1000, 1090, 1501, 1503]
    assert [len(message.changes) for _, message in worker.got[1:]] == [1, 2, 1, 2]
    worker.outbox.end(None)
    await worker.reader


@virtual
async def test_a_worker_that_does_not_read_is_told_how_things_are() -> None:
    bench = Bench()
    worker = Worker(Outbox("w1", bench.assignments, Pace()), pause=10.0)
    await asyncio.sleep(1)
    await bench.create(task("t1", "w1"))
    for _ in range(1000):
        worker.outbox.touch(("task", "t1"), 0.002)
    await asyncio.sleep(30)
    assert [len(message.changes) for _, message in worker.got] == [0, 1]
    worker.outbox.end(None)
    await worker.reader


@virtual
async def test_messages_are_limited_in_changes_and_bytes() -> None:
    bench = Bench()
    worker = Worker(Outbox("w1", bench.assignments, Pace()))
    await asyncio.sleep(1)
    configs = [Config(id=f"k{n}") for n in range(5)]
    for config in configs:
        config.spec.data = b"x" * 400_000
    tasks = [task(f"t{n}", "w1", configs=[f"k{n % 5}"]) for n in range(250)]
    await bench.create(*configs, *tasks)
    for config in configs:
        worker.outbox.touch(("config", config.id), 0.0)
    for one in tasks:
        worker.outbox.touch(("task", one.id), 0.0)
    await asyncio.sleep(1)
    sizes = [(len(message.changes), message.ByteSize()) for _, message in worker.got[1:]]
    assert [count for count, _ in sizes] == [3, MAX_CHANGES, MAX_CHANGES, 52]
    assert all(size < MAX_BYTES + 500_000 for _, size in sizes)
    assert len(worker.held) == 255
    worker.outbox.end(None)
    await worker.reader


@virtual
async def test_a_large_complete_set_comes_in_parts() -> None:
    bench = Bench()
    configs = [Config(id=f"k{n}") for n in range(50)]
    for config in configs:
        config.spec.data = b"x" * 900_000
    await bench.create(*configs)
    await bench.create(task("t1", "w1", configs=[config.id for config in configs]))
    worker = Worker(Outbox("w1", bench.assignments, Pace()))
    await asyncio.sleep(1)
    parts = [message for _, message in worker.got]
    assert [part.more for part in parts] == [True, True, False]
    assert {part.type for part in parts} == {AssignmentsMessage.TYPE_COMPLETE}
    assert [(part.applies_to, part.results_in) for part in parts] == [(0, 1), (1, 2), (2, 3)]
    assert key_of(parts[-1].changes[-1]) == ("task", "t1")
    assert len(worker.held) == 51
    worker.outbox.end(None)
    await worker.reader


@virtual
async def test_an_error_ends_the_stream_even_when_something_waits() -> None:
    bench = Bench()
    worker = Worker(Outbox("w1", bench.assignments, Pace()))
    await asyncio.sleep(1)
    worker.outbox.touch(("task", "t1"), 0.0)
    worker.outbox.end(Unavailable("over"))
    worker.outbox.end(None)
    with pytest.raises(Unavailable, match="over"):
        await worker.reader
    assert len(worker.got) == 1


@virtual
async def test_streams_take_turns_and_leave_room_for_others() -> None:
    pace = Pace(turns=10)
    rounds: list[int] = []
    now = 0

    async def stream() -> None:
        await pace.turn()
        rounds.append(now)

    async def somebody_else() -> None:
        nonlocal now
        for _ in range(20):
            now += 1
            await asyncio.sleep(0)

    gone = asyncio.create_task(pace.turn())
    others = asyncio.create_task(somebody_else())
    streams = [asyncio.create_task(stream()) for _ in range(95)]
    await asyncio.sleep(0)
    streams[50].cancel()
    gone.cancel()
    await asyncio.gather(others, gone, *streams, return_exceptions=True)
    assert len(rounds) == 94
    assert max(rounds.count(one) for one in rounds) <= 10
    assert len(set(rounds)) >= 10
    # Whoever comes when nobody waits is not held up.
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    await pace.turn()
    assert asyncio.get_running_loop().time() == before
