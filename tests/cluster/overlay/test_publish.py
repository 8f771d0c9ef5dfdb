"""Published ports: on every node with the client's own address, in host mode on one node, nothing left. Needs root."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import PortConfig
from tests.cluster.overlay import usrsctp
from tests.cluster.overlay.clusters import Running, fixture_of
from tests.cluster.overlay.machines import Machines, Node, network, peer, removal, run, task, update
from tests.cluster.overlay.programs import ASK, ASK_UDP, HOLD, READ, SEND, SERVER
from tests.cluster.waiting import wait_until

INGRESS, APP = network(0, "ingress", ingress=True), network(1, "app")
# web.1 and web.2 are on ingress and app, and run on b and c; nothing runs on a.
WEBS = [
    task(f"web{number}", "web", number, (APP, f"10.90.1.{10 + number}/24"), (INGRESS, f"10.90.0.{10 + number}/24"))
    for number in (1, 2, 3)
]
TCP, UDP, SCTP = PortConfig.PROTOCOL_TCP, PortConfig.PROTOCOL_UDP, PortConfig.PROTOCOL_SCTP
WEB = NetworkService(
    network_id=INGRESS.id,
    service_id="svcweb",
    service_name="web",
    ports=[
        PortConfig(protocol=TCP, target_port=80, published_port=8080),
        PortConfig(protocol=UDP, target_port=53, published_port=5353),
        PortConfig(protocol=SCTP, target_port=80, published_port=9000),
    ],
)

# Beginnings of SCTP associations (RFC 9260), by hand: kernels may have no sockets for it. The checksum is CRC-32c.
SCTP_PACKETS = """
import socket, struct
def checksum(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8): value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value ^ 0xFFFFFFFF
def packet(source, target, tag, kind):
    body = struct.pack("!BBHIIHHI", kind, 0, 20, 7, 9999, 1, 1, 1)
    head = struct.pack("!HHI", source, target, tag)
    return head + struct.pack("<I", checksum(head + bytes(4) + body)) + body
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132); raw.settimeout(30)
"""
SCTP_SERVER = """
print("ready")
while True:
    data, client = raw.recvfrom(999)
    source, target, _, _, kind = struct.unpack_from("!HHIIB", data, 20)
    if kind == 1: raw.sendto(packet(target, source, 7, 2), (client[0], 0))
"""
SCTP_ASK = """
raw.sendto(packet(40000, 9000, 0, 1), ("{address}", 0))
data, server = raw.recvfrom(999)
print(server[0], *struct.unpack_from("!HHIIB", data, 20)[::4], *struct.unpack_from("!HH", data, 20))
"""
# What `make setup` fetches.
USRSCTP = Path(__file__).parents[3] / ".cache/usrsctp/libusrsctp.so"
# The bridge between the machines: a client outside of the cluster.
CLIENT = "192.0.2.254"


class Cluster(Running):
    """Three nodes that take part in the ingress network; web.1 runs on b, web.2 on c."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(machines)
        self.a, self.b, self.c = machines.nodes
        machines.apply(*map(update, (APP, INGRESS, WEB, *map(takes_part, machines.nodes))), complete=True)

    def start(self, one: Task, node: Node, port: int = 80) -> None:
        """A task runs, and is ready."""
        node.attach(one)
        name = f"{one.service_annotations.name}.{one.slot}"
        self.serve(one, node, SERVER.format(name=name, port=port))
        self.ready(one, node, True)

    def ready(self, one: Task, node: Node, ready: bool) -> None:
        self.machines.apply(*(update(peer(one, node, place, ready=ready)) for place in places(one)))

    def stop(self, one: Task, node: Node) -> None:
        """A task is gone, and everybody has been told."""
        self.kill(one)
        node.detach(one)
        self.machines.apply(*(removal(peer(one, node, place)) for place in places(one)))

    def answers(self, node: Node, count: int = 4, port: int = 8080) -> Counter[str]:
        return self.asked(node.address, count, port)


