"""How quick a worker is, beside a real dockerd: `python -m bench.worker [--only SIDE] [--json]`. Needs root.

flota's side is one real worker process in namespaces of its own, told by a real dispatcher with a consensus of one,
over mutual TLS: from a task in the store to RUNNING in the store, on an overlay network, image present; from REMOVE to
nothing left on the node. Docker's side is bench/docker_worker.py: from the API call to its answer. Both on this
machine, one after the other; the processor time of what else runs here is in both. Medians of some rounds.
"""

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog

from bench.docker_worker import DockerWorker, private_mib_of
from bench.swarm import install_peer, note
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import IpamConfig, NetworkAttachment, Peer, TaskState
from flota.worker.images.unpack import unpack
from tests.cluster.worker.machine import Cluster, Machine, eventually, seconds
from tests.unit.dispatcher.swarm import Swarm

SINGLES, ROUNDS, MANY, STOPPED = 15, 3, 50, 100
RUNNING, REMOVE = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_REMOVE
_TICKS = 100
_SOURCES = ("usr/bin", "usr/sbin", "usr/lib/systemd", "usr/lib/x86_64-linux-gnu")
_LAYER = 300 << 20

# What each row is, its unit, and what flota is to reach ("" = only to be known).
ROWS: dict[str, tuple[str, str, str]] = {
    "start_1": ("one task, asked for → runs", "s", "0.060"),
    "start_50": ("50 tasks on one node", "s", "1.5"),
    "stop_100": ("100 stopped (grace 0) and gone", "s", "1"),
    "rss_100": ("memory of the agent, 100 tasks (dockerd with containerd)", "MiB", "80"),
    "beside": ("private memory beside each container (conmon; shim)", "MiB", ""),
    "cpu_start": ("the agent's processor time for one start", "s", ""),
    "unpack": ("a layer of 300 MB, unpacked and checked", "s", ""),
    "tar": ("the same by tar -x", "s", ""),
    "unpack_ratio": ("how many times as long as tar -x", "", "1.5"),
}

Row = dict[str, float]


class Bench:
    """One worker; `rows` are a list per row."""

    def __init__(self, cluster: Cluster) -> None:
        self.rows: dict[str, list[float]] = defaultdict(list)
        self._cluster = cluster
        self._number = 0
        self._network = Network(
            id="benchnet".ljust(25, "0"), vni=4096, ipam=[IpamConfig(subnet="10.77.0.0/16", gateway="10.77.0.1")]
        )

    async def run(self) -> None:
        await self._cluster.boot()
        await self._cluster.swarm.create(self._network)
        # A network is made on the node with its first task.
        await self._start(1)
        for _ in range(SINGLES):
            await self._stop(await self._start(1, "start_1"))
        for _ in range(ROUNDS):
            await self._stop(await self._start(MANY, "start_50"))
        for _ in range(ROUNDS):
            tasks = await self._start(STOPPED)
            self.rows["rss_100"].append(self._memory())
            self.rows["beside"].append(private_mib_of(self._monitors()))
            await self._stop(tasks, "stop_100")

    async def _start(self, count: int, row: str = "") -> list[Task]:
        swarm, cluster = self._cluster.swarm, self._cluster
        tasks = [self._task() for _ in range(count)]
        used, begin = self._processor_time(), time.perf_counter()
        await swarm.create(*tasks)
        await swarm.until(lambda: all(cluster.status(one).state == RUNNING for one in tasks))
        if row:
            self.rows[row].append(time.perf_counter() - begin)
        if count == MANY:
            self.rows["cpu_start"].append((self._processor_time() - used) / count)
        return tasks

    async def _stop(self, tasks: list[Task], row: str = "") -> None:
        swarm, cluster = self._cluster.swarm, self._cluster
        begin = time.perf_counter()
        await swarm.change_all([one.id for one in tasks], lambda one: setattr(one, "desired_state", REMOVE))
        await eventually(lambda: not any(map(cluster.has_container, tasks)))
        if row:
            self.rows[row].append(time.perf_counter() - begin)
        for one in tasks:
            await swarm.remove(one.id)

    def _task(self) -> Task:
        self._number += 1
        task = self._cluster.task(f"b{self._number:05d}", "sleep", "1000", stop_grace_period=seconds(0))
        high, low = divmod(self._number % 60000 + 10, 250)
        address = f"10.77.{high}.{low + 2}/16"
        task.networks.append(NetworkAttachment(network_id=self._network.id, addresses=[address]))
        return task

    def _monitors(self) -> list[int]:
        groups = [group for group in self._cluster.machine.groups() if group.name == "monitors"]
        return sorted({int(one) for group in groups for one in (group / "cgroup.procs").read_text().split()})

    def _processor_time(self) -> float:
        fields = Path(f"/proc/{self._cluster.machine.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _memory(self) -> float:
        lines = Path(f"/proc/{self._cluster.machine.worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def _flota() -> dict[str, list[float]]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flota-bench-")))
        machine = Machine(directory)
        stack.callback(machine.close)
        swarm = await stack.enter_async_context(Swarm(directory, period=1.0, host=machine.gateway).serving())
        swarm.managers = [Peer(node_id="m1", address=swarm.address)]
        await swarm.node("w1")
        stack.push_async_callback(machine.end)
        bench = Bench(Cluster(swarm, machine))
        await bench.run()
        return bench.rows
    raise AssertionError("an exit stack hid an error")


