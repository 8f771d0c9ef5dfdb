"""Route netlink messages, byte for byte as pyroute2 0.9.7 writes them."""

import socket

import pytest

from flota.overlay import links, netlink, rtnetlink

MAC = "02:42:0a:00:01:03"


@pytest.mark.parametrize(
    ("message", "written"),
    [
        (
            links.new_link(
                "a pair",
                [
                    ("IFLA_IFNAME", "t1"),
                    ("IFLA_MTU", 1450),
                    ("IFLA_MASTER", 3),
                    links.veth(
                        [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1450), ("IFLA_NET_NS_FD", 9)]
                    ),
                ],
            ),
            "8800000010000506000000000000000000000000000000000100000001000000070003007431000008000400aa05000008000a00"
            "0300000050001200090001007665746800000000400002003c000100000000000000000000000000000000000900030065746830"
            "000000000a00010002420a000103000008000400aa05000008001c0009000000",
        ),
        (
            links.default_route(4, "10.0.0.1"),
            "3400000018000505000000000000000002000000fe04000100000000080005000a000001080004000400000008000f00fe000000",
        ),
        (
            netlink.message(
                netlink.RTM_SETLINK,
                0,
                "a bridge port",
                family=socket.AF_BRIDGE,
                index=5,
                attributes=[
                    (
                        "IFLA_PROTINFO",
                        [
                            ("IFLA_BRPORT_LEARNING", 0),
                            ("IFLA_BRPORT_UNICAST_FLOOD", 0),
                            ("IFLA_BRPORT_MCAST_FLOOD", 0),
                            ("IFLA_BRPORT_BCAST_FLOOD", 0),
                            ("IFLA_BRPORT_NEIGH_SUPPRESS", 1),
                        ],
                    )
                ],
            ),
            "4c000000130005000000000000000000070000000500000000000000000000002c000c80050008000000000005000900000000000500"
            "1b000000000005001e00000000000500200001000000",
        ),
        (
            netlink.replace(
                netlink.RTM_NEWNEIGH,
                "a forwarding entry",
                family=socket.AF_BRIDGE,
                ifindex=3,
                state=0xC0,
                flags=6,
                attributes=[("NDA_LLADDR", MAC), ("NDA_DST", "10.1.2.3")],
            ),
            "300000001c00050500000000000000000700000003000000c00006000a00020002420a0001030000080001000a010203",
        ),
    ],
    ids=["pair", "route", "port", "entry"],
)
def test_messages_are_as_the_kernel_wants_them(message: netlink.Message, written: str) -> None:
    assert message.data.hex() == written


def test_what_is_encoded_is_decoded() -> None:
    data = rtnetlink.encode(
        rtnetlink.RTM_NEWNEIGH,
        0,
        {"family": socket.AF_INET6, "ifindex": 7, "state": 0x80},
        [("NDA_DST", "fd00::9"), ("NDA_LLADDR", MAC)],
    )
    answer = rtnetlink.decode(bytes(data))
    assert answer.attributes == {"NDA_DST": "fd00::9", "NDA_LLADDR": MAC}
    assert answer.fields == {"family": socket.AF_INET6, "ifindex": 7, "state": 0x80, "flags": 0, "type": 0}


def test_attributes_of_others_are_skipped() -> None:
    data = bytes(rtnetlink.encode(rtnetlink.RTM_NEWLINK, 0, {"index": 2}, [("IFLA_IFNAME", "eth0")]))
    unknown = bytes([8, 0, 200, 0, 1, 2, 3, 4])
    assert rtnetlink.decode(data + unknown).attributes == {"IFLA_IFNAME": "eth0"}
    # The kernel never writes this, but nothing may hang on it.
    assert rtnetlink.decode(data + bytes(4)).attributes == {"IFLA_IFNAME": "eth0"}


def test_a_field_that_is_not_there_is_a_defect() -> None:
    with pytest.raises(ValueError, match="has no field colour"):
        rtnetlink.encode(rtnetlink.RTM_NEWLINK, 0, {"colour": 1}, [])