def places(one: Task) -> list[Network]:
    return [place for place in (APP, INGRESS) if any(on.network_id == place.id for on in one.networks)]


def takes_part(node: Node) -> NetworkPeer:
    """A node of the mesh, whether it has a task or not."""
    return NetworkPeer(network_id=INGRESS.id, task_id=node.node_id, node_id=node.node_id, vtep=node.address)


def ask_from(node: Node, address: str, port: int = 8080) -> str:
    return node.sh(f"{sys.executable} -c '{ASK.format(address=address, port=port, count=1)}'").strip()


cluster = fixture_of(Cluster, 3)


def test_every_node_answers_and_tasks_see_the_clients_own_address(cluster: Cluster) -> None:
    cluster.start(WEBS[0], cluster.b)
    cluster.start(WEBS[1], cluster.c)
    for node in (cluster.a, cluster.b, cluster.c):
        assert cluster.answers(node) == {f"web.1 {CLIENT}": 2, f"web.2 {CLIENT}": 2}, node.name
        [answer] = cluster.outside(ASK_UDP.format(address=node.address, port=5353))
        assert answer in {f"web.1 {CLIENT}", f"web.2 {CLIENT}"}


def test_sctp(cluster: Cluster) -> None:
    """An association begins through a node without the task, and the answer comes from where it was asked."""
    cluster.b.attach(WEBS[0])
    cluster.serve(WEBS[0], cluster.b, SCTP_PACKETS + SCTP_SERVER)
    cluster.ready(WEBS[0], cluster.b, True)
    [answer] = cluster.outside(SCTP_PACKETS + SCTP_ASK.format(address=cluster.a.address))
    who, source, kind, _, target = answer.split()
    assert (who, source, kind, target) == (cluster.a.address, "9000", "2", "40000")
    tracked = run("nsenter", f"--net={cluster.b.run_directory}/netns/net-{INGRESS.id}", "cat", "/proc/net/nf_conntrack")
    assert f"src={CLIENT} dst=10.90.0.11" in next(line for line in tracked.splitlines() if "sctp" in line)


@pytest.mark.skipif(not USRSCTP.exists(), reason="Debian's libusrsctp2 could not be fetched")
def test_sctp_associations(cluster: Cluster) -> None:
    """Whole ones, by programs that bring their own SCTP: begun, used and shut down, the client's address kept."""
    cluster.b.attach(WEBS[0])
    program = [sys.executable, str(Path(usrsctp.__file__)), str(USRSCTP)]
    netns = f"{cluster.b.run_directory}/netns/{WEBS[0].id}"
    server = subprocess.Popen(
        ["nsenter", f"--net={netns}", *program, "serve", "10.90.0.11", "80"], stdout=subprocess.PIPE, text=True
    )
    cluster.servers[WEBS[0].id] = server
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    cluster.ready(WEBS[0], cluster.b, True)
    for node in (cluster.a, cluster.b):
        client = ["ip", "netns", "exec", cluster.machines.wire, *program]
        said = run(*client, "ask", node.address, "9000", "one", "two", timeout=60).splitlines()
        assert said == [f"{CLIENT} one", f"{CLIENT} two", "True"], node.name


def test_idle_connections_are_kept_for_days(cluster: Cluster) -> None:
    """Not for 900 s, as by IPVS (moby#31208): as the entry, the way through and the task's node have it."""
    cluster.start(WEBS[0], cluster.b)
    script = (
        "import socket, sys\n"
        f"c = socket.create_connection(('{cluster.a.address}', 8080), 30); c.recv(99); print('ready', flush=True)\n"
        "for line in sys.stdin: c.sendall(b'there?'); print(c.recv(99).decode(), flush=True)\n"
    )
    with cluster.talking(script) as say:
        assert say("go on") == "there?"
        places = [f"/run/netns/{cluster.a.name}"]
        places += [f"{node.run_directory}/netns/net-{INGRESS.id}" for node in (cluster.a, cluster.b)]

        def left(place: str) -> int:
            tracked = run("nsenter", f"--net={place}", "cat", "/proc/net/nf_conntrack").splitlines()
            [seconds] = [line.split()[4] for line in tracked if "ESTABLISHED" in line and CLIENT in line]
            return int(seconds)

        # While the last data is not acknowledged, they are kept for minutes.
        for place in places:
            wait_until(lambda place=place: left(place) > 24 * 3600, f"{place} keeps it for days")


