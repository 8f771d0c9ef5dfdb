"""A swarm whose networks are encrypted by default: keys go from node to node, tasks and published ports are reached."""

import json
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from flota.node.lab import Lab
from flota.v1.control_pb2 import ListNetworksRequest
from flota.v1.types_pb2 import TASK_STATE_RUNNING
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def swarm(make_lab: Callable[..., object]) -> Iterator[Swarm]:
    """One manager and one worker, begun and joined by hand."""
    lab: Lab = make_lab(1, 1, swarm=False)  # type: ignore[assignment]
    lab.nodes["m1"].flota("swarm", "init", "--encrypt-networks", "--dispatcher-heartbeat", "5s")
    token = lab.nodes["m1"].flota("swarm", "join-token", "-q", "worker").strip()
    lab.nodes["w1"].flota("swarm", "join", "--token", token, lab.nodes["m1"].address)
    with Swarm(lab) as swarm:
        wait_until(lambda: swarm.ready() == {"m1", "w1"}, "both are READY", 60)
        yield swarm


def test_tasks_reach_each_other(swarm: Swarm) -> None:
    m1 = swarm.lab.nodes["m1"]
    m1.flota("network", "create", "--ipv6", "secret")
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
    areas = {each["area"] for each in report}
    [reached] = [each["what"] for each in report if "reach each other" in each["what"]]
    assert reached == "tasks reach each other over 4 ways between nodes", "there and back, by both IP versions"
    assert {"m1 ↔ w1", "tunnel m1 → w1", "tunnel w1 → m1", "names of all", "network secret", "clocks"} <= areas
    # The nodes still reach each other, but WireGuard's packets do not arrive: both sides say so.
    rule = "add rule inet wall in udp dport { 51820, 51821 } drop"
    swarm.lab.nodes["w1"].exec(
        ["nft", f"add table inet wall; add chain inet wall in {{ type filter hook input priority 0; }}; {rule}"]
    )
    done = m1.exec(["flota", "network", "doctor", "--format", "json"], check=False)
    wrong = {
        (each["area"], each["what"].partition(",")[0]) for each in json.loads(done.stdout) if each["verdict"] != "ok"
    }
    assert done.returncode == 1
    assert wrong == {("network secret", "from m1"), ("network secret", "from w1")}


def test_published_ports_are_encrypted_between_nodes(swarm: Swarm) -> None:
    """m1 has no task, and passes what it is asked on to w1: through the tunnel, in packets that fit."""
    m1, w1 = swarm.lab.nodes["m1"], swarm.lab.nodes["w1"]
    plain = "udp dport 4789 counter"
    table = "add table netdev seen; add chain netdev seen in { type filter hook ingress device eth0 priority 0; }"
    w1.exec(["nft", f"{table}; add rule netdev seen in {plain}"])
    what = ("--name", "web", "--constraint", "node.hostname==w1", "--publish", "8080:80")
    m1.flota("service", "create", "--detach", *what, "busybox", "httpd", "-f", "-p", "80", "-h", "/")

    def fetched() -> int:
        try:
            with urllib.request.urlopen(f"http://{m1.address}:8080/bin/busybox", timeout=20) as answer:
                return len(answer.read())
        except OSError:
            return 0

    wait_until(lambda: fetched() > 500_000, "m1 answers for w1", 60)
    assert list(swarm.running("web")) == ["w1"]
    assert f"{plain} packets 0 " in w1.exec(["nft", "list", "table", "netdev", "seen"]).stdout

    # Networks made from now on are plain again; one that says so was plain before.
    m1.flota("network", "create", "--opt", "encrypted=false", "open")
    m1.flota("swarm", "update", "--no-encrypt-networks")
    m1.flota("network", "create", "later")
    networks = swarm.control().ListNetworks(ListNetworksRequest()).networks
    options = {one.spec.annotations.name: one.spec.driver.options.get("encrypted") for one in networks}
    assert options == {"ingress": "", "flota": "", "open": "false", "later": None}
