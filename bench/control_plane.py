"""How much a control plane carries: `python -m bench.control_plane [--agents 1000] [--tasks 30000] [--profile]`.

One process is a manager: Raft of one on disk, the store, all of the leader's loops and the dispatcher behind mutual
TLS. Another one is the agents: each has a session and an assignments stream over real gRPC, sends heartbeats at the
pace it is told, and reports every task RUNNING as a worker does, many together; there are no containers. Services of
1,000 tasks are created until there are so many tasks; after each step the clock stops when every task is RUNNING in the
store. Rows, one for each step:

    tasks          so many are there now
    seconds        this step took
    ms_each        manager's processor time for each of the step's tasks
    rss_mib        the manager's memory

    --plot FILE    draws ms_each over tasks (SVG)
    --profile      where the manager's processor time went (makes it slower)
"""

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import grpc.aio
import uvloop

from bench.dispatcher import AT_ONCE, CONNECTIONS, Worker
from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.clock import SystemClock
from flota.manager.dispatcher import Dispatcher
from flota.manager.orchestrator.leader import leader_loops
from flota.manager.raft.node import RaftNode
from flota.manager.raft.transport import RaftTransport
from flota.manager.store import Store, Transaction
from flota.manager.store.schema import StoreObject
from flota.rpc import logging
from flota.rpc.callers import Trust
from flota.rpc.channels import node_channel
from flota.rpc.identity import Identity
from flota.rpc.servers import node_server
from flota.v1.dispatcher_pb2 import AssignmentsMessage
from flota.v1.dispatcher_pb2_grpc import DispatcherStub, add_DispatcherServicer_to_server
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Cluster, Node, Service, Task
from flota.v1.service_defaults import with_defaults
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import NodeRole, NodeState, TaskState

PER_SERVICE = 1000
STEPS = (1000, 3000, 10_000, 20_000, 30_000)
LIMIT = 600
# As worker/agent/reporter.py has it.
_GAP = 0.02
_PAUSE = 0.5