def test_a_node_reaches_published_ports_itself(cluster: Cluster) -> None:
    cluster.start(WEBS[0], cluster.b)
    for node in (cluster.a, cluster.b):
        assert ask_from(node, "127.0.0.1").startswith("web.1 169.254."), "loopback"
        assert ask_from(node, node.address) == f"web.1 {node.address}", "its own address"
        assert ask_from(node, cluster.c.address) == f"web.1 {node.address}", "another node"


def test_a_task_reaches_published_ports_of_its_node_and_others(cluster: Cluster) -> None:
    cluster.start(WEBS[0], cluster.b)
    loner = task("loner", "loner", 1, (APP, "10.90.1.50/24"))
    cluster.b.attach(loner)
    for node in (cluster.a, cluster.b):
        assert cluster.b.python(loner, ASK.format(address=node.address, port=8080, count=1)).startswith("web.1 ")


def test_a_large_answer_arrives_whole_through_a_node_without_a_task(cluster: Cluster) -> None:
    cluster.b.attach(WEBS[0])
    cluster.serve(WEBS[0], cluster.b, SEND)
    cluster.ready(WEBS[0], cluster.b, True)
    assert cluster.outside(READ.format(address=cluster.a.address)) == [str(4 << 20)]


# A client that allows no packet to be cut: it is told what fits, and what fits is answered.
DISCOVER = """
import socket
DISCOVER, DO, MTU, HEADERS = 10, 2, 14, 28
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(1); u.connect(("{address}", 5353))
u.setsockopt(socket.IPPROTO_IP, DISCOVER, DO)
first = mtu = u.getsockopt(socket.IPPROTO_IP, MTU)
for _ in range(30):
    try:
        u.send(bytes(mtu - HEADERS)); u.recv(99); break
    except OSError:
        mtu = u.getsockopt(socket.IPPROTO_IP, MTU)
print(first, mtu)
"""


def test_a_client_is_told_how_large_packets_may_be(cluster: Cluster) -> None:
    """Through a node of the task's, and one from where VXLAN takes 50 bytes of 1500: there is no black hole."""
    cluster.start(WEBS[0], cluster.b)
    for node in (cluster.a, cluster.b):
        assert cluster.outside(DISCOVER.format(address=node.address)) == ["1500 1450"], node.name


def test_one_source_port_through_several_nodes_at_a_time_is_several_connections(cluster: Cluster) -> None:
    """A load balancer in front of all nodes has many connections, and uses a port again for each node."""
    cluster.start(WEBS[0], cluster.b)
    for kind, port in (("STREAM", 8080), ("DGRAM", 5353)):
        script = (
            "import socket\n"
            "held = []\n"
            f"for address in {[node.address for node in cluster.machines.nodes]!r}:\n"
            f"    c = socket.socket(socket.AF_INET, socket.SOCK_{kind}); c.settimeout(30); held.append(c)\n"
            "    c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
            "    c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
            f"    c.bind(('', 45555)); c.connect((address, {port}))\n"
            f"    {kind == 'DGRAM'} and c.send(b'hello'); print(c.recv(99).decode().strip())\n"
            "for c in held:\n"
            "    c.send(b'there?'); print(c.recv(99).decode().strip())\n"
        )
        again = f"web.1 {CLIENT}" if kind == "DGRAM" else "there?"
        assert cluster.outside(script) == [f"web.1 {CLIENT}"] * 3 + [again] * 3


def test_a_task_is_told_of_no_shorter_way(cluster: Cluster) -> None:
    """Or it would answer a client through one node, whichever it came in by, and its other connections would hang."""
    cluster.start(WEBS[0], cluster.b)
    for node in (cluster.a, cluster.c) * 2:
        assert cluster.answers(node, 8).total() == 8
    names, counts = (line.split() for line in cluster.b.inside(WEBS[0], "grep ^Icmp: /proc/net/snmp").splitlines())
    assert dict(zip(names, counts, strict=True))["InRedirects"] == "0"


