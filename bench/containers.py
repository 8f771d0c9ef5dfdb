"""How quick containers are made: `python -m bench.containers [--json] [--at-once 50] [--rounds 3]`. Needs root.

Rows: one container from `create` to started (median), many at once, their removal by SIGKILL, a command in a running
container, and the processor time of one container's whole life, conmon and crun included. In a mount namespace of its
own; nothing is left behind.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.runtime.world import World, private_mounts

SINGLES = 20
COMMANDS = 10
PAUSE = 0.15


def processor_time() -> float:
    """Seconds of this process and of all that have ended below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


async def measure(directory: Path, at_once: int, rounds: int) -> dict[str, float]:
    """Seconds per row."""
    world = World(directory, f"/bench-{os.getpid()}")
    runtime = world.runtime()
    await runtime.start()

    async def start() -> str:
        container = world.container("sleep", "1000")
        await runtime.create(container)
        await runtime.launch(container.id)
        return container.id

    rows: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(row: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        rows[row].append(time.perf_counter() - begun)

    for _ in range(SINGLES):
        # One that comes after a while: the kernel has gone back to rest.
        await asyncio.sleep(PAUSE)
        with timed("one started"):
            one = await start()
        await runtime.remove(one)
    for _ in range(rounds):
        used = processor_time()
        with timed(f"{at_once} started"):
            started = await asyncio.gather(*(start() for _ in range(at_once)))
        for container_id in started[:COMMANDS]:
            with timed("command in one"):
                await runtime.execute(container_id, ["/bin/true"], limit=10)
        with timed(f"{at_once} removed"):
            await asyncio.gather(*map(runtime.remove, started))
        rows["processor time of one"].append((processor_time() - used) / at_once)
    await runtime.stop()
    world.close()
    return {row: statistics.median(values) for row, values in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-containers-") as directory, private_mounts():
        rows = asyncio.run(measure(Path(directory), options.at_once, options.rounds))
    if options.json:
        print(json.dumps(rows))
        return
    for row, seconds in rows.items():
        print(f"{row:24}{seconds * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
