"""How quick consensus is: `python -m bench.raft [--json] [--only ROW …] [--rounds 30] [--directory DIR]`.

Real manager processes with default settings, over mutual TLS on loopback, each with a directory of its own below DIR
(default: where temporary files are), which should be on the disk that managers are to use. Rows, and what they should
be:

    failover_p50_s, p99        leader killed with -9 → a write through another manager is answered     1.2, 2.5
    disk_sync_p50_ms, p99      what one fdatasync takes there at the moment
    commit_p50_ms, p99         a small transaction on three managers, one after the other, in the leader   2, 5
    api_commit_p50_ms, p99     the same as `config create` over the leader's unix socket (Docker: 3.6, 5.7)
    load_tx_s                  small transactions a second, 64 clients in the leader                      3,000
    restart_s                  a manager that was stopped with a log of 100 MiB: start → ready               3
    join_s                     a new manager joins a store of 50,000 tasks: start → a voter that has them    5
    join_pause_ms              the longest that the leader's event loop is away meanwhile
    join_mib                   the joiner's memory, at its highest
    join_leader_mib            what the leader's grew by, at its highest
    join_snapshot_…            the same four, for one that is sent a snapshot instead of the log
    store_mib                  memory of 100,000 tasks, 5,000 services, 2,000 nodes                       1,024
    store_list_ms              list of a service's tasks in that store                                        1
    store_tx_ms                a transaction of 200 task changes there, made and applied, without the disk   10
    snapshot_pause_ms          a snapshot of 50,000 tasks: the longest that the event loop is away           50
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import grpc.aio

from bench import raft_store
from flota.manager.raft.storage import Storage
from flota.v1.control_pb2 import CreateConfigRequest
from flota.v1.raft_pb2 import Entry, HardState
from flota.v1.specs_pb2 import ConfigSpec
from tests.cluster.manager.processes import ManagerProcess

GOALS = {
    "failover_p50_s": 1.2, "failover_p99_s": 2.5, "commit_p50_ms": 2.0, "commit_p99_ms": 5.0, "load_tx_s": 3000.0,
    "restart_s": 3.0, "join_s": 5.0, "join_snapshot_s": 5.0, "store_mib": 1024.0, "store_list_ms": 1.0,
    "store_tx_ms": 10.0, "snapshot_pause_ms": 50.0,
}  # fmt: skip
_MORE_IS_BETTER = {"load_tx_s"}
_LOG_MIB = 100
_JOIN_TASKS = 50_000


class BenchProcess(ManagerProcess):
    """A manager that can be told to put load on itself."""

    module = "bench.raft_manager"

    async def ask(self, do: str, **rest: Any) -> Any:
        """One command of bench/raft_manager.py."""
        reader, writer = await self._connected()
        writer.write(json.dumps({"do": do, **rest}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A manager is ready a moment before this socket is."""
        path = self.socket.with_suffix(".bench")
        async with asyncio.timeout(30):
            while True:
                with suppress(ConnectionRefusedError, FileNotFoundError):
                    return await asyncio.open_unix_connection(path, limit=64 << 20)
                await asyncio.sleep(0.01)


class QuietProcess(BenchProcess):
    """One without the leader's loops."""

    environment: ClassVar[dict[str, str]] = {"BENCH_WITHOUT_LOOPS": "1"}


class Three:
    """Three managers; ends them."""

    def __init__(self, directory: Path) -> None:
        self.all = [BenchProcess(directory, name) for name in ("m1", "m2", "m3")]

    async def __aenter__(self) -> "Three":
        first, *rest = self.all
        assert await first.init() == "ready"
        for other in rest:
            said = await other.join(first)
            assert said == "ready", said
        return self

    async def __aexit__(self, *_: object) -> None:
        for manager in self.all:
            await manager.end()

    async def leader(self) -> BenchProcess:
        """Whoever leads."""
        return await leader_of(self.all)


async def leader_of(managers: Sequence[BenchProcess]) -> BenchProcess:
    """Whoever leads of those that run."""
    while True:
        for manager in managers:
            if manager.process is not None and manager.process.returncode is None:
                status = await manager.ask("status")
                if status["leads"]:
                    return manager
        await asyncio.sleep(0.01)


async def create(manager: ManagerProcess, name: str, patience: float = 10.0) -> None:
    """A small write through the API; tries again until it is answered."""
    spec = ConfigSpec(data=b"x" * 64)
    spec.annotations.name = name
    async with manager.control() as control:
        deadline = time.monotonic() + patience
        while True:
            try:
                await control.CreateConfig(CreateConfigRequest(spec=spec), timeout=patience)
                return
            except grpc.aio.AioRpcError as error:
                taken = error.code() == grpc.StatusCode.ALREADY_EXISTS
                if taken or time.monotonic() > deadline:
                    if taken:
                        return
                    raise


async def failover(directory: Path, rounds: int) -> dict[str, float]:
    taken = []
    async with Three(directory) as three:
        for number in range(rounds):
            leader = await three.leader()
            other = three.all[(three.all.index(leader) + 1 + number % 2) % 3]
            await leader.kill()
            begun = time.perf_counter()
            await create(other, f"f{number}")
            taken.append(time.perf_counter() - begun)
            said = await leader.start(leader.config())
            assert said == "ready", said
    return spread("failover", taken, "s", 1)