def test_only_ready_tasks_answer_and_without_one_the_answer_is_no(cluster: Cluster) -> None:
    assert cluster.answers(cluster.a) == {"ConnectionRefusedError": 4}
    cluster.start(WEBS[0], cluster.b)
    cluster.start(WEBS[1], cluster.c)
    cluster.ready(WEBS[0], cluster.b, False)
    for node in (cluster.a, cluster.b):
        assert cluster.answers(node) == {f"web.2 {CLIENT}": 4}
    cluster.ready(WEBS[1], cluster.c, False)
    assert cluster.answers(cluster.c) == {"ConnectionRefusedError": 4}
    assert cluster.outside(ASK_UDP.format(address=cluster.a.address, port=5353)) == ["ConnectionRefusedError"]


def test_who_sent_datagrams_before_there_was_anybody_is_answered_afterwards(cluster: Cluster) -> None:
    script = (
        "import socket, sys\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30)\n"
        f"u.bind(('', 45556)); u.connect(('{cluster.a.address}', 5353)); print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    try: u.send(b'hello'); print(u.recv(99).decode(), flush=True)\n"
        "    except OSError as error: print(type(error).__name__, flush=True)\n"
    )
    with cluster.talking(script) as say:
        cluster.machines.apply(removal(WEB))
        assert say("before the port is published") == "ConnectionRefusedError"
        cluster.machines.apply(update(WEB))
        assert say("before a task is ready") == "ConnectionRefusedError"
        cluster.start(WEBS[0], cluster.b)
        assert say("now") == f"web.1 {CLIENT}"


def test_no_request_fails_while_tasks_are_replaced(cluster: Cluster) -> None:
    """Start-first: the next task is ready before the last one is told to stop. Requests to all nodes meanwhile."""
    addresses = [node.address for node in cluster.machines.nodes]
    cluster.start(WEBS[0], cluster.b)
    script = (
        "import itertools, select, socket, sys, time\n"
        "print('started', flush=True); errors = []; said = set()\n"
        f"for address in itertools.cycle({addresses!r}):\n"
        "    if select.select([sys.stdin], [], [], 0.002)[0]: break\n"
        "    try: c = socket.create_connection((address, 8080), 20); said.add(c.recv(99)); c.close()\n"
        "    except OSError as error: errors.append(str(error))\n"
        "print(len(said), *errors, flush=True)\n"
    )
    with cluster.talking(script) as say:
        for old, new, before, after in ((0, 1, cluster.b, cluster.c), (1, 2, cluster.c, cluster.a)):
            cluster.start(WEBS[new], after)
            cluster.ready(WEBS[old], before, False)
            wait_until(lambda before=before, old=old: before.is_idle(WEBS[old]), "it has finished what it had")
            cluster.stop(WEBS[old], before)
        wait_until(lambda: not cluster.a.is_idle(WEBS[2]), "the last one is asked")
        assert say("enough") == "3"


def test_connections_finish_on_a_task_that_left_and_end_when_it_is_gone(cluster: Cluster) -> None:
    cluster.start(WEBS[0], cluster.b)
    cluster.start(WEBS[1], cluster.c)
    with cluster.talking(HOLD.format(address=cluster.a.address)) as say:
        cluster.ready(WEBS[0], cluster.b, False)
        assert say("web.1") == "there?", "a task that is stopping finishes what it has"
        # Cut off without a word: the connection does not hang until TCP gives up.
        cluster.b.detach(WEBS[0])
        cluster.kill(WEBS[0])
        cluster.machines.apply(*(removal(peer(WEBS[0], cluster.b, place)) for place in (APP, INGRESS)))
        assert say("web.1") == "ConnectionResetError"
        assert say("web.2") == "there?"


