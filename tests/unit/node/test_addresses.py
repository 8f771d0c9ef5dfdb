"""Where a node listens and is reached: what a person typed, and what machines have."""

import socket
from collections.abc import Sequence

import pytest

from flota.node import addresses
from flota.node.addresses import Interface
from flota.rpc.errors import FailedPrecondition, FlotaError, InvalidArgument
from flota.v1.process_pb2 import NodeRecord

LO = Interface("lo", "loopback", ("127.0.0.1", "::1"))
ETH0 = Interface("eth0", "", ("192.0.2.2",))
ETH1 = Interface("eth1", "", ("198.51.100.7", "2001:db8::7"))
VETH = Interface("eth0", "veth", ("198.18.0.11",))
DOCKER = Interface("docker0", "bridge", ("172.17.0.1",))
LAN_BRIDGE = Interface("br0", "bridge", ("192.0.2.9",))
TWO = Interface("eth2", "", ("192.0.2.3", "192.0.2.4"))


def having(*interfaces: Interface) -> addresses.Interfaces:
    async def given() -> Sequence[Interface]:
        return interfaces

    return given


async def nobody_asks() -> Sequence[Interface]:
    raise AssertionError("interfaces were looked up")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "0.0.0.0:2377"),
        ("192.0.2.2", "192.0.2.2:2377"),
        ("192.0.2.2:1234", "192.0.2.2:1234"),
        ("[::]:2377", "[::]:2377"),
        ("2001:db8::1", "[2001:db8::1]:2377"),
        ("[2001:db8::1]", "[2001:db8::1]:2377"),
    ],
)
async def test_an_address_to_listen_on(text: str, address: str) -> None:
    assert await addresses.listen_address(text, nobody_asks) == address


async def test_an_interface_stands_for_its_address() -> None:
    assert await addresses.listen_address("eth1:99", having(ETH0, ETH1)) == "198.51.100.7:99"
    assert await addresses.advertise_address("eth0", "0.0.0.0:5", "", having(ETH0, ETH1)) == "192.0.2.2:5"
    assert await addresses.data_path_address("eth1", "192.0.2.2:5", having(ETH0, ETH1)) == "198.51.100.7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("192.0.2.2:0", "invalid listen address '192.0.2.2:0': its port is '0', a number from 1 to 65535 is needed"),
        ("192.0.2.2:http", "its port is 'http'"),
        ("[::1]x", r"invalid listen address '\[::1\]x'"),
        (
            "nowhere.example",
            r"an IP address or an interface of this machine is needed \(interfaces that are up: eth0\)",
        ),
        ("224.0.0.1", "it is a multicast address"),
    ],
)
async def test_what_cannot_be_listened_on_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await addresses.listen_address(text, having(ETH0))


async def test_an_interface_without_one_address_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"interface eth2 has several addresses, name one: 192.0.2.3, 192.0.2.4"):
        await addresses.advertise_address("eth2", "0.0.0.0:2377", "", having(TWO))
    with pytest.raises(InvalidArgument, match="interface tun0 has no IP address"):
        await addresses.advertise_address("tun0", "0.0.0.0:2377", "", having(Interface("tun0", "", ())))


async def test_nobody_can_be_told_the_unspecified_address() -> None:
    with pytest.raises(InvalidArgument, match=r"invalid advertise address '0.0.0.0': it is no address that others"):
        await addresses.advertise_address("0.0.0.0", "0.0.0.0:2377", "", nobody_asks)


async def test_the_port_to_advertise_is_the_one_listened_on_unless_given() -> None:
    assert await addresses.advertise_address("192.0.2.2", "0.0.0.0:99", "", nobody_asks) == "192.0.2.2:99"
    assert await addresses.advertise_address("192.0.2.2:5", "0.0.0.0:99", "", nobody_asks) == "192.0.2.2:5"


async def test_who_listens_on_one_address_is_reached_there() -> None:
    assert await addresses.advertise_address("", "127.0.0.1:99", "192.0.2.1:2377", nobody_asks) == "127.0.0.1:99"


async def test_a_joiner_advertises_the_address_it_reaches_the_manager_with() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        manager = f"127.0.0.1:{listening.getsockname()[1]}"
        assert await addresses.advertise_address("", "0.0.0.0:99", manager, nobody_asks) == "127.0.0.1:99"


