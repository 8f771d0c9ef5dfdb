"""The store's part of bench/raft.py, in a process of its own: `python -m bench.raft_store` prints rows as JSON."""

import asyncio
import gc
import json
import statistics
import time
from collections import deque
from collections.abc import Iterator

import uvloop

from bench.store_objects import node, service, task
from flota.manager.store import LocalProposer, Store, Transaction
from flota.v1.objects_pb2 import Task
from flota.v1.store_pb2 import Object, StoreAction, StoreTransaction
from flota.v1.types_pb2 import TaskState

TASKS, SERVICES, NODES = 100_000, 5_000, 2_000
SNAPSHOT_TASKS = 50_000
TASKS_IN_LOG = 2_000
_BATCH = 200


def resident_mib() -> float:
    """Resident memory of this process."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def transactions(first: int) -> Iterator[list[bytes]]:
    """Entries as a busy cluster makes them, from index `first` on, some at a time: status updates of 20 tasks each."""
    groups, size = TASKS_IN_LOG // 20, 20
    versions = [0] * groups
    index = first
    while True:
        batch = []
        for _ in range(32):
            group = index % groups
            entry = StoreTransaction()
            for number in range(group * size, (group + 1) * size):
                thing = task(number)
                thing.meta.version.index = versions[group]
                kind = StoreAction.KIND_UPDATE if versions[group] else StoreAction.KIND_CREATE
                entry.actions.append(StoreAction(kind=kind, object=Object(task=thing)))
            batch.append(entry.SerializeToString())
            versions[group] = index
            index += 1
        yield batch


async def fill(store: Store, tasks: int, services: int, nodes: int) -> None:
    """Put a large cluster into a store."""
    for make, count in ((node, nodes), (service, services), (lambda n: task(n, services, nodes), tasks)):
        for first in range(0, count, _BATCH):

            def change(tx: Transaction, first: int = first, count: int = count, make=make) -> None:  # type: ignore[no-untyped-def]
                for number in range(first, min(first + _BATCH, count)):
                    tx.create(make(number))

            await store.update(change)


async def measure() -> dict[str, float]:
    # As flota.manager does.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    before = resident_mib()
    store = Store()
    LocalProposer(store)
    await fill(store, TASKS, SERVICES, NODES)
    rows = {"store_mib": resident_mib() - before}
    lists = []
    for number in range(1000):
        begun = time.thread_time()
        found = store.tasks.by("service", f"serv{number:021d}")
        lists.append(time.thread_time() - begun)
        assert len(found) == TASKS // SERVICES
    rows["store_list_ms"] = statistics.quantiles(lists, n=100)[98] * 1000
    changes = []
    for number in range(50):

        def change(tx: Transaction, number: int = number) -> None:
            for of in range(number * 200, number * 200 + 200):
                stored = tx.tasks.get(f"task{of:021d}")
                assert stored is not None
                changed = Task()
                changed.CopyFrom(stored)
                changed.status.state = TaskState.TASK_STATE_SHUTDOWN
                tx.update(changed)

        # Time of this thread: nothing here waits, and what else the machine does is not the question.
        begun = time.thread_time()
        await store.update(change)
        changes.append(time.thread_time() - begun)
    rows["store_tx_ms"] = statistics.median(changes) * 1000
    del store
    smaller = Store()
    LocalProposer(smaller)
    await fill(smaller, SNAPSHOT_TASKS, SERVICES, NODES)
    rows["snapshot_pause_ms"] = await snapshot_pause(smaller) * 1000
    return rows


async def snapshot_pause(store: Store) -> float:
    """The longest that the event loop is away while a snapshot is taken and written out in a thread, in seconds."""
    longest = 0.0
    last = time.perf_counter()

    async def look() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last - 0.001), now

    looking = asyncio.create_task(look())
    await asyncio.sleep(0.05)
    longest = 0.0
    write = store.snapshot()
    await asyncio.to_thread(lambda: deque(write(), maxlen=0))
    await asyncio.sleep(0.02)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    return longest


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure())))
