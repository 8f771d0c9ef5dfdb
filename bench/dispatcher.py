"""How quick the dispatcher is: `python -m bench.dispatcher [--workers 500] [--json]`.

One process has the store (consensus of one, in memory) and the dispatcher, another one the workers, which share a few
connections as they would behind a follower. Rows:

    register_s           all workers open sessions and assignments, 50 at a time
    heartbeat_share      part of a core for one heartbeat a second from everybody
    assign_p50_ms, p99   from the commit of a decision to the worker that has it, nothing else going on
    spread_p50_ms, max   from the commit of a task's RUNNING to the last worker on its network that knows
    storm_s              200 tasks come up, every worker hears of each: from the first report to the last worker
    storm_messages       messages that took (each worker would need 200 if each change were one)
    storm_round_ms       the longest round of the manager's event loop meanwhile, garbage collection included
    updates_s            reports of task status a second, each answered after its commit
"""

import argparse
import asyncio
import gc
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
import uvloop
from prometheus_client import REGISTRY

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.clock import SystemClock
from flota.manager.dispatcher import Dispatcher
from flota.manager.store import LocalProposer, Store, Transaction
from flota.manager.store.schema import StoreObject
from flota.rpc import logging
from flota.rpc.callers import Caller, Trust
from flota.rpc.channels import node_channel
from flota.rpc.forward import CALLER_KEY
from flota.rpc.identity import Identity
from flota.rpc.servers import node_server
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.dispatcher_pb2 import (
    AssignmentsMessage,
    AssignmentsRequest,
    HeartbeatRequest,
    SessionRequest,
    UpdateTaskStatusRequest,
)
from flota.v1.dispatcher_pb2_grpc import DispatcherStub, add_DispatcherServicer_to_server
from flota.v1.objects_pb2 import Cluster, Network, Node, Task
from flota.v1.types_pb2 import NodeRole, TaskState, TaskStatus

NETWORK = "bench"
CONNECTIONS = 4
AT_ONCE = 50
STORM = 200
FEWEST = 20
BEATS = 5
ASSIGNED, RUNNING = TaskState.TASK_STATE_ASSIGNED, TaskState.TASK_STATE_RUNNING
LIMIT = 30


# The workers' process: reads orders, writes what it sees, with the machine's monotonic clock.


class Worker:
    """Keeps nothing but what is measured."""

    def __init__(self, node_id: str, stub: Any, seen: "Seen") -> None:
        self.node_id = node_id
        self.tasks: list[str] = []
        self._stub = stub
        self._seen = seen
        caller = Caller(Kind.CALLER_WORKER, node_id, NodeRole.NODE_ROLE_WORKER, "10.0.0.1")
        self._metadata = ((CALLER_KEY, caller.to_metadata()),)

    async def start(self) -> None:
        self._session = self._stub.Session(SessionRequest(), metadata=self._metadata)
        first = await self._session.read()
        self._id = first.session_id
        self._assignments = self._stub.Assignments(AssignmentsRequest(session_id=self._id), metadata=self._metadata)
        self._take(await self._assignments.read())

    async def follow(self) -> None:
        while (message := await self._assignments.read()) is not grpc.aio.EOF:
            self._take(message)

    def _take(self, message: AssignmentsMessage) -> None:
        now = time.monotonic()
        for change in message.changes:
            if change.HasField("task"):
                self.tasks.append(change.task.id)
                self._seen.say("task", change.task.id, now)
            elif change.HasField("peer") and change.peer.ready:
                self._seen.count(change.peer.task_id, now)

    async def beat(self) -> None:
        await self._stub.Heartbeat(HeartbeatRequest(session_id=self._id), metadata=self._metadata)

    async def report(self, tasks: Iterable[str], state: "TaskState.ValueType") -> None:
        updates = [UpdateTaskStatusRequest.Update(task_id=task_id, status=TaskStatus(state=state)) for task_id in tasks]
        await self._stub.UpdateTaskStatus(
            UpdateTaskStatusRequest(session_id=self._id, updates=updates), metadata=self._metadata
        )


