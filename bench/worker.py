"""How quick a worker is: `python -m bench.worker [--tasks 50] [--json]`. Needs root.

One real worker process in namespaces of its own, told by a real dispatcher with a consensus of one, over mutual TLS.
Rows, median of some rounds: from a task in the store to RUNNING in the store, for one and for many, with and without a
network; from REMOVE to SHUTDOWN in the store, and to nothing left on the node; processor time per start of the worker
and of what it starts (crun, conmon); its memory.
"""

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import IpamConfig, NetworkAttachment, Peer, TaskState
from tests.cluster.worker.machine import Cluster, Machine, eventually, seconds
from tests.unit.dispatcher.swarm import Swarm

ROUNDS = 3
RUNNING, SHUTDOWN, REMOVE = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN, TaskState.TASK_STATE_REMOVE
_TICKS = 100


class Bench:
    """One worker; `rows` are seconds (or what the name says), a list per row."""

    def __init__(self, cluster: Cluster) -> None:
        self.rows: dict[str, list[float]] = defaultdict(list)
        self._cluster = cluster
        self._number = 0
        self._network = Network(
            id="benchnet".ljust(25, "0"), vni=4096, ipam=[IpamConfig(subnet="10.77.0.0/16", gateway="10.77.0.1")]
        )

    async def run(self, tasks: int) -> None:
        await self._cluster.boot()
        await self._cluster.swarm.create(self._network)
        await self._round("warm", 1, network=False)
        for _ in range(ROUNDS):
            for network in (False, True):
                word = " on a network" if network else ""
                await self._round(f"1 task{word}", 1, network)
                await self._round(f"{tasks} tasks{word}", tasks, network)
        del self.rows["warm: start"], self.rows["warm: stop"], self.rows["warm: gone"]
        del self.rows["warm: worker's processor time per start"]
        self.rows["memory (MiB)"].append(self._memory())

    async def _round(self, name: str, count: int, network: bool) -> None:
        swarm, cluster = self._cluster.swarm, self._cluster
        made = [self._task(network) for _ in range(count)]
        ids = [one.id for one in made]
        used, begin = self._processor_time(), time.perf_counter()
        await swarm.create(*made)
        await swarm.until(lambda: all(cluster.status(one).state == RUNNING for one in made))
        running = time.perf_counter()
        self.rows[f"{name}: start"].append(running - begin)
        self.rows[f"{name}: worker's processor time per start"].append((self._processor_time() - used) / count)
        await swarm.change_all(ids, lambda one: setattr(one, "desired_state", REMOVE))
        await swarm.until(lambda: all(cluster.status(one).state == SHUTDOWN for one in made))
        self.rows[f"{name}: stop"].append(time.perf_counter() - running)
        await eventually(lambda: not any(map(cluster.has_container, made)))
        self.rows[f"{name}: gone"].append(time.perf_counter() - running)
        for one in ids:
            await swarm.remove(one)

    def _task(self, network: bool) -> Task:
        self._number += 1
        task = self._cluster.task(f"b{self._number:05d}", "sleep", "1000", stop_grace_period=seconds(0))
        if network:
            high, low = divmod(self._number % 60000 + 10, 250)
            address = f"10.77.{high}.{low + 2}/16"
            task.networks.append(NetworkAttachment(network_id=self._network.id, addresses=[address]))
        return task

    def _processor_time(self) -> float:
        fields = Path(f"/proc/{self._cluster.machine.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _memory(self) -> float:
        lines = Path(f"/proc/{self._cluster.machine.worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def measure(tasks: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flota-bench-")))
        machine = Machine(directory)
        stack.callback(machine.close)
        swarm = await stack.enter_async_context(Swarm(directory, period=1.0, host=machine.gateway).serving())
        swarm.managers = [Peer(node_id="m1", address=swarm.address)]
        await swarm.node("w1")
        stack.push_async_callback(machine.end)
        bench = Bench(Cluster(swarm, machine))
        await bench.run(tasks)
        return {name: statistics.median(values) for name, values in bench.rows.items()}
    raise AssertionError("an exit stack hid an error")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description="How quick a worker is.")
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rows = asyncio.run(measure(options.tasks))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for name, value in rows.items():
        print(f"{name:<60} {value:8.3f}")


if __name__ == "__main__":
    main()