class Agent(Worker):
    """A worker that has nothing to do: what it is given runs at once."""

    def __init__(self, node_id: str, stub: object) -> None:
        super().__init__(node_id, stub, None)  # type: ignore[arg-type]
        self._due: list[str] = []
        self._news = asyncio.Event()
        self._known: set[str] = set()

    def _take(self, message: AssignmentsMessage) -> None:
        for change in message.changes:
            task = change.task
            if (
                change.HasField("task")
                and task.desired_state == TaskState.TASK_STATE_RUNNING
                and task.status.state == TaskState.TASK_STATE_ASSIGNED
                and task.id not in self._known
            ):
                self._known.add(task.id)
                self._due.append(task.id)
                self._news.set()

    async def tell(self) -> None:
        """Report what runs, many together, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            due, self._due = self._due, []
            try:
                await self.report(due, TaskState.TASK_STATE_RUNNING)
            except grpc.aio.AioRpcError:
                # Sent again until it is acknowledged, also over the next session.
                self._due += due
                self._news.set()
                await asyncio.sleep(_PAUSE)
            await asyncio.sleep(_GAP)

    async def stay(self) -> None:
        """Follow the assignments; a session that broke is opened anew. Runs until cancelled."""
        while True:
            with suppress(grpc.aio.AioRpcError):
                await self.follow()
            await asyncio.sleep(_PAUSE)
            with suppress(grpc.aio.AioRpcError):
                await self.start()

    async def live(self, period: float, rng: Random) -> None:
        """Send heartbeats until cancelled."""
        await asyncio.sleep(rng.uniform(0, period))
        while True:
            with suppress(grpc.aio.AioRpcError):
                await self.beat()
            await asyncio.sleep(period)


async def agents_main(address: str, directory: Path, count: int, period: float) -> None:
    """The agents' process, until its input ends."""
    channels = [node_channel(Identity(directory / "m2"), address) for _ in range(CONNECTIONS)]
    stubs = [DispatcherStub(channel) for channel in channels]
    agents = [Agent(f"w{number:05}", stubs[number % CONNECTIONS]) for number in range(count)]
    turn = asyncio.Semaphore(AT_ONCE)

    tasks: list[asyncio.Task[None]] = []

    async with asyncio.TaskGroup() as group:

        async def begin(agent: Agent) -> None:
            async with turn:
                await agent.start()
            # Heartbeats from the first moment: the others' sessions take a while.
            for work in (agent.stay(), agent.tell(), agent.live(period, Random(agent.node_id))):
                tasks.append(group.create_task(work))

        await asyncio.gather(*map(begin, agents))
        print("ready", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        for task in tasks:
            task.cancel()


async def put(store: Store, things: list[StoreObject]) -> None:
    """Create objects."""

    def write(thing: StoreObject, tx: Transaction) -> None:
        tx.create(thing)

    await store.batch([lambda tx, thing=thing: write(thing, tx) for thing in things])  # type: ignore[misc]


async def measure(store: Store, most: int, rng: Random) -> list[dict[str, float]]:
    """Create services step by step, and wait for each step's tasks to run."""
    states: Counter[int] = Counter()
    rows: list[dict[str, float]] = []
    made = 0
    with store.watch("task") as changes:
        for goal in [step for step in STEPS if step < most] + [most]:
            began, cpu = time.monotonic(), time.process_time()
            before = made
            while made < goal:
                spec = ServiceSpec()
                spec.annotations.name = f"service{made // PER_SERVICE}"
                spec.task.container.image = "busybox:latest"
                spec.task.container.env.extend(f"VARIABLE_{number}=value" for number in range(5))
                spec.replicated.replicas = min(PER_SERVICE, goal - made)
                service = Service(id=new_id(rng), spec=with_defaults(spec))
                service.spec_version.index = store.index + 1
                await put(store, [service])
                made += spec.replicated.replicas
            async with asyncio.timeout(LIMIT):
                while states[TaskState.TASK_STATE_RUNNING] < made:
                    for event in await changes.next():
                        assert isinstance(event.object, Task)
                        if isinstance(event.old, Task):
                            states[event.old.status.state] -= 1
                        states[event.object.status.state] += 1
            seconds = time.monotonic() - began
            rows.append(
                {
                    "tasks": made,
                    "seconds": round(seconds, 2),
                    "ms_each": round((time.process_time() - cpu) / (made - before) * 1e3, 3),
                    "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                }
            )
            print(*(f"{name} {value:g}" for name, value in rows[-1].items()), sep="   ", file=sys.stderr, flush=True)
    return rows


async def main(
    agents: int, tasks: int, period: float, directory: Path, profile: cProfile.Profile | None
) -> dict[str, object]:
    """The manager's process."""
    root_pem, root_key = create_root()
    signer = Signer(root_pem, root_key)
    for name in ("m1", "m2"):
        csr, key = create_request()
        Identity.store(directory / name, signer.sign(csr, name, NodeRole.NODE_ROLE_MANAGER, "c1"), key, root_pem)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    clock, rng = SystemClock(), Random(1)
    store, trust, own = Store(), Trust(root_pem), Identity(directory / "m1")
    transport = RaftTransport("m1", lambda where: node_channel(own, where))
    raft = await RaftNode.open(
        directory / "raft", node_id="m1", address=address, state_machine=store, transport=transport, join=None
    )
    store.use(raft)
    await raft.wait_for_leader()
    cluster = Cluster(id="c1")
    cluster.spec.annotations.name = "default"
    cluster.spec.dispatcher.heartbeat_period.FromMilliseconds(int(period * 1000))
    nodes: list[StoreObject] = []
    for number in range(agents):
        node = Node(id=f"w{number:05}")
        node.description.hostname = node.id
        node.description.platform.os, node.description.platform.architecture = "linux", "x86_64"
        node.description.resources.nano_cpus, node.description.resources.memory_bytes = 8 * 10**9, 16 << 30
        node.status.state = NodeState.NODE_STATE_UNKNOWN
        nodes.append(node)
    await put(store, [cluster, *nodes])
    dispatcher = Dispatcher(store, clock, rng, list, lambda: root_pem, "m1")
    server = node_server(Identity(directory / "m1"), lambda: trust, address)
    add_DispatcherServicer_to_server(dispatcher, server)
    await server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.control_plane", "--agents", str(agents), "--at", address, "--directory", directory,
        "--heartbeat", str(period), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(loop.run()) for loop in [*leader_loops(store, clock, rng), dispatcher]]
            assert process.stdout is not None
            began = time.monotonic()
            assert (await process.stdout.readline()).strip() == b"ready"
            registered = time.monotonic() - began
            if profile is not None:
                profile.enable()
            began, cpu = time.monotonic(), time.process_time()
            rows = await measure(store, tasks, rng)
            total, used = time.monotonic() - began, time.process_time() - cpu
            if profile is not None:
                profile.disable()
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            for loop in loops:
                loop.cancel()
        return {
            "agents": agents, "register_s": round(registered, 2), "total_s": round(total, 2),
            "manager_cpu_s": round(used, 2), "raft_entries": store.index, "steps": rows,
        }  # fmt: skip
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await server.stop(0)
        await raft.stop()


def drawn(result: dict[str, object]) -> str:
    """The curve as SVG: the manager's processor time for a task, over how many tasks there are."""
    steps: list[dict[str, float]] = result["steps"]  # type: ignore[assignment]
    width, height, left, bottom = 640, 320, 60, 50
    most_x = max(step["tasks"] for step in steps)
    most_y = max(step["ms_each"] for step in steps) * 1.25

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / most_x * (width - left - 20), height - bottom - y / most_y * (height - bottom - 40)

    points = [at(step["tasks"], step["ms_each"]) for step in steps]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="20">manager CPU for each task, ms ({result["agents"]} agents over gRPC, '
        f"{most_x:,.0f} tasks in {result['total_s']} s)</text>",
        f'<path d="M{left},40 V{height - bottom} H{width - 20}" stroke="black" fill="none"/>',
        f'<polyline points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in points)}" stroke="#1f77b4" stroke-width="2" '
        'fill="none"/>',
    ]
    for step, (x, y) in zip(steps, points, strict=True):
        lines.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="#1f77b4"/>')
        lines.append(f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="middle">{step["ms_each"]:.2f}</text>')
        lines.append(f'<text x="{x:.0f}" y="{height - bottom + 18}" text-anchor="middle">{step["tasks"]:,.0f}</text>')
    lines.append(f'<text x="{width / 2:.0f}" y="{height - 10}" text-anchor="middle">tasks in the cluster</text></svg>')
    return "\n".join(lines) + "\n"


def command() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=30_000)
    parser.add_argument("--heartbeat", type=float, default=1.0, help="seconds between an agent's heartbeats (1)")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--at", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("FLOTA_LOG", "warning")
    logging.configure("bench")
    if arguments.at:
        asyncio.run(agents_main(arguments.at, arguments.directory, arguments.agents, arguments.heartbeat))
        return
    # As the manager process has it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    profile = cProfile.Profile() if arguments.profile else None
    with (
        tempfile.TemporaryDirectory(prefix="flota-bench-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        result = runner.run(main(arguments.agents, arguments.tasks, arguments.heartbeat, Path(directory), profile))
    if profile is not None:
        stats = pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
        stats.print_callers(3)
    if arguments.plot:
        arguments.plot.write_text(drawn(result))
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if name != "steps":
            print(f"{name:16} {value}")


if __name__ == "__main__":
    command()