class Seen:
    """Tells the other process."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._ready: Counter[str] = Counter()

    @staticmethod
    def say(*words: object) -> None:
        print(*words, flush=True)

    def count(self, task_id: str, now: float) -> None:
        """A task is known to be ready by one more worker; said when it was the last one."""
        self._ready[task_id] += 1
        if self._ready[task_id] == self._workers:
            self.say("ready", task_id, now)


async def workers_main(address: str, directory: Path, count: int) -> None:
    channels = [node_channel(Identity(directory / "m2"), address) for _ in range(CONNECTIONS)]
    stubs = [DispatcherStub(channel) for channel in channels]
    seen = Seen(count)
    workers = [Worker(f"w{n}", stubs[n % CONNECTIONS], seen) for n in range(count)]
    turn = asyncio.Semaphore(AT_ONCE)
    following: list[asyncio.Task[None]] = []

    async def limited(call: Awaitable[None]) -> None:
        async with turn:
            await call

    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        while order := (await reader.readline()).decode().split():
            match order:
                case ["start"]:
                    await asyncio.gather(*(limited(worker.start()) for worker in workers))
                    following = [group.create_task(worker.follow()) for worker in workers]
                case ["beat"]:
                    for _ in range(BEATS):
                        until = time.monotonic() + 1
                        for worker in workers:
                            await limited(worker.beat())
                        await asyncio.sleep(max(0.0, until - time.monotonic()))
                case ["run", *tasks]:
                    by_id = {task_id: worker for worker in workers for task_id in worker.tasks}
                    await asyncio.gather(*(limited(by_id[task_id].report([task_id], RUNNING)) for task_id in tasks))
                case ["step", state]:
                    number = TaskState.Value(state)
                    await asyncio.gather(*(limited(worker.report(worker.tasks, number)) for worker in workers))
            seen.say("done")
        for task in following:
            task.cancel()
    await asyncio.gather(*(channel.close() for channel in channels))


# The manager's process.


class Workers:
    """The other process, as the manager's sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.seen: dict[tuple[str, str], float] = {}
        self._done = 0
        self._news = asyncio.Event()
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            words = raw.decode().split()
            if words == ["done"]:
                self._done += 1
            else:
                self.seen[words[0], words[1]] = float(words[2])
            self._news.set()

    async def order(self, *words: str) -> None:
        assert self._process.stdin is not None
        before = self._done
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        await self.until(lambda: self._done > before)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def saw(self, what: str, task_id: str) -> float:
        """When it saw this, on the machine's clock."""
        await self.until(lambda: (what, task_id) in self.seen)
        return self.seen[what, task_id]