def flota() -> Row:
    """This project's side."""
    rows = asyncio.run(_flota())
    with tempfile.TemporaryDirectory(prefix="flota-bench-", dir="/var/tmp") as directory:
        rows |= _unpacking(Path(directory))
    result = {row: statistics.median(values) for row, values in rows.items()}
    return result | {"unpack_ratio": result["unpack"] / result["tar"]}


def docker() -> Row:
    """The peer's."""
    install_peer()
    rows: dict[str, list[float]] = defaultdict(list)
    worker = DockerWorker()
    try:
        worker.up()
        for _ in range(SINGLES):
            with _timed(rows, "start_1"):
                started = worker.start(1)
            worker.stop(started)
        for _ in range(ROUNDS):
            with _timed(rows, "start_50"):
                started = worker.start(MANY)
            worker.stop(started)
        started = worker.start(STOPPED)
        rows["rss_100"].append(worker.rss_mib())
        rows["beside"].append(worker.beside_mib())
        with _timed(rows, "stop_100"):
            worker.stop(started)
    finally:
        worker.down()
    return {row: statistics.median(values) for row, values in rows.items()}


@contextmanager
def _timed(rows: dict[str, list[float]], row: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    rows[row].append(time.perf_counter() - begin)


def _unpacking(directory: Path) -> dict[str, list[float]]:
    """A layer of files of this machine, by us and by tar, in turn; on the disk."""
    layer = directory / "layer.tar"
    with (
        layer.open("wb") as file,
        subprocess.Popen(
            ["tar", "--sort=name", "-C", "/", "-c", *_SOURCES], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as tar,
    ):
        assert tar.stdout is not None
        left = _LAYER
        while left > 0 and (part := tar.stdout.read(min(left, 1 << 20))):
            file.write(part)
            left -= len(part)
        tar.kill()
    # Cut somewhere: whole entries only.
    whole = directory / "whole.tar"
    source = directory / "source"
    source.mkdir()
    subprocess.run(["tar", "-xf", layer, "-C", source], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["tar", "--sort=name", "-C", source, "-cf", whole, "."], check=True)
    subprocess.run(["rm", "-rf", source, layer], check=True)
    rows: dict[str, list[float]] = defaultdict(list)
    turns = [("unpack", _unpack), ("tar", _tar)]
    for _ in range(2 * ROUNDS):
        # Each is as often the first of a round as the other: what the disk still has to do of one would be the next's.
        turns.reverse()
        for row, act in turns:
            target = directory / "target"
            target.mkdir()
            subprocess.run(["sync"], check=True)
            with _timed(rows, row):
                act(whole, target)
            subprocess.run(["rm", "-rf", target], check=True)
    return rows


def _unpack(layer: Path, target: Path) -> None:
    with layer.open("rb", buffering=0) as file, (target.parent / "recipe").open("wb") as recipe:
        unpack(file, target, (), recipe)


def _tar(layer: Path, target: Path) -> None:
    subprocess.run(["tar", "-xpf", layer, "-C", target], check=True)


SIDES: dict[str, Callable[[], Row]] = {"flota": flota, "docker": docker}


def show(sides: dict[str, Row]) -> None:
    """A table for people."""
    print("| | flota | Docker | ratio | goal |\n| --- | --- | --- | --- | --- |")
    for row, (what, unit, goal) in ROWS.items():
        ours, theirs = (sides.get(side, {}).get(row) for side in SIDES)
        ratio = f"{theirs / ours:.1f}" if ours and theirs else ""
        cells = [f"{value:.3f} {unit}".strip() if value is not None else "" for value in (ours, theirs)]
        print(f"| {what} | {cells[0]} | {cells[1]} | {ratio} | {f'{goal} {unit}'.strip() if goal else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description="How quick a worker is.")
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sides: dict[str, Row] = {}
    for name, side in SIDES.items():
        if options.only in (None, name):
            note(f"{name}: measuring")
            sides[name] = side()
    if options.json:
        json.dump(sides, sys.stdout, indent=2)
        print()
    else:
        show(sides)


if __name__ == "__main__":
    main()
