"""Forwarding entries, addresses and names of interfaces: the arithmetic every node must agree on."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.overlay import addresses
from flota.overlay.errors import BadAddress
from flota.overlay.forwarding import Forwarding, difference, wanted
from flota.v1.dispatcher_pb2 import NetworkPeer
from flota.v1.mac_addresses import mac_of

HERE = ("node1", "192.0.2.1")


def a_peer(task_id: str, address: str, number: int, *, ready: bool = True) -> NetworkPeer:
    return NetworkPeer(
        network_id="n",
        task_id=task_id,
        addresses=[address],
        node_id=f"node{number}",
        vtep=f"192.0.2.{number}",
        ready=ready,
    )


def test_a_remote_peer_needs_its_mac_its_address_and_its_nodes_mac() -> None:
    entries = wanted([a_peer("t", "10.0.1.5/24", 2)], *HERE)
    assert entries.endpoints == {"02:42:0a:00:01:05": "192.0.2.2", "02:66:c0:00:02:02": "192.0.2.2"}
    assert entries.neighbours == {"10.0.1.5": "02:42:0a:00:01:05"}


def test_a_local_peer_needs_nothing() -> None:
    assert wanted([a_peer("t", "10.0.1.5/24", 1)], *HERE) == Forwarding()


def test_both_addresses_of_a_dual_stack_peer_lead_to_one_mac() -> None:
    peer = a_peer("t", "10.0.1.5/24", 2)
    peer.addresses.append("fd00::5/64")
    assert wanted([peer], *HERE).neighbours == dict.fromkeys(("10.0.1.5", "fd00::5"), "02:42:0a:00:01:05")


@pytest.mark.parametrize("order", [1, -1])
def test_the_ready_one_of_two_peers_with_one_address_has_it(order: int) -> None:
    peers = [a_peer("a", "10.0.1.5/24", 2, ready=False), a_peer("b", "10.0.1.5/24", 3)][::order]
    assert wanted(peers, *HERE).endpoints["02:42:0a:00:01:05"] == "192.0.2.3"


@pytest.mark.parametrize("order", [1, -1])
def test_an_address_that_came_here_no_longer_leads_away(order: int) -> None:
    peers = [a_peer("a", "10.0.1.5/24", 2, ready=False), a_peer("b", "10.0.1.5/24", 1)][::order]
    entries = wanted(peers, *HERE)
    assert "02:42:0a:00:01:05" not in entries.endpoints
    assert entries.neighbours == {}


maps = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz"))


@given(maps, maps, maps, maps)
def test_a_difference_leads_from_old_to_new(
    endpoints: dict[str, str], neighbours: dict[str, str], new_endpoints: dict[str, str], new_neighbours: dict[str, str]
) -> None:
    old, new = Forwarding(endpoints, neighbours), Forwarding(new_endpoints, new_neighbours)
    change = difference(old, new)
    reached = Forwarding(dict(old.endpoints), dict(old.neighbours))
    for mac, _vtep in change.drop_endpoints:
        del reached.endpoints[mac]
    for address in change.drop_neighbours:
        del reached.neighbours[address]
    reached.endpoints |= dict(change.put_endpoints)
    reached.neighbours |= dict(change.put_neighbours)
    assert reached == new
    assert bool(change) == (old != new)


@given(st.sets(st.integers(0, addresses.EXIT_LINKS - 1), max_size=50), st.integers(0, 2**24 - 1))
def test_a_way_out_never_gets_a_number_that_is_taken(taken: set[int], vni: int) -> None:
    index = addresses.exit_index(vni, taken)
    assert index not in taken
    near, far = addresses.exit_addresses(index)
    assert addresses.exit_number(near) == addresses.exit_number(far) == index
    assert ipaddress.ip_interface(f"{near}/31").network == ipaddress.ip_interface(f"{far}/31").network
    assert ipaddress.ip_address(near) in ipaddress.ip_network(addresses.EXIT_RANGE)
    assert ipaddress.ip_address(far) in ipaddress.ip_network(addresses.EXIT_RANGE)


def test_no_way_out_takes_the_clouds_metadata_address() -> None:
    assert ipaddress.ip_address("169.254.169.254") not in ipaddress.ip_network(addresses.EXIT_RANGE)


def test_macs_are_unicast_local_and_differ_within_a_subnet() -> None:
    found = {mac_of(f"fd00::{number:x}/64") for number in range(2000)}
    assert len(found) == 2000
    assert all(int(mac[:2], 16) & 3 == 2 for mac in found)


def test_interface_names_fit() -> None:
    assert len(addresses.exit_name("x" * 25)) <= 15
    assert len(addresses.port_name("x" * 25)) <= 15


def test_a_bad_address_names_field_and_value() -> None:
    with pytest.raises(BadAddress, match=r"task.networks\[0\].addresses: '10.0.0.300/8' is not an address"):
        addresses.interface("task.networks[0].addresses", "10.0.0.300/8")


def test_on_the_ingress_network_a_remote_task_is_behind_its_nodes_mac() -> None:
    entries = wanted([a_peer("t", "10.0.0.5/24", 2)], *HERE, ingress=True)
    gate = "02:66:c0:00:02:02"
    assert entries.endpoints == {gate: "192.0.2.2"}
    assert entries.neighbours == {"10.0.0.5": gate, "192.0.2.2": gate}
    assert entries.entries == {"192.0.2.2"}


def test_a_node_without_a_task_is_an_entry_of_the_ingress_network_and_nothing_elsewhere() -> None:
    nodes = [NetworkPeer(task_id=f"node{n}", node_id=f"node{n}", vtep=f"192.0.2.{n}") for n in (1, 2, 3)]
    entries = wanted(nodes, *HERE, ingress=True)
    assert entries.entries == {"192.0.2.2", "192.0.2.3"}
    assert entries.neighbours == {"192.0.2.2": "02:66:c0:00:02:02", "192.0.2.3": "02:66:c0:00:02:03"}
    assert wanted(nodes, *HERE) == Forwarding()
    change = difference(entries, wanted(nodes[:2], *HERE, ingress=True))
    assert change.drop_entries == ("192.0.2.3",)
    assert change.drop_neighbours == ("192.0.2.3",)
    assert change.put_entries == ()


def test_a_mark_names_the_node_that_a_connection_came_in_through() -> None:
    for vtep in ("192.0.2.2", "2001:db8::7"):
        assert addresses.hop_of_mark(addresses.node_mark(vtep)) == addresses.node_hop(vtep)
    assert addresses.node_mark("192.0.2.2") != addresses.node_mark("192.0.2.3")