def syncs(directory: Path) -> list[float]:
    """Seconds of one fdatasync each: what the disk alone takes at the moment."""
    taken = []
    descriptor = os.open(directory / "syncs", os.O_WRONLY | os.O_CREAT)
    for _ in range(300):
        os.write(descriptor, bytes(512))
        begun = time.perf_counter()
        os.fdatasync(descriptor)
        taken.append(time.perf_counter() - begun)
    os.close(descriptor)
    return taken


async def commits(directory: Path, rounds: int) -> dict[str, float]:
    disk = spread("disk_sync", await asyncio.to_thread(syncs, directory), "ms", 1000)
    async with Three(directory) as three:
        leader = await three.leader()
        await leader.ask("commits", count=500)
        rows = disk | spread("commit", await leader.ask("commits", count=100 * rounds), "ms", 1000)
        taken = []
        spec = ConfigSpec(data=b"x" * 64)
        async with leader.control() as control:
            for number in range(20 * rounds):
                spec.annotations.name = f"a{number}"
                begun = time.perf_counter()
                await control.CreateConfig(CreateConfigRequest(spec=spec))
                taken.append(time.perf_counter() - begun)
        rows |= spread("api_commit", taken, "ms", 1000)
        leader = await three.leader()
        rows["load_tx_s"] = await leader.ask("load", clients=64, seconds=6)
    return rows


async def restart(directory: Path, rounds: int) -> dict[str, float]:
    manager = QuietProcess(directory, "m1")
    assert await manager.init() == "ready"
    await manager.stop()
    await asyncio.to_thread(lengthen, manager.directory / "raft")
    taken: list[float] = []
    try:
        for _ in range(max(1, rounds // 10)):
            begun = time.perf_counter()
            said = await manager.start(manager.config())
            assert said == "ready", said
            await create(manager, f"after{len(taken)}", patience=60)
            taken.append(time.perf_counter() - begun)
            status = await manager.ask("status")
            assert status["tasks"] == raft_store.TASKS_IN_LOG, status
            await manager.kill()
    finally:
        await manager.end()
    return {"restart_s": statistics.median(taken)}


def lengthen(directory: Path) -> None:
    """Write entries to a manager's log until it has 100 MiB."""
    storage, loaded = Storage.open(directory)
    index = loaded.entries[-1].index if loaded.entries else loaded.snapshot.index
    term = loaded.hard_state.term
    state = HardState(term=term, voted_for=loaded.hard_state.voted_for)
    size = 0
    for data in raft_store.transactions(index + 1):
        entries = [Entry(index=index + 1 + at, term=term, data=one) for at, one in enumerate(data)]
        index, state.commit = entries[-1].index, entries[-1].index
        storage.persist(state, entries)
        size += sum(map(len, data))
        if size > _LOG_MIB << 20:
            break
    storage.close()


async def join(directory: Path, rounds: int) -> dict[str, float]:
    """One gets the log, another, once the leader keeps a snapshot only, that snapshot."""
    first, second, third = (QuietProcess(directory, name) for name in ("m1", "m2", "m3"))
    try:
        assert await first.init() == "ready"
        assert await first.ask("fill", tasks=_JOIN_TASKS) == _JOIN_TASKS
        rows = await _joined(first, second, "join")
        # On a busy machine one that has just joined may lead by now.
        leader = await leader_of([first, second])
        await leader.ask("compact")
        return rows | await _joined(leader, third, "join_snapshot")
    finally:
        for manager in (first, second, third):
            await manager.end()


async def _joined(first: BenchProcess, other: BenchProcess, row: str) -> dict[str, float]:
    before = (await first.ask("status"))["rss_mib"]
    watching = asyncio.create_task(first.ask("lag", seconds=8))
    begun = time.perf_counter()
    said = await other.join(first)
    assert said == "ready", said
    taken = time.perf_counter() - begun
    joined = await other.ask("status")
    assert joined["tasks"] == _JOIN_TASKS
    return {
        f"{row}_s": taken,
        f"{row}_pause_ms": await watching * 1000,
        f"{row}_mib": joined["rss_mib"],
        f"{row}_leader_mib": (await first.ask("status"))["rss_mib"] - before,
    }


async def store(directory: Path, rounds: int) -> dict[str, float]:
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.raft_store", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await done.communicate()
    rows: dict[str, float] = json.loads(out)
    return rows


def spread(row: str, taken: list[float], unit: str, factor: float) -> dict[str, float]:
    """Median and 99th percentile."""
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {f"{row}_p50_{unit}": statistics.median(taken) * factor, f"{row}_p99_{unit}": cuts[98] * factor}


PARTS: dict[str, Callable[[Path, int], Awaitable[dict[str, float]]]] = {
    "store": store, "commits": commits, "failover": failover, "restart": restart, "join": join,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.raft", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=30, help="more is more exact (default: %(default)s)")
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    rows: dict[str, float] = {}
    for part in options.only:
        print(f"· {part}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="flota-bench-", dir=options.directory) as directory:
            found: dict[str, float] = asyncio.run(PARTS[part](Path(directory), options.rounds))  # type: ignore[arg-type]
        rows |= found
        if not options.json:
            show(found)
    if options.json:
        print(json.dumps(rows))
    return 0


def show(rows: dict[str, float]) -> None:
    """One line a row."""
    for row, value in rows.items():
        goal = GOALS.get(row)
        kept = "" if goal is None else "yes" if (value >= goal) == (row in _MORE_IS_BETTER) or value == goal else "NO"
        print(f"{row:20} {value:10,.2f}   {f'goal {goal:,g}' if goal is not None else '':12} {kept}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
