"""Names after a partition: when it heals, nothing that was asked for before or meanwhile stays wrong (moby#53141).

A node is cut off long enough to be DOWN. Its tasks go elsewhere, others come and go, one of them keeps asking all the
time, as a program with an impatient resolver does. After the cut every name leads to who has it now, on every node.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from flota.node.lab import LabNode
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NODE_STATE_DOWN, TASK_STATE_RUNNING
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

# Asks names of a task's DNS server; one line of JSON: name → addresses, or the code of the answer.
ASK = """
import json, sys
from dnslib import DNSRecord, RCODE
found = {}
for name in sys.argv[1:]:
    r = DNSRecord.parse(DNSRecord.question(name).send("127.0.0.11", 53, timeout=5))
    found[name] = sorted(str(one.rdata) for one in r.rr) or RCODE[r.header.rcode]
print(json.dumps(found))
"""


@pytest.fixture
def swarm(make_lab: Callable[..., object]) -> Iterator[Swarm]:
    """One manager and two workers."""
    with Swarm(make_lab(1, 2, heartbeat=2.0)) as swarm:  # type: ignore[arg-type]
        yield swarm


def ask(node: LabNode, task: Task, *names: str) -> dict[str, list[str] | str]:
    command = ["nsenter", f"--net=/run/flota/netns/{task.id}", sys.executable, "-c", ASK, *names]
    found: dict[str, list[str] | str] = json.loads(node.exec(command).stdout)
    return found


def addresses(swarm: Swarm, service: str) -> list[str]:
    """Of the tasks that run, on the network `back`."""
    tasks = [task for task in swarm.tasks(service) if task.status.state == TASK_STATE_RUNNING]
    return sorted(task.networks[0].addresses[0].partition("/")[0] for task in tasks)


@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.soak)])
def test_no_name_stays_wrong(swarm: Swarm, seconds: int) -> None:
    lab, m1 = swarm.lab, swarm.lab.nodes["m1"]
    m1.flota("network", "create", "back")

    def create(name: str, *flags: str) -> None:
        m1.flota(
            "service", "create", "--detach", "--name", name, "--network", "back", *flags, "busybox", "sleep", "9999"
        )

    create("watcher", "--mode", "global")
    create("web", "--replicas", "4", "--endpoint-mode", "dnsrr")
    create("old")
    wait_until(lambda: len(addresses(swarm, "web")) == 4 and len(addresses(swarm, "watcher")) == 3, "all run", 60)
    nodes = swarm.nodes()
    on = {
        name: next(task for task in swarm.tasks("watcher") if task.node_id == node.id) for name, node in nodes.items()
    }
    for name, task in on.items():
        wait_until(
            lambda name=name, task=task: ask(lab.nodes[name], task, "web")["web"] == addresses(swarm, "web"),
            f"{name} knows web", 30,
        )  # fmt: skip

    lab.partition(["w2"], ["m1", "w1"])
    # A program on the node that is cut off asks for everything, now and then, as long as it lasts.
    asking = subprocess.Popen(
        ["nsenter", "-t", str(lab.nodes["w2"].pid), "-m", "nsenter", f"--net=/run/flota/netns/{on['w2'].id}",
         sys.executable, "-c", "import socket\nwhile True:\n for n in ('web', 'new', 'old', 'tasks.web'):\n"
         "  try: socket.getaddrinfo(n, 80)\n  except OSError: pass"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        cut = time.monotonic()
        wait_until(lambda: swarm.nodes()["w2"].status.state == NODE_STATE_DOWN, "w2 is DOWN", 60)
        create("new", "--endpoint-mode", "dnsrr")
        m1.flota("service", "rm", "old")
        m1.flota("service", "scale", "--detach", "web=6")
        wait_until(lambda: len(addresses(swarm, "web")) == 6 and addresses(swarm, "new"), "w1 and m1 run it all", 60)
        # While it lasts the node answers from what it knew: wrong perhaps, but not NXDOMAIN for what it knew.
        assert ask(lab.nodes["w2"], on["w2"], "web")["web"] != "NXDOMAIN"
        time.sleep(max(0.0, seconds - (time.monotonic() - cut)))
    finally:
        lab.heal()
        asking.kill()
        asking.wait()

    wait_until(lambda: swarm.ready() == {"m1", "w1", "w2"}, "w2 is back", 60)
    wait_until(lambda: len(addresses(swarm, "watcher")) == 3, "it has a watcher", 60)
    for name, node in swarm.nodes().items():
        task = next(one for one in swarm.tasks("watcher") if one.node_id == node.id)

        def is_right(name: str = name, task: Task = task) -> bool:
            found = ask(lab.nodes[name], task, "web", "tasks.web", "new", "old")
            web, new = addresses(swarm, "web"), addresses(swarm, "new")
            return found == {"web": web, "tasks.web": web, "new": new, "old": "NXDOMAIN"}

        wait_until(is_right, f"every name is right on {name}", 60)
