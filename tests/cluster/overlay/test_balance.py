"""Virtual addresses: even spread, only ready tasks, connections that finish or end. Needs root."""

import os
from collections import Counter
from pathlib import Path

from flota.v1.dispatcher_pb2 import NetworkService
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import EndpointSpec
from tests.cluster.overlay.clusters import Running, fixture_of
from tests.cluster.overlay.machines import Machines, network, peer, removal, task, update
from tests.cluster.waiting import wait_until

APP = network(1, "app")
CLIENT = task("client", "client", 1, (APP, "10.90.1.4/24"))
WEBS = [task(f"web{number}", "web", number, (APP, f"10.90.1.{10 + number}/24")) for number in (1, 2, 3)]
WEB = NetworkService(network_id=APP.id, service_id="svcweb", service_name="web", virtual_ip="10.90.1.100/24")

# Says its address and whom it sees, and then echoes for as long as the other side likes.
SERVER = """
import socket, threading
def serve(c, a):
    try:
        c.sendall(f"{c.getsockname()[0]} {a[0]}\\n".encode())
        while d := c.recv(99): c.sendall(d)
    except OSError: pass
    c.close()
def udp():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 8080))
    while True:
        d, a = u.recvfrom(99); u.sendto(d, a)
threading.Thread(target=udp, daemon=True).start()
s = socket.create_server(("0.0.0.0", 8080), backlog=100)
print("ready")
while True:
    c, a = s.accept(); threading.Thread(target=serve, args=(c, a), daemon=True).start()
"""
ASK = """
import socket
for _ in range({count}):
    c = socket.create_connection(("web", 8080), 30); print(c.recv(99).decode().strip()); c.close()
"""


class Cluster(Running):
    """A client on node a; web.1 and web.2 on b, web.3 on a; all ready and behind web's virtual address."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(machines)
        self.a, self.b = machines.nodes
        self.places = {CLIENT.id: self.a, WEBS[0].id: self.b, WEBS[1].id: self.b, WEBS[2].id: self.a}
        self.peers = {one.id: peer(one, self.places[one.id], APP) for one in (CLIENT, *WEBS)}
        machines.apply(update(APP), update(WEB), *map(update, self.peers.values()), complete=True)
        for one in (CLIENT, *WEBS):
            self.places[one.id].attach(one)
        for one in WEBS:
            self.serve(one, self.places[one.id], SERVER)

    def ready(self, one: Task, ready: bool) -> None:
        self.machines.apply(update(peer(one, self.places[one.id], APP, ready=ready)))

    def answers(self, count: int) -> Counter[str]:
        """How often which task answered."""
        lines = self.a.python(CLIENT, ASK.format(count=count)).splitlines()
        assert all(line.split()[1] == "10.90.1.4" for line in lines), "servers see the client's own address"
        return Counter(line.split()[0] for line in lines)


cluster = fixture_of(Cluster, 2)


def test_connections_are_dealt_evenly_over_ready_tasks(cluster: Cluster) -> None:
    a = cluster.a
    assert a.resolve(CLIENT, "web") == ["10.90.1.100"]
    assert a.resolve(CLIENT, "tasks.web") == ["10.90.1.11", "10.90.1.12", "10.90.1.13"]
    assert cluster.answers(30) == {"10.90.1.11": 10, "10.90.1.12": 10, "10.90.1.13": 10}

    cluster.ready(WEBS[1], False)
    assert cluster.answers(20) == {"10.90.1.11": 10, "10.90.1.13": 10}
    cluster.ready(WEBS[1], True)
    assert len(cluster.answers(30)) == 3
    # Datagrams and echo requests too.
    assert a.pings(CLIENT, "web")
    datagram = (
        "import socket; u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30)\n"
        "u.sendto(b'hello', ('web', 8080)); print(u.recvfrom(99))\n"
    )
    assert a.python(CLIENT, datagram).strip() == "(b'hello', ('10.90.1.100', 8080))"


def test_a_task_reaches_its_own_service_also_when_it_is_dealt_itself(cluster: Cluster) -> None:
    lines = cluster.b.python(WEBS[0], ASK.format(count=9)).splitlines()
    assert Counter(line.split()[0] for line in lines) == {"10.90.1.11": 3, "10.90.1.12": 3, "10.90.1.13": 3}


def test_without_a_ready_task_the_answer_is_no(cluster: Cluster) -> None:
    for one in WEBS:
        cluster.ready(one, False)
    script = (
        "import socket\n"
        "try: socket.create_connection(('web', 8080), 30); print('connected')\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    assert cluster.a.python(CLIENT, script).strip() == "ConnectionRefusedError"
    cluster.ready(WEBS[2], True)
    assert cluster.answers(3) == {"10.90.1.13": 3}


HOLD = """
import socket, sys, time
held = []
while len(held) < 3:
    c = socket.create_connection(("web", 8080), 30); c.settimeout(30); held.append((c.recv(99).split()[0].decode(), c))
print("holding", flush=True)
for who, c in sorted(held, key=lambda one: one[0]):
    while not open({flag!r}, "r").readline(): pass  # The writer of the line before had not closed it yet.
    try:
        c.sendall(b"still there?"); print(who, c.recv(99).decode() or "closed", flush=True)
        c.close()
    except OSError as error:
        print(who, type(error).__name__, flush=True)
