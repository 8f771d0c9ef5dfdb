"""Published ports: what stands behind each, and the commands that lead from one state to the next."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.overlay.errors import PortTaken
from flota.overlay.kernel import NamespaceThreads
from flota.overlay.publish import (
    Port,
    Ports,
    Target,
    addresses_loaded,
    ingress_ports,
    inner,
    inner_number,
    network_change,
    network_loaded,
    node_change,
    node_loaded,
    opened_datagram_ports,
)
from flota.overlay.publisher import Publisher
from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachment, PortConfig

WEB = ("tcp", 8080)
HOST = PortConfig.PUBLISH_MODE_HOST
BOTH = frozenset((4, 6))


def a_peer(service: str, number: int, *, ready: bool = True) -> NetworkPeer:
    return NetworkPeer(
        task_id=f"t{number}", service_id=service, addresses=[f"10.0.0.{number}/24", f"fd00::{number}/64"], ready=ready
    )


def a_service(service: str, *ports: PortConfig) -> NetworkService:
    return NetworkService(service_id=service, ports=ports)


@pytest.mark.parametrize(
    ("where", "at", "way"), [("local", "127.0.0.1", "169.254.192.1"), ("local6", "::1", "fd7a:f108::1")]
)
def test_a_port_of_one_address_is_in_a_map_of_its_own(where: str, at: str, way: str) -> None:
    there = {("tcp", 8080, at): (inner(way, 81),)}
    assert node_change({}, there) == (f"add element inet flota {where} {{ tcp . 8080 . {at} : {way} . 81 }}\n")
    assert node_loaded(f"elements = {{ tcp . 8080 . {at} : {way} . 81 }}") == there
    assert inner_number(there["tcp", 8080, at][0]) == 81
    assert node_change(there, {WEB: ("169.254.192.1",)}).splitlines() == [
        f"delete element inet flota {where} {{ tcp . 8080 . {at} }}",
        "add element inet flota published { tcp . 8080 : 169.254.192.1 }",
    ]


def test_ready_tasks_of_a_service_stand_behind_its_ports() -> None:
    web = a_service(
        "web",
        PortConfig(target_port=80, published_port=8080),
        PortConfig(target_port=53, published_port=53, protocol=PortConfig.PROTOCOL_UDP),
        PortConfig(target_port=99, published_port=99, publish_mode=HOST),
        PortConfig(target_port=7),
    )
    peers = [a_peer("web", 6), a_peer("web", 5), a_peer("web", 7, ready=False), a_peer("db", 8)]
    node = NetworkPeer(task_id="node", node_id="node", vtep="192.0.2.1")
    assert ingress_ports([web], [*peers, node]) == {
        ("tcp", 8080): Target(("10.0.0.5", "10.0.0.6", "fd00::5", "fd00::6"), 80),
        ("udp", 53): Target(("10.0.0.5", "10.0.0.6", "fd00::5", "fd00::6"), 53),
    }


def test_a_port_without_a_ready_task_is_there_and_leads_nowhere() -> None:
    ports = ingress_ports([a_service("web", PortConfig(target_port=80, published_port=8080))], [])
    assert ports == {WEB: Target((), 80)}
    assert network_change({}, ports, Random(1)) == (
        "add chain inet flota pub_tcp_8080\n"
        "flush chain inet flota pub_tcp_8080\n"
        "add element inet flota published { tcp . 8080 : goto pub_tcp_8080 }\n"
    )


def test_a_changed_port_keeps_its_chain_and_a_removed_one_leaves_nothing() -> None:
    one, two = {WEB: Target(("10.0.0.5",), 80)}, {WEB: Target(("10.0.0.5", "10.0.0.6"), 80)}
    assert network_change(one, one, Random(1)) == ""
    changed = network_change(one, two, Random(1)).splitlines()
    assert changed[:2] == ["add chain inet flota pub_tcp_8080", "flush chain inet flota pub_tcp_8080"]
    rule = "add rule inet flota pub_tcp_8080 meta nfproto ipv4 tcp dport 8080 dnat ip to numgen inc mod 2 map {"
    assert changed[2].startswith(rule)
    assert len(changed) == 3
    assert network_change(two, {}, Random(1)).splitlines() == [
        "delete element inet flota published { tcp . 8080 }",
        "flush chain inet flota pub_tcp_8080",
        "delete chain inet flota pub_tcp_8080",
    ]


def test_a_port_that_moves_to_another_network_leaves_the_first() -> None:
    assert node_change({WEB: ("169.254.192.1",)}, {WEB: ("169.254.192.3",)}).splitlines() == [
        "delete element inet flota published { tcp . 8080 }",
        "add element inet flota published { tcp . 8080 : 169.254.192.3 }",
    ]


def test_a_port_is_led_on_by_each_version_that_its_network_has() -> None:
    both = {WEB: ("169.254.192.1", "fd7a:f108::1")}
    assert node_change({WEB: ("169.254.192.1",)}, both) == (
        "add element inet flota published6 { tcp . 8080 : fd7a:f108::1 }\n"
    )
    assert node_change(both, {WEB: ("169.254.192.1",)}) == "delete element inet flota published6 { tcp . 8080 }\n"
    rules = network_change({}, {WEB: Target(("10.0.0.5", "fd00::5"), 80)}, Random(1)).splitlines()
    assert rules[2:4] == [
        "add rule inet flota pub_tcp_8080 meta nfproto ipv4 tcp dport 8080 dnat ip to 10.0.0.5:80",
        "add rule inet flota pub_tcp_8080 meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd00::5]:80",
    ]


def test_datagram_ports_that_lead_somewhere_now_and_did_not_before_are_opened() -> None:
    shut, opened = Target((), 53), Target(("10.0.0.5",), 53)
    more = Target(("10.0.0.5", "10.0.0.6"), 53)
    udp, tcp = ("udp", 53), ("tcp", 53)
    assert opened_datagram_ports({}, {udp: opened, tcp: opened}) == {(17, 53)}
    assert opened_datagram_ports({udp: shut}, {udp: opened}) == {(17, 53)}
    for old, new in (
        ({}, {udp: shut}),
        ({udp: opened}, {udp: more}),
        ({udp: opened}, {udp: shut}),
        ({udp: opened}, {}),
    ):
        assert opened_datagram_ports(old, new) == set()
    assert opened_datagram_ports({}, {udp: ("169.254.192.1",), WEB: ("169.254.192.1",)}) == {(17, 53)}


keys = st.tuples(st.sampled_from(["tcp", "udp", "sctp"]), st.integers(1, 65535))
targets = st.builds(
    Target,
    st.lists(st.integers(1, 9), unique=True, max_size=3).map(lambda some: tuple(f"10.0.0.{one}" for one in some)),
    st.integers(1, 65535),
)


@given(old=st.dictionaries(keys, targets, max_size=4), new=st.dictionaries(keys, targets, max_size=4))
def test_any_change_leaves_one_chain_and_one_element_for_each_port_that_is_wanted(old: Ports, new: Ports) -> None:
    elements = {f"{protocol} . {port}" for protocol, port in old}
    chains = {f"pub_{protocol}_{port}" for protocol, port in old}
    for line in network_change(old, new, Random(1)).splitlines():
        match line.split():
            case ["delete", "element", "inet", "flota", "published", "{", protocol, ".", port, "}"]:
                elements.remove(f"{protocol} . {port}")
            case ["add", "element", "inet", "flota", "published", "{", protocol, ".", port, ":", "goto", chain, "}"]:
                assert chain in chains
                elements.add(f"{protocol} . {port}")
            case ["delete", "chain", "inet", "flota", chain]:
                assert chain.removeprefix("pub_").replace("_", " . ") not in elements, "a chain in use"
                chains.remove(chain)
            case ["add", "chain", "inet", "flota", chain]:
                chains.add(chain)
            case ["flush", "chain", "inet", "flota", chain] | ["add", "rule", "inet", "flota", chain, *_]:
                assert chain in chains
            case _:
                raise AssertionError(line)
    assert elements == {f"{protocol} . {port}" for protocol, port in new}
    assert chains == {f"pub_{protocol}_{port}" for protocol, port in new}


LISTING = """
table inet flota {
    map published {
        type inet_proto . inet_service : verdict
        elements = { tcp . 8080 : goto pub_tcp_8080 }
    }
    chain pub_tcp_8080 {
        tcp dport 8080 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.5 . 80, 1 : 10.0.0.6 . 80 }
        tcp dport 8080 dnat ip6 to numgen inc mod 2 map { 0 : fd00::5 . 80, 1 : fd00::6 . 80 }
    }
    chain pub_udp_53 {
        meta nfproto ipv4 udp dport 53 dnat ip to 10.0.0.7:53
        meta nfproto ipv6 udp dport 53 dnat ip6 to [fd00::7]:53
    }
}
"""


def test_what_an_earlier_process_loaded_is_recognised_and_differs_from_all_that_is_wanted() -> None:
    loaded = network_loaded(LISTING)
    assert loaded.keys() == {WEB, ("udp", 53)}
    assert addresses_loaded(LISTING) == {f"{start}{one}" for start in ("10.0.0.", "fd00::") for one in (5, 6, 7)}
    assert network_change(loaded, {WEB: Target((), 80)}, Random(1)).startswith("delete element inet flota published")
    listed = "{ tcp . 8080 : 169.254.192.1, udp . 53 : 169.254.192.3 } … { tcp . 8080 : fd7a:f108::1 }"
    assert node_loaded(listed) == {
        WEB: ("169.254.192.1", "fd7a:f108::1"),
        ("udp", 53): ("169.254.192.3",),
    }


def host_task(name: str, *published: int) -> Task:
    one = Task(id=name, networks=[NetworkAttachment(network_id="app", addresses=["10.0.1.5/24"])])
    for number in published:
        one.endpoint.ports.add(target_port=80, published_port=number, publish_mode=HOST)
    return one


@pytest.fixture
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    def listening(port: Port) -> bool:
        return port == ("tcp", 22)

    return Publisher(tmp_path_factory.mktemp("run"), NamespaceThreads(0), Random(1), listening)


def test_host_ports_are_all_held_or_none(publisher: Publisher) -> None:
    with pytest.raises(PortTaken, match="published port 22 in host mode cannot be used: a program of this node"):
        publisher.hold_ports(host_task("one", 8080, 22), BOTH)
    assert publisher.is_idle()
    with pytest.raises(PortTaken, match="the task is on no network with a way out"):
        publisher.hold_ports(host_task("one", 8080), frozenset())
    assert publisher.is_idle()
    assert publisher.hold_ports(host_task("one"), frozenset()) == []


def test_a_port_is_held_by_one_at_each_address(publisher: Publisher) -> None:
    def at(name: str, *addresses: str) -> Task:
        one = host_task(name, *(8080 for _ in addresses))
        one.service_id = ""
        for port, address in zip(one.endpoint.ports, addresses, strict=True):
            port.host_address = address
        return one

    assert len(publisher.hold_ports(at("one", "127.0.0.1", "::1"), BOTH)) == 2
    for taken in ("", "127.0.0.1", "::1"):
        with pytest.raises(PortTaken, match="port is already allocated"):
            publisher.hold_ports(at("two", taken), BOTH)
    publisher.release_ports("one")
    assert len(publisher.hold_ports(at("two", "", ""), BOTH)) == 1, "said twice"
    with pytest.raises(PortTaken, match="port is already allocated"):
        publisher.hold_ports(at("one", "127.0.0.1"), BOTH)
    publisher.release_ports("two")
    with pytest.raises(PortTaken, match="the task is on no network with a way out by IPv6"):
        publisher.hold_ports(at("one", "::1"), frozenset((4,)))
    assert publisher.is_idle()


def test_host_ports_that_were_not_chosen_are_all_different(publisher: Publisher) -> None:
    held = publisher.hold_ports(host_task("one", 0, 0, 8080), BOTH)
    numbers = [port.published_port for port in held]
    assert numbers[2] == 8080
    assert numbers[0] != numbers[1]
    assert all(49153 <= number <= 65535 for number in numbers[:2])
    publisher.release_ports("one")
    assert publisher.is_idle()
