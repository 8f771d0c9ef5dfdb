"""IPv6: virtual addresses, published ports with the client's own address, the way out. Needs root."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import PortConfig
from tests.cluster.overlay.clusters import Running, fixture_of
from tests.cluster.overlay.machines import Machines, Node, network, peer, removal, task, update
from tests.cluster.overlay.programs import ASK, ASK_UDP, HOLD, READ, SEND, SERVER

INGRESS, APP = network(0, "ingress", ingress=True, ipv6_enabled=True), network(1, "app", ipv6_enabled=True)
HOST_PORT = PortConfig(target_port=80, published_port=9090, publish_mode=PortConfig.PUBLISH_MODE_HOST)


def web(number: int) -> Task:
    """web.1 and web.2 run on b and c, on app and ingress; nothing of them runs on a."""
    return task(
        f"web{number}",
        "web",
        number,
        (APP, f"10.90.1.{10 + number}/24", f"fd00:90:1::{10 + number}/64"),
        (INGRESS, f"10.90.0.{10 + number}/24", f"fd00:90:0::{10 + number}/64"),
    )


WEBS = [web(1), web(2)]
ASKER = task("asker", "asker", 1, (APP, "10.90.1.4/24", "fd00:90:1::4/64"))
ON_APP = NetworkService(
    network_id=APP.id,
    service_id="svcweb",
    service_name="web",
    virtual_ip="10.90.1.100/24",
    virtual_ipv6="fd00:90:1::100/64",
)
PUBLISHED = NetworkService(
    network_id=INGRESS.id,
    service_id="svcweb",
    service_name="web",
    ports=[
        PortConfig(protocol=PortConfig.PROTOCOL_TCP, target_port=80, published_port=8080),
        PortConfig(protocol=PortConfig.PROTOCOL_UDP, target_port=53, published_port=5353),
    ],
)
# The bridge between the machines: a client outside of the cluster.
# The network's way in, which stands for the node's loopback.
LOOPBACK = re.compile(r"web\.[12] fd7a:f108::")
CLIENT, CLIENT_IPV4 = "2001:db8::fe", "192.0.2.254"


class Cluster(Running):
    """web.1 on b, web.2 on c, an asker on a."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(machines)
        self.a, self.b, self.c = machines.nodes
        nodes = [NetworkPeer(network_id=INGRESS.id, task_id=node.node_id, node_id=node.node_id, vtep=node.address)
                 for node in machines.nodes]  # fmt: skip
        machines.apply(*map(update, (APP, INGRESS, ON_APP, PUBLISHED, *nodes)), complete=True)
        self.a.attach(ASKER)
        machines.apply(update(peer(ASKER, self.a, APP)))
        self.start(WEBS[0], self.b)
        self.start(WEBS[1], self.c)

    def start(self, one: Task, node: Node) -> None:
        node.attach(one)
        self.serve(one, node, SERVER.format(name=f"web.{one.slot}", port=80))
        self.machines.apply(*(update(peer(one, node, place)) for place in (APP, INGRESS)))

    def answers(self, node: Node, count: int = 4, port: int = 8080) -> Counter[str]:
        return self.asked(node.ipv6_address, count, port)


cluster = fixture_of(Cluster, 3)


def everything(cluster: Cluster, *services: NetworkService) -> Iterator[Network | NetworkPeer | NetworkService]:
    yield from (APP, INGRESS, *services, peer(ASKER, cluster.a, APP))
    for node in cluster.machines.nodes:
        yield NetworkPeer(network_id=INGRESS.id, task_id=node.node_id, node_id=node.node_id, vtep=node.address)
    for one, node in zip(WEBS, (cluster.b, cluster.c), strict=True):
        yield from (peer(one, node, place) for place in (APP, INGRESS))


def test_a_virtual_address_of_each_version_deals_connections_evenly(cluster: Cluster) -> None:
    a = cluster.a
    assert a.resolve(ASKER, "web", "AAAA") == ["fd00:90:1::100"]
    assert a.resolve(ASKER, "web") == ["10.90.1.100"]
    assert a.resolve(ASKER, "tasks.web", "AAAA") == ["fd00:90:1::11", "fd00:90:1::12"]

    def ask(address: str) -> Counter[str]:
        return Counter(a.python(ASKER, ASK.format(address=address, port=80, count=10)).splitlines())

    assert ask("fd00:90:1::100") == {"web.1 fd00:90:1::4": 5, "web.2 fd00:90:1::4": 5}
    assert ask("10.90.1.100") == {"web.1 10.90.1.4": 5, "web.2 10.90.1.4": 5}
    cluster.machines.apply(update(peer(WEBS[0], cluster.b, APP, ready=False)))
    assert ask("fd00:90:1::100") == {"web.2 fd00:90:1::4": 10}
    cluster.machines.apply(update(peer(WEBS[1], cluster.c, APP, ready=False)))
    assert ask("fd00:90:1::100") == {"ConnectionRefusedError": 10}
    cluster.machines.apply(removal(ON_APP))
    assert "fd00:90:1::100" not in a.inside(ASKER, "nft list ruleset")