class Stalls:
    """The most processor time that one round of the event loop took (others on the machine do not count)."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, time.thread_time() - before)


def bench_task(id: str, node_id: str, network: str, address: int) -> Task:
    task = Task(id=id, service_id="web", node_id=node_id, slot=address, desired_state=RUNNING)
    task.service_annotations.name = "web"
    task.status.state = ASSIGNED
    task.spec.container.image = "busybox:latest"
    task.spec.container.env.extend(f"VARIABLE_{n}=value" for n in range(10))
    if network:
        task.spec.networks.add(target=network)
        task.networks.add(network_id=network, addresses=[f"10.0.{address // 250}.{address % 250 + 2}/16"])
    return task


def sent() -> float:
    """Assignment messages so far."""
    return REGISTRY.get_sample_value("flota_dispatcher_assignment_messages_total") or 0.0


async def create(store: Store, things: list[StoreObject]) -> None:
    def put(thing: StoreObject, tx: Transaction) -> None:
        tx.create(thing)

    await store.batch([lambda tx, thing=thing: put(thing, tx) for thing in things])  # type: ignore[misc]


async def measure(store: Store, workers: Workers, count: int) -> dict[str, float]:
    rows: dict[str, float] = {}
    begun = time.monotonic()
    await workers.order("start")
    rows["register_s"] = time.monotonic() - begun

    cpu = time.process_time()
    await workers.order("beat")
    rows["heartbeat_share"] = (time.process_time() - cpu) / BEATS

    delays = []
    for n in range(100):
        task = bench_task(f"single{n}", f"w{n * 7 % count}", "", n)
        await create(store, [task])
        committed = time.monotonic()
        delays.append(await workers.saw("task", task.id) - committed)
        await asyncio.sleep(0.01)
    delays.sort()
    rows["assign_p50_ms"], rows["assign_p99_ms"] = delays[50] * 1e3, delays[98] * 1e3

    # One task on the network everywhere: from now on everybody hears of everything on it.
    await create(store, [bench_task(f"base{n}", f"w{n}", NETWORK, n) for n in range(count)])
    await workers.until(lambda: all(("task", f"base{n}") in workers.seen for n in range(count)))
    await asyncio.sleep(2)

    delays = []
    for n in range(10):
        await workers.order("run", f"base{n}")
        running = store.tasks.get(f"base{n}")
        assert running is not None
        at = running.status.applied_at.ToNanoseconds() / 1e9 - time.time() + time.monotonic()
        delays.append(await workers.saw("ready", f"base{n}") - at)
        await asyncio.sleep(0.3)
    rows["spread_p50_ms"], rows["spread_max_ms"] = statistics.median(delays) * 1e3, max(delays) * 1e3

    storm = [f"base{n}" for n in range(10, 10 + min(STORM, count - 10))]
    messages, stalls, begun = sent(), Stalls(), time.monotonic()
    await workers.order("run", *storm)
    rows["storm_s"] = max([await workers.saw("ready", task_id) for task_id in storm]) - begun
    rows["storm_messages"] = sent() - messages
    rows["storm_round_ms"] = stalls.longest * 1e3
    stalls.task.cancel()
    await asyncio.sleep(1)

    many = [bench_task(f"many{n}", f"w{n % count}", "", n) for n in range(count * 4)]
    await create(store, list(many))
    await workers.until(lambda: all(("task", task.id) in workers.seen for task in many))
    begun, steps = time.monotonic(), ("ACCEPTED", "PREPARING", "READY", "STARTING")
    for step in steps:
        await workers.order("step", f"TASK_STATE_{step}")
    rows["updates_s"] = len(many) * len(steps) / (time.monotonic() - begun)
    return rows


async def main(count: int, directory: Path) -> dict[str, float]:
    root_pem, root_key = create_root()
    signer = Signer(root_pem, root_key)
    for name in ("m1", "m2"):
        csr, key = create_request()
        Identity.store(directory / name, signer.sign(csr, name, NodeRole.NODE_ROLE_MANAGER, "c1"), key, root_pem)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    store, trust = Store(), Trust(root_pem)
    LocalProposer(store)
    dispatcher = Dispatcher(store, SystemClock(), Random(), list, lambda: root_pem, "m1")
    network = Network(id=NETWORK, vni=4096)
    network.spec.annotations.name = NETWORK
    cluster = Cluster(id="c1")
    cluster.spec.annotations.name = "default"
    # Heartbeats are measured by themselves.
    cluster.spec.dispatcher.heartbeat_period.seconds = 600
    await create(store, [cluster, network, *(Node(id=f"w{n}") for n in range(count))])
    server = node_server(Identity(directory / "m1"), lambda: trust, address)
    add_DispatcherServicer_to_server(dispatcher, server)
    await server.start()
    leading = asyncio.create_task(dispatcher.run())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.dispatcher", "--workers", str(count), "--at", address, "--directory", directory,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    workers = Workers(process)
    try:
        return await measure(store, workers, count)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        leading.cancel()
        (ending,) = await asyncio.gather(leading, return_exceptions=True)
        if not isinstance(ending, asyncio.CancelledError):
            print(f"the dispatcher ended by itself: {ending!r}", file=sys.stderr)
        await server.stop(0)
        await process.wait()
        await workers.reader


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=500, help="how many (500)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--at", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.workers < FEWEST:
        parser.error(f"--workers {arguments.workers}: at least {FEWEST} are needed")
    os.environ.setdefault("FLOTA_LOG", "warning")
    logging.configure("bench")
    if arguments.at:
        asyncio.run(workers_main(arguments.at, arguments.directory, arguments.workers))
        return
    with tempfile.TemporaryDirectory(prefix="flota-bench-") as directory:
        # As the manager process does it.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(main(arguments.workers, Path(directory)))
    if arguments.json:
        print(json.dumps(rows))
        return
    for name, value in rows.items():
        print(f"{name:22} {value:12.2f}")


if __name__ == "__main__":
    command()