"""


def test_established_connections_finish_on_a_task_that_left_and_end_when_it_is_gone(
    cluster: Cluster, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    os.mkfifo(flag)
    holder = cluster.a.background(CLIENT, f"{_WITH_NAMES}{HOLD.format(flag=str(flag))}")
    assert holder.stdout is not None

    def go_on() -> str:
        flag.write_text("go\n")
        assert holder.stdout is not None
        return holder.stdout.readline().strip()

    try:
        # web.1 is stopping: new connections avoid it, the old one goes on.
        cluster.ready(WEBS[0], False)
        assert set(cluster.answers(10)) == {"10.90.1.12", "10.90.1.13"}
        assert go_on() == "10.90.1.11 still there?"
        # web.2 is cut off without a word: the connection does not hang until TCP gives up.
        cluster.b.detach(WEBS[1])
        cluster.kill(WEBS[1])
        cluster.machines.apply(removal(cluster.peers[WEBS[1].id]))
        assert go_on() == "10.90.1.12 ConnectionResetError"
        # web.3 never noticed anything.
        assert go_on() == "10.90.1.13 still there?"
    finally:
        holder.kill()
        holder.wait()


# (A background script has no resolv.conf of its own.)
_WITH_NAMES = """
import socket
_real = socket.create_connection
socket.create_connection = lambda where, timeout: _real(("10.90.1.100", where[1]), timeout)
"""


def test_dnsrr_has_no_virtual_address(cluster: Cluster) -> None:
    dnsrr = NetworkService.FromString(WEB.SerializeToString())
    dnsrr.mode = EndpointSpec.MODE_DNSRR
    dnsrr.virtual_ip = ""
    cluster.machines.apply(update(dnsrr))
    assert cluster.a.resolve(CLIENT, "web") == ["10.90.1.11", "10.90.1.12", "10.90.1.13"]
    assert cluster.answers(3)


def test_a_service_that_is_removed_leaves_no_rule(cluster: Cluster) -> None:
    assert "vip_10.90.1.100" in cluster.a.inside(CLIENT, "nft list ruleset")
    cluster.machines.apply(removal(WEB))
    rules = cluster.a.inside(CLIENT, "nft list ruleset")
    assert "10.90.1.100" not in rules
    assert cluster.a.resolve(CLIENT, "web") == ["10.90.1.11", "10.90.1.12", "10.90.1.13"]


def test_virtual_addresses_outlive_the_worker_and_follow_again_afterwards(cluster: Cluster) -> None:
    a = cluster.a
    direct = _WITH_NAMES + ASK.format(count=6)
    a.crash()
    lines = a.python(CLIENT, direct).splitlines()
    assert len({line.split()[0] for line in lines}) == 3
    a.start()
    a.call("adopt", tasks=[CLIENT.id, WEBS[2].id])
    lines = a.python(CLIENT, direct).splitlines()
    assert len({line.split()[0] for line in lines}) == 3
    peers = [cluster.peers[one.id] for one in (CLIENT, WEBS[0])]
    a.apply(update(APP), update(WEB), *map(update, peers), complete=True)
    assert cluster.answers(4) == {"10.90.1.11": 4}


def test_no_request_fails_while_tasks_come_and_go(cluster: Cluster, tmp_path: Path) -> None:
    """A rolling update as the network sees it: one leaves the map, is stopped, comes back; requests all the while."""
    enough = tmp_path / "enough"
    script = _WITH_NAMES + (
        "import pathlib, time\n"
        "print('started', flush=True)\n"
        "done = 0; errors = []\n"
        f"while not pathlib.Path({str(enough)!r}).exists():\n"
        "    try: c = socket.create_connection(('web', 8080), timeout=20); c.recv(99); c.close(); done += 1\n"
        "    except OSError as error: errors.append(str(error))\n"
        "    time.sleep(0.002)\n"
        "print(done > 9, *errors)\n"
    )
    load = cluster.a.background(CLIENT, script)
    try:
        for number in (0, 1, 2, 0, 1, 2):
            one = WEBS[number]
            cluster.ready(one, False)
            node = cluster.places[one.id]
            wait_until(lambda node=node, one=one: node.is_idle(one), "it has finished what it had")
            cluster.kill(one)
            cluster.serve(one, cluster.places[one.id], SERVER)
            cluster.ready(one, True)
        enough.touch()
        assert load.stdout is not None
        assert load.stdout.readline().strip() == "True"
    finally:
        load.kill()
        load.wait()


def test_a_container_may_run_a_dns_server_of_its_own(cluster: Cluster) -> None:
    mine = cluster.a.background(
        CLIENT,
        "import socket, time\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('0.0.0.0', 53))\n"
        "t = socket.create_server(('0.0.0.0', 53)); print('ready'); time.sleep(600)\n",
    )
    try:
        assert cluster.a.resolve(CLIENT, "web") == ["10.90.1.100"]
        assert cluster.a.resolve(CLIENT, "web", tcp=True) == ["10.90.1.100"]
    finally:
        mine.kill()
        mine.wait()
