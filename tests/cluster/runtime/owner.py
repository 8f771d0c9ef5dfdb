"""A process that owns a Runtime: makes the containers it is told to, says so, and waits to be killed.

Arguments: directory, cgroup parent, then one shell line per container (ids given by World); `create:` before a line
leaves the container created.
"""

import asyncio
import sys
from pathlib import Path

from tests.cluster.runtime.world import World


async def main(directory: Path, cgroup_parent: str, lines: list[str]) -> None:
    world = World(directory, cgroup_parent, made=True)
    runtime = world.runtime()
    await runtime.start()
    for line in lines:
        container = world.container("/bin/sh", "-c", line.removeprefix("create:"))
        await runtime.create(container)
        pid = 0 if line.startswith("create:") else (await runtime.launch(container.id)).pid
        print(container.id, pid, flush=True)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
