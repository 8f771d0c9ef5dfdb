"""What a node has that tasks could leave behind."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.cluster.worker.machine import Cluster, eventually, run


async def cluster_is_empty(cluster: Cluster) -> None:
    """Until nothing of any task is there."""
    for task in list(cluster.swarm.store.tasks):
        await cluster.swarm.remove(task.id)
    run = Path(f"/proc/{cluster.machine.pid}/root{cluster.machine.run_directory}")
    await eventually(lambda: not os.listdir(run / "tasks") and not os.listdir(cluster.machine.state / "tasks"))


def left(cluster: Cluster) -> dict[str, object]:
    """What could leak."""
    machine = cluster.machine
    inside = Path(f"/proc/{machine.pid}/root")
    place = inside / str(machine.run_directory).lstrip("/")
    namespaces = sorted(os.listdir(place / "netns"))
    own = os.readlink(f"/proc/{machine.pid}/ns/mnt")
    return {
        "mounts": Path(f"/proc/{machine.pid}/mountinfo").read_text().count(str(machine.directory)),
        "namespaces": namespaces,
        "interfaces": [
            interfaces(cluster),
            *(interfaces(cluster, f"{machine.run_directory}/netns/{name}") for name in namespaces),
        ],
        "rules": len(run(*machine.entering("nft", "list", "ruleset")).splitlines()),
        "groups": [str(group) for group in machine.groups()],
        "processes": sorted(name for name, namespace in processes() if namespace == own),
        "files": sorted(
            re.sub("[0-9a-z]{25}", "ID", os.path.join(where, name))
            for top in (place, machine.state)
            for where, directories, files in os.walk(top)
            if "images" not in Path(where).parts
            for name in (*directories, *files)
        ),
        # A connection or a thread more is no leak; one for each task is.
        "descriptors": len(os.listdir(f"/proc/{machine.worker}/fd")) > 100,
        "threads": len(os.listdir(f"/proc/{machine.worker}/task")) > 60,
    }


def interfaces(cluster: Cluster, namespace: str = "/proc/self/ns/net") -> list[str]:
    """The names of a network namespace's interfaces; by itself the machine's."""
    shown = run(*cluster.machine.entering("nsenter", f"--net={namespace}", "ip", "-o", "link"))
    return [line.split()[1] for line in shown.splitlines()]


def processes() -> Iterator[tuple[str, str]]:
    """Every process' name and mount namespace."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (entry / "comm").read_text().strip(), os.readlink(entry / "ns/mnt")