@pytest.mark.parametrize(
    ("machine", "address"),
    [
        ([LO, ETH0], "192.0.2.2:2377"),
        ([LO, VETH], "198.18.0.11:2377"),
        # Beside real hardware, the ends of containers' cables do not count.
        ([LO, ETH0, Interface("veth1", "veth", ("10.0.0.1",)), DOCKER], "192.0.2.2:2377"),
        # Real hardware without an address of its own, in a bridge that has one.
        ([LO, Interface("eth0", "", ()), LAN_BRIDGE], "192.0.2.9:2377"),
        ([LO, Interface("eth0", "", ("2001:db8::7",))], "[2001:db8::7]:2377"),
        # IPv4 goes before IPv6.
        ([LO, ETH1], "198.51.100.7:2377"),
    ],
)
async def test_the_only_address_there_is(machine: list[Interface], address: str) -> None:
    assert await addresses.advertise_address("", "0.0.0.0:2377", "", having(*machine)) == address


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ([LO], "could not find the system's IP address - specify one with --advertise-addr"),
        (
            [LO, ETH0, ETH1],
            r"multiple addresses on different interfaces \(192.0.2.2 on eth0, 198.51.100.7 on eth1\) - specify one",
        ),
        ([TWO], r"multiple addresses on interface eth2 \(192.0.2.3, 192.0.2.4\) - specify one with --advertise-addr"),
        ([LAN_BRIDGE, DOCKER], r"192.0.2.9 on br0, 172.17.0.1 on docker0"),
    ],
)
async def test_several_addresses_are_listed(machine: list[Interface], words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        await addresses.advertise_address("", "0.0.0.0:2377", "", having(*machine))


async def test_networks_traffic_goes_to_the_advertised_address_unless_told() -> None:
    assert await addresses.data_path_address("", "[2001:db8::7]:2377", nobody_asks) == "2001:db8::7"
    assert await addresses.data_path_address("192.0.2.5", "192.0.2.2:2377", nobody_asks) == "192.0.2.5"
    with pytest.raises(FlotaError, match=r"invalid data path address '192.0.2.5:1'"):
        await addresses.data_path_address("192.0.2.5:1", "192.0.2.2:2377", having(ETH0))


async def test_this_machine_has_a_loopback() -> None:
    found = {one.name: one for one in await addresses.machine_interfaces()}
    assert found["lo"].kind == "loopback"
    assert "127.0.0.1" in found["lo"].addresses


MOVED = Interface("eth0", "", ("192.0.2.200",))
GONE = Interface("eth0", "", ())


@pytest.mark.parametrize(
    ("interface", "there", "advertised", "listens", "data_path"),
    [
        # A new lease; what was the old address is the new one.
        ("eth0", [LO, MOVED], "192.0.2.200:2377", "192.0.2.200:2378", "192.0.2.200"),
        # Still there; not there yet; not beyond doubt; never ours.
        ("eth0", [LO, ETH0], "192.0.2.2:2377", "192.0.2.2:2378", "192.0.2.2"),
        ("eth0", [LO, GONE], "192.0.2.2:2377", "192.0.2.2:2378", "192.0.2.2"),
        ("eth2", [LO, TWO], "192.0.2.2:2377", "192.0.2.2:2378", "192.0.2.2"),
        ("", [LO, MOVED], "192.0.2.2:2377", "192.0.2.2:2378", "192.0.2.2"),
    ],
)
async def test_a_new_address_is_followed_when_it_is_beyond_doubt(
    interface: str, there: list[Interface], advertised: str, listens: str, data_path: str
) -> None:
    record = NodeRecord(
        advertise_address="192.0.2.2:2377",
        listen_address="192.0.2.2:2378",
        data_path_address="192.0.2.2",
        advertise_interface=interface,
    )
    assert await addresses.followed(record, having(*there)) is (advertised != "192.0.2.2:2377")
    assert (record.advertise_address, record.listen_address, record.data_path_address) == (
        advertised,
        listens,
        data_path,
    )


async def test_the_interface_of_an_address_is_remembered() -> None:
    assert await addresses.interface_with("198.51.100.7:2377", having(LO, ETH0, ETH1)) == "eth1"
    assert await addresses.interface_with("[2001:db8::7]:2377", having(LO, ETH0, ETH1)) == "eth1"
    assert await addresses.interface_with("203.0.113.1:2377", having(LO, ETH0, ETH1)) == ""
