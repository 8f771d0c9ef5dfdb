"""Networks across two nodes: reachability, names, isolation, withdrawal, restarts. Needs root."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Network, Task
from tests.cluster.overlay.machines import Machines, Node, network, peer, removal, run, task, update
from tests.cluster.waiting import wait_until

APP, OTHER = network(1, "app"), network(2, "other")
WEB = task("web1", "web", 1, (APP, "10.90.1.5/24"))
DB = task("db1", "db", 1, (APP, "10.90.1.6/24"))
LONER = task("loner", "loner", 1, (OTHER, "10.90.2.7/24"))

ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 8080))
print("ready")
while True:
    connection, (address, _) = server.accept()
    connection.sendall(f"{socket.gethostname()} {address}".encode())
    connection.close()
"""
FETCH = "import socket; c = socket.create_connection(({!r}, 8080), 30); print(c.recv(99).decode().split()[1])"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    built = Machines(tmp_path, 2)
    try:
        yield built
    finally:
        built.close()


@pytest.fixture
def nodes(machines: Machines) -> list[Node]:
    return machines.nodes


def everything(a: Node, b: Node) -> list[AssignmentChange]:
    """WEB on a, DB on b, LONER on b."""
    peers = [peer(WEB, a, APP), peer(DB, b, APP, aliases=["storage"]), peer(LONER, b, OTHER)]
    return [update(APP), update(OTHER), *map(update, peers)]


def inner(node: Node, place: Network, command: str) -> str:
    """A command in a network's own namespace."""
    return run("nsenter", f"--net={node.run_directory}/netns/net-{place.id}", "sh", "-c", command)


def test_tasks_reach_each_other_across_nodes_by_address_and_by_name(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)

    assert a.pings(WEB, "10.90.1.6")
    assert b.pings(DB, "web")
    server = b.background(DB, ECHO)
    try:
        # By name, over TCP, and the server sees the asking task's own address.
        for name in ("db", "storage", "tasks.db", "db.1", "db.app"):
            assert a.python(WEB, FETCH.format(name)).strip() == "10.90.1.5"
    finally:
        server.kill()
        server.wait()
    # Full-sized packets that must not be fragmented arrive: 1450 bytes of IP within 1500 bytes of underlay.
    a.inside(WEB, "ip link show eth0 | grep -q 'mtu 1450'")
    assert a.inside(WEB, "busybox ping -c 1 -W 1 -s 1422 10.90.1.6 >/dev/null && echo ok").strip() == "ok"


def test_what_crosses_a_bridge_is_not_tracked_there(machines: Machines, nodes: list[Node]) -> None:
    """Whatever the machine has its bridges do: rules and connection tracking cost each packet its time."""
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)
    wait_until(lambda: a.pings(WEB, "10.90.1.6"), "they reach each other")
    for node in nodes:
        assert inner(node, APP, "cat /proc/sys/net/netfilter/nf_conntrack_count").strip() == "0"


def test_a_bulk_transfer_crosses_the_nodes_whole(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)
    sink = b.background(
        DB,
        "import socket, hashlib\n"
        "server = socket.create_server(('', 9000)); print('ready')\n"
        "c, _ = server.accept(); h = hashlib.sha256()\n"
        "while d := c.recv(65536): h.update(d)\n"
        "c.sendall(h.digest()); c.close()\n",
    )
    try:
        answer = a.python(
            WEB,
            "import socket, hashlib, os\n"
            "d = os.urandom(8 << 20); c = socket.create_connection(('db', 9000), 30); c.settimeout(30)\n"
            "c.sendall(d); c.shutdown(1)\n"
            "print(c.recv(99) == hashlib.sha256(d).digest())\n",
        )
    finally:
        sink.kill()
        sink.wait()
    assert answer.strip() == "True"


def test_networks_are_apart(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB, LONER)

    # Not across nodes, and not on one node, neither by address nor by name.
    for node, asker in ((a, WEB), (b, DB)):
        assert not node.pings(asker, "10.90.2.7")
        assert node.resolve(asker, "loner") == ["NXDOMAIN"]
        assert node.resolve(asker, "7.2.90.10.in-addr.arpa", "PTR") != ["loner"]
    assert b.resolve(LONER, "db") == ["NXDOMAIN"]
    # A route by hand does not help either.
    b.inside(DB, "ip route add 10.90.2.0/24 via 10.90.1.1")
    assert not b.pings(DB, "10.90.2.7")
    # But both get out of the overlay, under their node's address.
    assert b.pings(DB, "192.0.2.254")
    assert b.pings(LONER, "192.0.2.254")


