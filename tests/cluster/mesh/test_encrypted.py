"""An encrypted network of a whole swarm, with IPv6: keys go from node to node, tasks reach each other."""

import json
import sys
from collections.abc import Callable, Iterator

import pytest

from flota.v1.types_pb2 import TASK_STATE_RUNNING
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until


@pytest.fixture
def swarm(make_lab: Callable[..., object]) -> Iterator[Swarm]:
    """One manager and one worker."""
    with Swarm(make_lab(1, 1)) as swarm:  # type: ignore[arg-type]
        yield swarm


def test_tasks_reach_each_other(swarm: Swarm) -> None:
    m1 = swarm.lab.nodes["m1"]
    m1.flota("network", "create", "--ipv6", "--opt", "encrypted", "secret")
    what = ("--name", "all", "--network", "secret", "--mode", "global", "busybox", "sleep", "9999")
    m1.flota("service", "create", "--detach", *what)
    wait_until(lambda: swarm.running("all").total() == 2, "both run", 60)
    nodes = {node.id: name for name, node in swarm.nodes().items()}
    tasks = {nodes[task.node_id]: task for task in swarm.tasks("all") if task.status.state == TASK_STATE_RUNNING}
    addresses = [address.partition("/")[0] for address in tasks["w1"].networks[0].addresses]
    assert [":" in address for address in addresses] == [False, True]

    def inside(*command: str) -> str:
        netns = f"/run/flota/netns/{tasks['m1'].id}"
        return m1.exec(["nsenter", f"--net={netns}", *command], check=False).stdout

    for address in addresses:
        wait_until(lambda address=address: "1 packets received" in inside("busybox", "ping", "-c1", "-W2", address),
                   f"{address} answers", 60)  # fmt: skip
    ask = "import sys; from dnslib import DNSRecord\n" \
          "r = DNSRecord.parse(DNSRecord.question('tasks.all', 'AAAA').send('127.0.0.11', 53))\n" \
          "print(*(x.rdata for x in r.rr))"  # fmt: skip
    assert addresses[1] in inside(sys.executable, "-c", ask).split()

    # Nothing of it goes another way: the tunnel carried it.
    dump = m1.exec(["nsenter", "--net=/run/flota/tunnels/netns", "wg", "show", "all", "dump"]).stdout
    [peer] = [line.split("\t") for line in dump.splitlines() if line.count("\t") == 8]
    handshake, received = peer[5:7]
    assert int(handshake) > 0
    assert int(received) > 0
    [shown] = json.loads(m1.flota("node", "inspect", "w1"))
    assert shown["Description"]["WireGuard"] in ("kernel", "wireguard-go")
    report = json.loads(m1.flota("network", "doctor", "--format", "json"))
    assert {each["verdict"] for each in report} == {"ok"}
    assert {"way to w1", "tunnel to w1", "names of all"} <= {each["area"] for each in report}
