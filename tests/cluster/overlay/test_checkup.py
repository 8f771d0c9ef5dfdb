"""What a node finds out about the way to another one, by either IP version. Needs root."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format

from flota.v1.checks_pb2 import CheckedWay
from tests.cluster.overlay.machines import Machines, run

LOOK = """
from flota.overlay.checkup import look
from flota.v1.checks_pb2 import CheckedNode
print(look(CheckedNode(id="b", address="{address}"), (4789, 51820)))
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path, 2)
    yield machines
    machines.close()


def looked(machines: Machines, address: str) -> CheckedWay:
    """The way from the first machine."""
    text = machines.nodes[0].sh(f"{sys.executable} -c '{LOOK.format(address=address)}'")
    return text_format.Parse(text, CheckedWay())


def test_ways_by_both_ip_versions(machines: Machines) -> None:
    b = machines.nodes[1]
    addresses = (b.address, b.ipv6_address)
    for address in addresses:
        way = looked(machines, address)
        assert way.round_trip_seconds > 0
        assert (way.mtu, way.passes, list(way.rejected_ports), way.error) == (1500, 1500, [], ""), address

    # A part of the way takes less, and says nothing: larger packets are lost there.
    run("ip", "-n", machines.wire, "link", "set", "u2", "mtu", "1400")
    for address in addresses:
        assert (looked(machines, address).mtu, looked(machines, address).passes) == (1500, 1400), address
    run("ip", "-n", machines.wire, "link", "set", "u2", "mtu", "1500")

    b.sh(
        "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; "
        "add rule inet wall in udp dport 4789 reject with icmpx admin-prohibited'"
    )
    for address in addresses:
        assert list(looked(machines, address).rejected_ports) == [4789], address

    b.sh("ip link set eth0 down")
    for address in addresses:
        assert not looked(machines, address).round_trip_seconds, address