LAST = """
import socket
s = socket.create_server(("", 80)); print("ready"); c, _ = s.accept()
c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18); c.sendall(bytes(200000))
"""
SLOW = """
import socket, sys
c = socket.socket(); c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192); c.settimeout(20)
c.connect(("{address}", 8080)); print("connected")
sys.stdin.readline(); n = 0
try:
    while d := c.recv(1 << 16): n += len(d)
except OSError as error: print(type(error).__name__)
print(n)
"""


def test_what_a_program_said_last_arrives(cluster: Cluster) -> None:
    """It has ended, and the client is slow: most of the answer is in the kernel of the task's node yet."""
    cluster.start(WEBS[0], cluster.b)
    cluster.serve(WEBS[0], cluster.b, LAST)
    with cluster.talking(SLOW.format(address=cluster.a.address)) as say, ThreadPoolExecutor(1) as thread:
        cluster.servers[WEBS[0].id].wait(20)
        gone = thread.submit(cluster.b.detach, WEBS[0])
        assert say("go on") == "200000"
        gone.result()


def test_who_comes_late_to_a_task_that_stops_is_not_refused_but_led_to_another(cluster: Cluster) -> None:
    """A first packet that was on its way when the task left, or that was lost and is sent again."""
    cluster.start(WEBS[0], cluster.b)
    cluster.b.call("close", tasks=[WEBS[0].id])
    assert cluster.answers(cluster.a) == {f"web.1 {CLIENT}": 4}, "it takes connections for as long as it likes"
    cluster.kill(WEBS[0])
    late = subprocess.Popen(
        ["ip", "netns", "exec", cluster.machines.wire, sys.executable, "-c",
         ASK.format(address=cluster.a.address, port=8080, count=1)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        waits = ("ip", "netns", "exec", cluster.machines.wire, "ss", "-Htn", "state", "syn-sent")
        wait_until(lambda: run(*waits), "it waits for an answer")
        cluster.start(WEBS[1], cluster.c)
        cluster.b.detach(WEBS[0])
        cluster.machines.apply(*(removal(peer(WEBS[0], cluster.b, place)) for place in (APP, INGRESS)))
        assert late.communicate(timeout=30)[0] == f"web.2 {CLIENT}\n"
    finally:
        late.kill()
        late.communicate()


def host_task(number: int, published: int) -> Task:
    one = task(f"host{number}", "host", number, (APP, f"10.90.1.{30 + number}/24"))
    one.endpoint.ports.add(target_port=9000, published_port=published, publish_mode=PortConfig.PUBLISH_MODE_HOST)
    return one


def test_host_mode_answers_on_the_tasks_node_only(cluster: Cluster) -> None:
    one = host_task(1, 9090)
    cluster.start(one, cluster.b, port=9000)
    assert cluster.answers(cluster.b, port=9090) == {f"host.1 {CLIENT}": 4}
    assert ask_from(cluster.b, "127.0.0.1", 9090).startswith("host.1 ")
    assert cluster.answers(cluster.a, port=9090) == {"ConnectionRefusedError": 4}
    # The next task of the slot may come before the last one is gone, and answers then.
    following = host_task(2, 9090)
    cluster.start(following, cluster.b, port=9000)
    assert cluster.answers(cluster.b, port=9090) == {f"host.1 {CLIENT}": 4}
    cluster.stop(one, cluster.b)
    assert cluster.answers(cluster.b, port=9090) == {f"host.2 {CLIENT}": 4}
    cluster.stop(following, cluster.b)
    assert cluster.answers(cluster.b, port=9090) == {"ConnectionRefusedError": 4}


def test_a_host_port_that_was_not_chosen_is_and_one_that_is_taken_is_refused(cluster: Cluster) -> None:
    [sandbox] = cluster.b.attach(host_task(1, 0))["sandboxes"]
    assert 49152 < sandbox["ports"][0] < 65536
    server = subprocess.Popen(
        ["ip", "netns", "exec", cluster.b.name, sys.executable, "-u", "-c",
         "import socket, time; s = socket.create_server(('', 9091)); print('ready'); time.sleep(600)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        server.stdout.readline()
        refused = cluster.b.call("attach", tasks=[host_task(2, 9091).SerializeToString().hex()])
        assert refused["error"] == (
            "PortTaken: published port 9091 in host mode cannot be used: a program of this node listens there"
        )
    finally:
        server.kill()
        server.wait()
    cluster.b.attach(host_task(2, 9091))


def test_published_ports_outlive_the_worker_and_follow_again_afterwards(cluster: Cluster) -> None:
    cluster.start(WEBS[0], cluster.b)
    one = host_task(1, 9090)
    cluster.start(one, cluster.b, port=9000)
    for node in (cluster.a, cluster.b):
        node.crash()
        assert cluster.answers(node) == {f"web.1 {CLIENT}": 4}, "nobody is there to answer, and it is answered"
        node.start()
        node.call("adopt", tasks=[WEBS[0].id, one.id] if node is cluster.b else [])
        assert cluster.answers(node) == {f"web.1 {CLIENT}": 4}
    everything = [update(thing) for thing in (APP, INGRESS, WEB, *map(takes_part, cluster.machines.nodes))]
    everything += [update(peer(WEBS[0], cluster.b, place)) for place in (APP, INGRESS)]
    everything += [update(peer(one, cluster.b, APP))]
    for node in (cluster.a, cluster.b):
        node.apply(*everything, complete=True)
        assert cluster.answers(node) == {f"web.1 {CLIENT}": 4}
    assert cluster.answers(cluster.b, port=9090) == {f"host.1 {CLIENT}": 4}
    cluster.start(WEBS[1], cluster.c)
    for node in (cluster.a, cluster.b):
        assert cluster.answers(node) == {f"web.1 {CLIENT}": 2, f"web.2 {CLIENT}": 2}
    cluster.stop(one, cluster.b)
    assert cluster.answers(cluster.b, port=9090) == {"ConnectionRefusedError": 4}


def test_nothing_is_left_when_the_last_port_is_gone(cluster: Cluster) -> None:
    one = host_task(1, 9090)
    cluster.start(WEBS[0], cluster.b)
    cluster.start(one, cluster.b, port=9000)
    assert cluster.answers(cluster.b) == {f"web.1 {CLIENT}": 4}
    cluster.stop(WEBS[0], cluster.b)
    cluster.stop(one, cluster.b)
    assert cluster.answers(cluster.a) == {"ConnectionRefusedError": 4}
    cluster.machines.apply(
        removal(WEB), removal(INGRESS), *(removal(takes_part(node)) for node in cluster.machines.nodes)
    )
    for node in cluster.machines.nodes:
        assert_nothing_left(node)


def test_a_machine_that_left_the_cluster_has_nothing_of_the_mesh(cluster: Cluster) -> None:
    a = cluster.a
    a.stop()
    a.start()
    a.call("adopt", tasks=[])
    assert "flota" in a.sh("nft list ruleset"), "a restart leaves the mesh as it is"
    a.call("leave")
    assert_nothing_left(a)


def assert_nothing_left(node: Node) -> None:
    assert node.sh("nft list ruleset") == ""
    assert "fl-" not in node.sh("ip link")
    assert "::1" not in node.sh("ip -6 rule")
    assert not list((node.run_directory / "netns").iterdir())
    assert not list((node.run_directory / "overlay").iterdir())


def test_a_node_that_leaves_the_mesh_is_no_way_in_any_longer(cluster: Cluster) -> None:
    cluster.start(WEBS[0], cluster.b)
    assert cluster.answers(cluster.c) == {f"web.1 {CLIENT}": 4}
    for node in (cluster.a, cluster.b):
        node.apply(removal(takes_part(cluster.c)))
    inner = ["nsenter", f"--net={cluster.b.run_directory}/netns/net-{INGRESS.id}"]
    assert cluster.c.address not in run(*inner, "ip", "neigh")
    assert run(*inner, "ip", "rule").count("fwmark") == 1
    assert cluster.answers(cluster.a) == {f"web.1 {CLIENT}": 4}