def test_every_node_answers_and_tasks_see_the_clients_own_address(cluster: Cluster) -> None:
    for node in cluster.machines.nodes:
        assert cluster.answers(node) == {f"web.1 {CLIENT}": 2, f"web.2 {CLIENT}": 2}, node.name
        [answer] = cluster.outside(ASK_UDP.format(address=node.ipv6_address, port=5353))
        assert answer in {f"web.1 {CLIENT}", f"web.2 {CLIENT}"}
        [same] = cluster.outside(ASK.format(address=node.address, port=8080, count=1))
        assert same.endswith(CLIENT_IPV4), "IPv4 as ever"


def test_nodes_and_tasks_reach_published_ports(cluster: Cluster) -> None:
    for node in (cluster.a, cluster.b):
        for address in (node.ipv6_address, cluster.c.ipv6_address):
            answer = node.sh(f"{sys.executable} -c '{ASK.format(address=address, port=8080, count=1)}'").strip()
            assert answer.endswith(f" {node.ipv6_address}"), answer
        answer = node.sh(f"{sys.executable} -c '{ASK.format(address='::1', port=8080, count=1)}'").strip()
        assert LOOPBACK.match(answer), f"loopback: {answer}"
        [answer] = node.sh(f"{sys.executable} -c '{ASK_UDP.format(address='::1', port=5353)}'").splitlines()
        assert LOOPBACK.match(answer), f"loopback: {answer}"
        answer = cluster.a.python(ASKER, ASK.format(address=node.ipv6_address, port=8080, count=1))
        assert answer.startswith("web."), answer
    # A task on its own node, where every second answer is its own.
    for address in (cluster.b.address, cluster.b.ipv6_address):
        answers = cluster.b.python(WEBS[0], ASK.format(address=address, port=8080, count=4)).splitlines()
        assert Counter(answer.split()[0] for answer in answers) == {"web.1": 2, "web.2": 2}, answers


def test_a_large_answer_arrives_whole_through_a_node_without_a_task(cluster: Cluster) -> None:
    """Packets are as large as VXLAN can carry, and no larger: nothing is lost for being too big."""
    cluster.serve(WEBS[0], cluster.b, SEND)
    cluster.serve(WEBS[1], cluster.c, SEND)
    assert cluster.outside(READ.format(address=cluster.a.ipv6_address)) == [str(4 << 20)]


def test_connections_end_when_their_task_is_gone(cluster: Cluster) -> None:
    with cluster.talking(HOLD.format(address=cluster.a.ipv6_address)) as say:
        cluster.b.detach(WEBS[0])
        cluster.kill(WEBS[0])
        cluster.machines.apply(*(removal(peer(WEBS[0], cluster.b, place)) for place in (APP, INGRESS)))
        assert say("web.1") == "ConnectionResetError"
        assert say("web.2") == "there?"


def test_host_mode_answers_on_the_tasks_node_only(cluster: Cluster) -> None:
    one = task("host", "host", 1, (APP, "10.90.1.30/24", "fd00:90:1::30/64"))
    one.endpoint.ports.append(HOST_PORT)
    cluster.b.attach(one)
    cluster.serve(one, cluster.b, SERVER.format(name="host.1", port=80))
    cluster.machines.apply(update(peer(one, cluster.b, APP)))
    assert cluster.answers(cluster.b, port=9090) == {f"host.1 {CLIENT}": 4}
    assert cluster.answers(cluster.a, port=9090) == {"ConnectionRefusedError": 4}


def test_one_port_of_several_addresses_is_a_container_for_each(cluster: Cluster) -> None:
    """All on one network, where their ports must not get into each other's way; also after a restart of the worker."""
    b = cluster.b
    owners = {"127.0.0.1": 31, b.address: 32, "::1": 33, b.ipv6_address: 34}

    def container(at: str, number: int) -> Task:
        one = task(f"local{number}", "", 0, (APP, f"10.90.1.{number}/24", f"fd00:90:1::{number}/64"))
        one.service_id = ""
        one.endpoint.ports.add().CopyFrom(HOST_PORT)
        one.endpoint.ports[0].host_address = at
        return one

    containers = {at: container(at, number) for at, number in owners.items()}
    for at, one in containers.items():
        b.attach(one)
        cluster.serve(one, b, SERVER.format(name=owners[at], port=80))
    b.apply(*(update(peer(one, b, APP)) for one in containers.values()))

    def seen() -> dict[str, str]:
        script = "".join(ASK.format(address=at, port=9090, count=1) for at in owners)
        answers = b.sh(f"{sys.executable} -c '{script}'").splitlines()
        return {at: answer.split()[0] for at, answer in zip(owners, answers, strict=True)}

    each = {at: str(number) for at, number in owners.items()}
    assert seen() == each
    assert cluster.answers(b, 1, 9090) == {f"34 {CLIENT}": 1}
    assert cluster.asked(b.address, 1, 9090) == {f"32 {CLIENT_IPV4}": 1}
    for at in ("", "127.0.0.1"):
        refused = b.call("attach", tasks=[container(at, 35).SerializeToString().hex()])
        assert refused["error"].endswith("port is already allocated"), at

    b.crash()
    b.start()
    b.call("adopt", tasks=[WEBS[0].id, *(one.id for one in containers.values())])
    b.apply(*map(update, everything(cluster, ON_APP, PUBLISHED)),
            *(update(peer(one, b, APP)) for one in containers.values()), complete=True)  # fmt: skip
    assert seen() == each
    gone = containers["127.0.0.1"]
    cluster.kill(gone)
    b.detach(gone)
    b.apply(removal(peer(gone, b, APP)))
    assert seen() == each | {"127.0.0.1": "ConnectionRefusedError"}


