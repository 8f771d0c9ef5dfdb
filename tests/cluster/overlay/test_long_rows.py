"""Virtual addresses with many tasks behind them: places of a row that change, in the kernel. Needs root."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from tests.cluster.overlay.machines import Machines, Node, network, peer, removal, task, update

SIX = network(2, "six", ipv6_enabled=True)
CLIENT = task("client", "client", 1, (SIX, "10.90.2.4/24", "fd00:90:2::4/64"))
# All of the crowd are one task here, with as many addresses.
ADDRESSES = {4: [f"10.90.2.{number}" for number in range(100, 170)], 6: [f"fd00:90:2::{n}" for n in range(100, 170)]}
CROWD = task("crowd", "crowd", 1, (SIX, *(f"{one}/24" for one in ADDRESSES[4]), *(f"{one}/64" for one in ADDRESSES[6])))
SERVICE = NetworkService(
    network_id=SIX.id,
    service_id=CROWD.service_id,
    service_name="crowd",
    virtual_ip="10.90.2.200/24",
    virtual_ipv6="fd00:90:2::200/64",
)
SERVER = """
import socket
s = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=200)
print("ready", flush=True)
while True:
    c, _ = s.accept(); c.sendall(c.getsockname()[0].removeprefix("::ffff:").encode()); c.close()
"""
ASK = """
import socket
for _ in range(COUNT):
    c = socket.create_connection((ADDRESS, 8080), 30); print(c.recv(99).decode()); c.close()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    machines = Machines(tmp_path, 1)
    try:
        yield machines.nodes[0]
    finally:
        machines.close()


def crowd(node: Node, *gone: int) -> NetworkPeer:
    """The crowd without some."""
    found = peer(CROWD, node, SIX)
    leave = {ADDRESSES[version][number] for version in (4, 6) for number in gone}
    stay = [one for one in found.addresses if one.partition("/")[0] not in leave]
    del found.addresses[:]
    found.addresses.extend(stay)
    return found


def answers(node: Node, address: str, count: int) -> Counter[str]:
    return Counter(node.python(CLIENT, ASK.replace("COUNT", str(count)).replace("ADDRESS", repr(address))).split())


def test_every_task_of_a_long_row_has_its_turn_as_tasks_come_and_go(node: Node) -> None:
    node.apply(update(SIX), update(SERVICE), update(peer(CLIENT, node, SIX)), update(crowd(node)), complete=True)
    node.attach(CLIENT, CROWD)
    server = node.background(CROWD, SERVER)
    try:
        for gone in ((), (3,), (3, 5, 69), (5, *range(40, 69)), ()):
            node.apply(update(crowd(node, *gone)))
            for version, virtual in ((4, "10.90.2.200"), (6, "fd00:90:2::200")):
                here = [one for number, one in enumerate(ADDRESSES[version]) if number not in gone]
                assert answers(node, virtual, 2 * len(here)) == dict.fromkeys(here, 2)
        # A worker that starts again does not know the places.
        node.crash()
        node.start()
        node.call("adopt", tasks=[CLIENT.id, CROWD.id])
        assert len(answers(node, "10.90.2.200", len(ADDRESSES[4]))) == len(ADDRESSES[4])
        known = [update(SIX), update(SERVICE), update(peer(CLIENT, node, SIX))]
        node.apply(*known, update(crowd(node, 1)), complete=True)
        here = ADDRESSES[4][:1] + ADDRESSES[4][2:]
        assert answers(node, "10.90.2.200", 2 * len(here)) == dict.fromkeys(here, 2)
        node.apply(removal(SERVICE))
        assert "row_" not in node.inside(CLIENT, "nft list ruleset")
    finally:
        server.kill()
        server.wait()