def test_an_internal_network_has_no_way_out(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    closed = network(3, "closed", internal=True)
    first = task("first", "first", 1, (closed, "10.90.3.5/24"))
    second = task("second", "second", 1, (closed, "10.90.3.6/24"))
    machines.apply(update(closed), update(peer(first, a, closed)), update(peer(second, b, closed)), complete=True)
    a.attach(first)
    b.attach(second)
    assert a.pings(first, "second")
    assert not a.pings(first, "192.0.2.254")
    assert "fl-" not in a.sh("ip -br link")
    # Nor as a question about a name, which the node could pass on: neither now nor after a restart of the worker.
    resolver = machines.resolver(a, {"www.example.org": "203.0.113.7"})
    try:
        a.resolv_conf.write_text("nameserver 127.0.0.1\n")
        assert a.resolve(first, "www.example.org") == ["SERVFAIL"]
        assert a.resolve(first, "nobody") == ["NXDOMAIN"]
        a.crash()
        a.start()
        a.call("adopt", tasks=[first.id])
        assert a.resolve(first, "www.example.org") == ["SERVFAIL"]
    finally:
        resolver.kill()
        resolver.communicate()


def test_a_tasks_own_name_server_may_be_another_task(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    asker = task("asker", "asker", 1, (APP, "10.90.1.7/24"))
    asker.spec.container.dns.nameservers.append("10.90.1.6")
    machines.apply(*everything(a, b), update(peer(asker, a, APP)), complete=True)
    a.attach(asker)
    b.attach(DB)
    serving = b.background(DB, machines.resolver_script({"www.example.org": "203.0.113.7"}))
    try:
        for tcp in (False, True):
            assert a.resolve(asker, "www.example.org", tcp=tcp) == ["203.0.113.7"]
        assert a.resolve(asker, "db") == ["10.90.1.6"]
    finally:
        serving.kill()
        serving.communicate()


def test_a_withdrawn_peer_is_gone_from_names_and_tables(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)
    assert a.pings(WEB, "db")

    a.apply(update(peer(DB, b, APP, ready=False)))
    assert a.resolve(WEB, "db") == []
    assert a.pings(WEB, "10.90.1.6")
    a.apply(removal(peer(DB, b, APP)))
    assert a.resolve(WEB, "db") == ["NXDOMAIN"]
    assert not a.pings(WEB, "10.90.1.6")
    assert "192.0.2.2" not in inner(a, APP, "bridge fdb; ip neigh")
    assert "02:42:0a:5a:01:06" not in inner(a, APP, "bridge fdb; ip neigh show nud permanent")

    # And it comes back.
    a.apply(update(peer(DB, b, APP)))
    assert a.pings(WEB, "db")


def test_an_address_that_moves_to_another_node_is_followed(tmp_path: Path) -> None:
    machines = Machines(tmp_path, 3)
    try:
        a, b, c = machines.nodes
        heir = task("db2", "db", 1, (APP, "10.90.1.6/24"))
        machines.apply(*everything(a, b), complete=True)
        a.attach(WEB)
        b.attach(DB)
        assert a.pings(WEB, "10.90.1.6")
        b.detach(DB)
        c.attach(heir)
        machines.apply(update(peer(DB, b, APP, ready=False)), update(peer(heir, c, APP)))
        assert a.pings(WEB, "10.90.1.6")
        machines.apply(removal(peer(DB, b, APP)))
        assert a.pings(WEB, "10.90.1.6")
        # Even to the node that asks.
        c.detach(heir)
        a.attach(heir)
        machines.apply(update(peer(heir, a, APP)))
        assert a.pings(WEB, "10.90.1.6")
    finally:
        machines.close()


def test_a_complete_set_replaces_everything(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)
    assert a.pings(WEB, "db")
    a.apply(update(APP), update(peer(WEB, a, APP)), complete=True)
    assert a.resolve(WEB, "db") == ["NXDOMAIN"]
    assert "192.0.2.2" not in inner(a, APP, "bridge fdb")


def test_a_worker_that_crashed_takes_its_tasks_over(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    stale = task("stale", "stale", 1, (APP, "10.90.1.9/24"), (OTHER, "10.90.2.9/24"))
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB, stale)
    b.attach(DB)
    server = b.background(DB, ECHO)
    try:
        a.crash()
        # Containers go on without the worker; only names wait for it.
        assert a.pings(WEB, "10.90.1.6")
        a.start()
        a.call("adopt", tasks=[WEB.id])
        assert a.pings(WEB, "10.90.1.6")
        # It does not pretend to know, as long as no manager has spoken.
        assert a.resolve(WEB, "db") == ["SERVFAIL"]
        # DB moved its name while nobody listened: what the complete set does not have must go.
        a.apply(update(APP), update(peer(WEB, a, APP)), complete=True)
        assert not a.pings(WEB, "10.90.1.6")
        a.apply(*everything(a, b), complete=True)
        assert a.python(WEB, FETCH.format("db")).strip() == "10.90.1.5"
    finally:
        server.kill()
        server.wait()
    # What was not adopted is gone, and so is the network nobody is on any more.
    assert {one.name for one in (a.run_directory / "netns").iterdir()} == {WEB.id, f"net-{APP.id}"}
    wait_until(lambda: inner(a, APP, "ip -br link").count("tstale") == 0, "what was not adopted is gone")
    assert a.sh("ip -br link").count("fl-") == 1
    # The survivor can be detached by the new process, and nothing is left then.
    a.detach(WEB)
    wait_until(lambda: "fl-" not in a.sh("ip -br link"), "nothing is left")


def test_nothing_is_left_when_the_last_task_goes(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    before = {
        node.name: (node.sh("ip -br link; ip -4 addr; nft list ruleset; ip route"), mounts(nodes)) for node in nodes
    }
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB, LONER)
    assert before[a.name][1] != mounts(nodes)
    a.detach(WEB)
    b.detach(DB, LONER)
    for node in nodes:
        node.stop()
        assert list((node.run_directory / "netns").iterdir()) == []
        assert list((node.run_directory / "overlay").iterdir()) == []
        assert node.sh("ip -br link; ip -4 addr; nft list ruleset; ip route") == before[node.name][0]
    assert mounts(nodes) == before[a.name][1]


def test_an_orderly_stop_leaves_containers_their_network(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)
    a.stop()
    assert a.pings(WEB, "10.90.1.6")


def test_a_task_on_two_networks(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    both = task("both", "both", 1, (APP, "10.90.1.8/24"), (OTHER, "10.90.2.8/24"))
    machines.apply(*everything(a, b), update(peer(both, a, APP)), update(peer(both, a, OTHER)), complete=True)
    a.attach(both)
    b.attach(DB, LONER)
    assert a.pings(both, "db")
    assert a.pings(both, "loner")
    assert b.resolve(DB, "both") == ["10.90.1.8"]
    assert b.resolve(LONER, "both") == ["10.90.2.8"]
    # It does not become a bridge between the two.
    b.inside(DB, "ip route add 10.90.2.0/24 via 10.90.1.8")
    assert not b.pings(DB, "10.90.2.7")


def test_ipv6(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    six = network(6, "six", ipv6_enabled=True)
    first = task("first", "first", 1, (six, "10.90.6.5/24", "fd00:90:6::5/64"))
    second = task("second", "second", 1, (six, "10.90.6.6/24", "fd00:90:6::6/64"))
    machines.apply(update(six), update(peer(first, a, six)), update(peer(second, b, six)), complete=True)
    a.attach(first)
    b.attach(second)
    assert a.resolve(first, "second", "AAAA") == ["fd00:90:6::6"]
    assert a.resolve(first, "second", "A") == ["10.90.6.6"]
    assert a.inside(first, "busybox ping6 -c 1 -W 1 fd00:90:6::6 >/dev/null && echo yes").strip() == "yes"


@pytest.mark.parametrize("internal", [False, True])
def test_several_subnets_are_one_network(machines: Machines, nodes: list[Node], internal: bool) -> None:
    a, b = nodes
    wide = network(7, "wide", ipv6_enabled=True, internal=internal)
    wide.ipam.add(subnet="10.91.7.0/24", gateway="10.91.7.1")
    wide.ipam.add(subnet="fd00:91:7::/64", gateway="fd00:91:7::1")
    first = task("first", "first", 1, (wide, "10.90.7.5/24", "fd00:90:7::5/64"))
    second = task("second", "second", 1, (wide, "10.91.7.6/24", "fd00:91:7::6/64"))
    third = task("third", "third", 1, (wide, "10.91.7.7/24", "fd00:91:7::7/64"))
    peers = [peer(first, a, wide), peer(second, b, wide), peer(third, a, wide)]
    machines.apply(update(wide), *map(update, peers), complete=True)
    a.attach(first, third)
    b.attach(second)
    for one, other in ((first, second), (third, second), (first, third), (third, first)):
        for attachment in other.networks:
            for address in attachment.addresses:
                target = address.partition("/")[0]
                assert a.pings(one, target), f"{one.id} → {target}"
    for one in (first, third):
        assert a.pings(one, "192.0.2.254") is not internal, "the world"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (task("t", "t", 1, (network(9, "unheard"), "10.90.9.5/24")), "UnknownNetwork: network 009net"),
        (task("t", "t", 1, (APP, "10.90.1.500/24")), "task.networks[0].addresses: '10.90.1.500/24' is not an address"),
        (task("t", "t", 1, (APP, "10.90.1.5/24"), (APP, "10.90.1.6/24")), "a network the task is not on already"),
    ],
)
def test_a_task_that_cannot_be_attached_leaves_nothing(nodes: list[Node], wrong: Task, words: str) -> None:
    a, b = nodes
    a.apply(*everything(a, b), complete=True)
    answer = a.call("attach", tasks=[wrong.SerializeToString().hex()])
    assert words in answer["error"]
    assert not list((a.run_directory / "netns").glob("*"))
    assert "fl-" not in a.sh("ip -br link")


def test_two_networks_with_one_vni_are_refused_and_the_first_stays_whole(nodes: list[Node]) -> None:
    a, b = nodes
    twin = Network.FromString(APP.SerializeToString())
    twin.id, twin.spec.annotations.name = "twin".ljust(25, "0"), "twin"
    stranger = task("stranger", "stranger", 1, (twin, "10.90.1.50/24"))
    for node in nodes:
        node.apply(*everything(a, b), update(twin), complete=True)
    a.attach(WEB)
    b.attach(DB)
    answer = a.call("attach", tasks=[stranger.SerializeToString().hex()])
    assert "VNI 5001" in answer["error"]
    assert a.pings(WEB, "db")
    assert {one.name for one in (a.run_directory / "netns").iterdir()} == {WEB.id, f"net-{APP.id}"}


def test_a_network_stays_for_the_next_task(nodes: list[Node]) -> None:
    a, b = nodes
    a.stop()
    a.start(linger=1000)
    for node in nodes:
        node.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    b.attach(DB)
    a.detach(WEB)
    kept = a.run_directory / "netns" / f"net-{APP.id}"
    number = kept.stat().st_ino
    # What changes meanwhile is not told to it; the next task finds it as it has to be.
    moved = task("moved", "db", 2, (APP, "10.90.1.77/24"))
    b.detach(DB)
    b.attach(moved)
    a.apply(removal(peer(DB, b, APP)), update(peer(moved, b, APP)))
    a.attach(WEB)
    assert kept.stat().st_ino == number
    assert any(a.pings(WEB, "db") for _ in range(10))
    # Deleted, and its identifier another one's: it makes room.
    a.detach(WEB)
    twin = Network.FromString(APP.SerializeToString())
    twin.id, twin.spec.annotations.name = "twin".ljust(25, "0"), "twin"
    a.apply(update(twin))
    stranger = task("stranger", "stranger", 1, (twin, "10.90.1.50/24"))
    a.attach(stranger)
    assert {one.name for one in kept.parent.iterdir()} == {stranger.id, f"net-{twin.id}"}
    # A node that leaves keeps nothing.
    a.detach(stranger)
    a.call("leave")
    assert list(kept.parent.iterdir()) == []


def test_other_names_are_asked_of_the_nodes_resolvers(machines: Machines, nodes: list[Node]) -> None:
    a, b = nodes
    machines.apply(*everything(a, b), complete=True)
    a.attach(WEB)
    # Without any resolver there is an answer all the same.
    assert a.resolve(WEB, "www.example.org") == ["SERVFAIL"]
    assert a.resolve(WEB, "nobody") == ["NXDOMAIN"]

    server = machines.resolver(b, {"www.example.org": "203.0.113.9"})
    try:
        a.resolv_conf.write_text(f"nameserver {b.address}\nsearch corp.example\n")
        for tcp in (False, True):
            assert a.resolve(WEB, "www.example.org", tcp=tcp) == ["203.0.113.9"]
            assert a.resolve(WEB, "gone.example.org", tcp=tcp) == ["NXDOMAIN"]
        sandbox = a.attach(WEB)["sandboxes"][0]
        assert sandbox["resolv_conf"] == "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:0\n"
    finally:
        server.kill()
        server.wait()
    # Its answers are remembered for their time to live; our own names never left the node.
    assert a.resolve(WEB, "www.example.org") == ["203.0.113.9"]


def mounts(nodes: list[Node]) -> list[str]:
    """Mount points that the overlay of these nodes could have made; other tests have theirs at the same time."""
    found = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted(one for one in found if any(one.startswith(str(node.run_directory)) for node in nodes))