def test_tasks_reach_the_world_with_their_nodes_address(cluster: Cluster) -> None:
    world = SERVER.format(name="world", port=80)
    server = subprocess.Popen(
        ["ip", "netns", "exec", cluster.machines.wire, sys.executable, "-u", "-c", world],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    cluster.servers["world"] = server
    assert server.stdout is not None
    server.stdout.readline()
    ask = ASK.format(address=CLIENT, port=80, count=1)
    # By its own network; and by the ingress network for a task that is on it.
    assert cluster.a.python(ASKER, ask).strip() == f"world {cluster.a.ipv6_address}"
    assert cluster.b.python(WEBS[0], ask).strip() == f"world {cluster.b.ipv6_address}"


def test_an_underlay_that_is_too_small_for_ipv6_carries_ipv4(tmp_path: Path) -> None:
    """As VPNs have it: 1280 bytes, of which VXLAN takes 50. Published ports answer there, too."""
    machines = Machines(tmp_path, 2, mtu=1280)
    running = Running(machines)
    try:
        a, b = machines.nodes
        nodes = [NetworkPeer(network_id=INGRESS.id, task_id=node.node_id, node_id=node.node_id, vtep=node.address)
                 for node in machines.nodes]  # fmt: skip
        machines.apply(*map(update, (APP, INGRESS, PUBLISHED, *nodes)), complete=True)
        a.attach(ASKER)
        b.attach(WEBS[0])
        running.serve(WEBS[0], b, SERVER.format(name="web.1", port=80))
        places = [(ASKER, a, APP), (WEBS[0], b, APP), (WEBS[0], b, INGRESS)]
        machines.apply(*(update(peer(*place)) for place in places))
        assert a.pings(ASKER, "10.90.1.11")
        assert "mtu 1230" in a.inside(ASKER, "ip link show eth0")
        assert running.asked(a.address, 2) == {f"web.1 {CLIENT_IPV4}": 2}
    finally:
        running.close()
        machines.close()


def test_a_node_goes_on_listening_to_its_router(tmp_path: Path) -> None:
    """The kernel would forget the default route that routers tell of, as soon as it forwards."""
    machines = Machines(tmp_path, 1)
    try:
        [a] = machines.nodes
        assert a.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra") == "1\n"
        a.apply(update(APP), complete=True)
        a.attach(ASKER)
        assert a.sh("cat /proc/sys/net/ipv6/conf/all/forwarding") == "1\n"
        assert a.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra") == "2\n"
    finally:
        machines.close()


def test_all_of_it_outlives_the_worker_and_follows_again_afterwards(cluster: Cluster) -> None:
    cluster.a.crash()
    cluster.b.crash()
    assert cluster.answers(cluster.a) == {f"web.1 {CLIENT}": 2, f"web.2 {CLIENT}": 2}
    for node, tasks in ((cluster.a, [ASKER.id]), (cluster.b, [WEBS[0].id])):
        node.start()
        assert node.call("adopt", tasks=tasks) == {}
        node.apply(*map(update, everything(cluster, ON_APP, PUBLISHED)), complete=True)
    assert cluster.answers(cluster.a) == {f"web.1 {CLIENT}": 2, f"web.2 {CLIENT}": 2}
    cluster.machines.apply(*(update(peer(WEBS[1], cluster.c, place, ready=False)) for place in (APP, INGRESS)))
    assert cluster.answers(cluster.a) == {f"web.1 {CLIENT}": 4}
    lines = cluster.a.python(ASKER, ASK.format(address="fd00:90:1::100", port=80, count=3)).splitlines()
    assert lines == ["web.1 fd00:90:1::4"] * 3
    cluster.machines.apply(removal(PUBLISHED))
    assert cluster.answers(cluster.a) == {"ConnectionRefusedError": 4}
