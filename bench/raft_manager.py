"""A real manager process that can also be told to put load on itself; bench/raft.py starts it.

`python -m bench.raft_manager` is `python -m flota.manager` with one more unix socket, SOCKET.bench: a line of JSON in,
a line of JSON out. Load is made inside of the process, by coroutines that call `store.update` as the leader's loops do:
what is measured is consensus, not gRPC's calls.
"""

import asyncio
import itertools
import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.store_objects import task
from flota.manager import __main__ as manager_main
from flota.manager.orchestrator.leader import LeaderLoop
from flota.manager.process import Manager
from flota.manager.store import Transaction
from flota.v1.objects_pb2 import Config

_BATCH = 200


class BenchManager(Manager):
    """A manager with one more door."""

    _numbers = itertools.count()

    def _loops(self) -> list[LeaderLoop]:
        # Made-up tasks of made-up services would be cleaned away.
        return [] if os.environ.get("BENCH_WITHOUT_LOOPS") else super()._loops()

    async def run(self, stopping: asyncio.Event) -> None:
        server = await asyncio.start_unix_server(self._serve_bench, Path(self.config.socket).with_suffix(".bench"))
        async with server:
            await super().run(stopping)

    async def _serve_bench(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            asked: dict[str, Any] = json.loads(line)
            answer = await getattr(self, f"_{asked.pop('do')}")(**asked)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _status(self) -> dict[str, Any]:
        assert self.raft is not None
        return {
            "leads": self.raft.is_leader,
            "voters": len(self.raft.raft.conf.voters),
            "index": self.raft.applied_index,
            "tasks": len(self.store.tasks),
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    async def _one(self) -> None:
        name = f"c{os.getpid()}-{next(self._numbers)}"
        made = Config(id=name)
        made.spec.annotations.name = name
        made.spec.data = b"x" * 64
        await self.store.update(lambda tx: tx.create(made))

    async def _commits(self, count: int) -> list[float]:
        """Seconds of each of `count` small transactions, one after the other."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            await self._one()
            taken.append(time.perf_counter() - begun)
        return taken

    async def _load(self, clients: int, seconds: float) -> float:
        """Transactions a second."""
        end = time.perf_counter() + seconds
        done = 0

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self._one()
                done += 1

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return done / (time.perf_counter() - begun)

    async def _fill(self, tasks: int) -> int:
        """Create tasks, many in a transaction."""
        for first in range(0, tasks, _BATCH):

            def change(tx: Transaction, first: int = first) -> None:
                for number in range(first, min(first + _BATCH, tasks)):
                    tx.create(task(number))

            await self.store.update(change)
        return len(self.store.tasks)

    async def _compact(self) -> int:
        """Take a snapshot, and keep nothing of the log behind it."""
        assert self.raft is not None
        self.raft.config = replace(self.raft.config, snapshot_entries=1, keep_entries=0)
        await self._one()
        while self.raft.raft.log.first_index < self.raft.applied_index:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        self.raft.config = replace(self.raft.config, snapshot_entries=10_000)
        return self.raft.applied_index

    async def _lag(self, seconds: float) -> float:
        """The longest that the event loop was away, in seconds."""
        end, longest, last = time.perf_counter() + seconds, 0.0, time.perf_counter()
        while last < end:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last - 0.001), now
        return longest


if __name__ == "__main__":
    vars(manager_main)["Manager"] = BenchManager
    sys.exit(manager_main.main())
