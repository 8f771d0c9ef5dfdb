"""How long a task that died is still led to: `python -m bench.withdrawal`.

A lab of three nodes, a service with three tasks, and on each node somebody who looks without a pause: what tasks.web
leads to by DNS, which tasks are behind web's virtual address, which behind its published port. Again and again a task
is killed; what counts is the time from when its own node saw it end (the task's status) until the last of the three
nodes leads there no longer. The looking costs processor time too: on a small machine it is part of what is measured.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from flota.node.lab import Lab, LabNode
from flota.v1.control_pb2 import GetTaskRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import TASK_STATE_RUNNING
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

GOAL_MS = 200.0
REPLICAS = 3
_ADDRESS = re.compile(r"\d+(?:\.\d+){3}")
# Seconds between two looks.
_PAUSE = 0.002


def look_dns() -> set[str]:
    """What the task's DNS server says of tasks.web."""
    from dnslib import DNSRecord

    answer = DNSRecord.parse(DNSRecord.question("tasks.web").send("127.0.0.11", 53, timeout=2))
    return {str(record.rdata) for record in answer.rr}


def look_nft(table: str) -> set[str]:
    """Addresses that a table of this namespace leads to."""
    from flota.overlay import libnftables

    rules = libnftables.load(f"list table {table}").splitlines()
    return {address for line in rules if "dnat" in line for address in _ADDRESS.findall(line)}


LOOKS: dict[str, Callable[[], set[str]]] = {
    "name": look_dns,
    "virtual address": lambda: look_nft("ip flota"),
    "published port": lambda: look_nft("inet flota"),
}


def watch(what: str) -> None:
    """In a namespace: a line for each change of what is seen."""
    seen: set[str] | None = None
    while True:
        try:
            now = LOOKS[what]()
        except OSError:
            continue
        if now != seen:
            seen = now
            print(json.dumps([time.time(), sorted(now)]), flush=True)
        time.sleep(_PAUSE)


class Watcher:
    """One who looks at one thing on one node."""

    def __init__(self, node: LabNode, netns: str, what: str) -> None:
        self.what = what
        self.seen: list[tuple[float, set[str]]] = []
        # (Not its mount namespace: libnftables needs a /proc that knows this process.)
        enter = ["nsenter", f"--net={node.run_directory}/flota/netns/{netns}"]
        self._process = subprocess.Popen(
            [*enter, sys.executable, "-m", "bench.withdrawal", "--watch", what],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at, addresses = json.loads(line)
            self.seen.append((at, set(addresses)))

    def leads_to(self, addresses: set[str]) -> bool:
        """Whether it sees one of these now."""
        return bool(self.seen and self.seen[-1][1] & addresses)

    def left(self, addresses: set[str]) -> float:
        """Since when it sees none of them."""
        at = self.seen[-1][0]
        for since, seen in reversed(self.seen):
            if seen & addresses:
                break
            at = since
        return at

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._reader.join()


def addresses_of(task: Task) -> set[str]:
    return {address.partition("/")[0] for one in task.networks for address in one.addresses}


@contextmanager
def watchers(swarm: Swarm) -> Iterator[list[Watcher]]:
    """On every node one for each thing to see."""
    nodes = {node.id: swarm.lab.nodes[name] for name, node in swarm.nodes().items()}
    [ingress] = json.loads(swarm.lab.nodes["m1"].flota("network", "inspect", "ingress"))
    with ExitStack() as stack:
        made = []
        for task in swarm.tasks("asker"):
            for what, netns in (
                ("name", task.id), ("virtual address", task.id), ("published port", f"net-{ingress['Id']}")
            ):  # fmt: skip
                made.append(Watcher(nodes[task.node_id], netns, what))
                stack.callback(made[-1].close)
        yield made


def rounds(swarm: Swarm, looking: list[Watcher], count: int) -> Iterator[dict[str, float]]:
    """Kill a task; what took how many milliseconds on the node that was last."""
    m1 = swarm.lab.nodes["m1"]
    for number in range(count):
        running = [task for task in swarm.tasks("web") if task.status.state == TASK_STATE_RUNNING]
        assert len(running) == REPLICAS
        for task in running:
            there = addresses_of(task)
            wait_until(lambda there=there: all(one.leads_to(there) for one in looking), "all lead to all tasks", 60)  # type: ignore[misc]
        victim = running[number % REPLICAS]
        gone = addresses_of(victim)
        m1.flota("task", "kill", "-s", "KILL", victim.id)
        wait_until(lambda gone=gone: not any(one.leads_to(gone) for one in looking), "nobody leads there", 60)  # type: ignore[misc]
        ended = swarm.control().GetTask(GetTaskRequest(task_id=victim.id), timeout=10).task.status
        begun = ended.timestamp.ToNanoseconds() / 1e9
        yield {what: max(one.left(gone) - begun for one in looking if one.what == what) * 1e3 for what in LOOKS}
        wait_until(lambda: swarm.running("web").total() == REPLICAS, "the next one runs", 60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--watch", choices=LOOKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.watch)
    lab = Lab.up(f"b{os.getpid()}", managers=1, workers=2)
    try:
        with Swarm(lab) as swarm:
            m1 = lab.nodes["m1"]
            m1.flota("network", "create", "back")
            what = ("service", "create", "--detach", "--network", "back")
            m1.flota(*what, "--name", "asker", "--mode", "global", "busybox", "sleep", "99999")
            m1.flota(*what, "--name", "web", "--replicas", str(REPLICAS), "--publish", "8080:80",
                     "--restart-delay", "1s", "busybox", "sleep", "99999")  # fmt: skip
            wait_until(lambda: swarm.running("web").total() == swarm.running("asker").total() == 3, "all run", 60)
            with watchers(swarm) as looking:
                found = list(rounds(swarm, looking, options.rounds))
    finally:
        lab.down()
    print(
        f"load {os.getloadavg()[0]:.1f}, {len(found)} tasks killed; until none of three nodes leads there any longer:"
    )
    for kind in LOOKS:
        times = sorted(one[kind] for one in found)
        within = sum(one <= GOAL_MS for one in times)
        print(
            f"{kind:16} median {statistics.median(times):4.0f} ms, worst {times[-1]:4.0f} ms, "
            f"{within} of {len(times)} within {GOAL_MS:.0f} ms"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
