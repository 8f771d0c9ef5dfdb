"""Words for links, addresses and routes: the netlink requests that segments and attachments are made of. Pure."""

import errno
import socket
from typing import Any

from flota.overlay import netlink
from flota.overlay.addresses import interface
from flota.overlay.netlink import Message

UP = 1
_MAIN_TABLE = 254
_STATIC_ROUTE, _UNICAST, _ONLINK = 4, 1, 4  # RTPROT_STATIC, RTN_UNICAST, RTNH_F_ONLINK
_LINK = 253  # RT_SCOPE_LINK
_TO_TABLE = 1  # FR_ACT_TO_TBL
_LOCAL = 2  # RTN_LOCAL
# In the node's namespace: where answers to ::1 are looked for that did not come from lo. No mark's number.
_LOOPBACK_TABLE, _LOOPBACK_PLACE = 0xF107A, 30000
# In a network's namespace: the place of all rules for marks. Without one the kernel takes each of them twice.
_MARK_PLACE = 30001
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


_RULE: dict[str, Any] = {
    "family": socket.AF_INET6,
    "dst_len": 128,
    "action": _TO_TABLE,
    # With a place of its own: the kernel would take a second one with another place.
    "attributes": [("FRA_DST", "::1"), ("FRA_PRIORITY", _LOOPBACK_PLACE), ("FRA_TABLE", _LOOPBACK_TABLE)],
}


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def kind(name: str, data: list[Any]) -> tuple[str, Any]:
    """The attribute that says what a new link is."""
    return "IFLA_LINKINFO", [("IFLA_INFO_KIND", name), ("IFLA_INFO_DATA", data)]


def veth(peer: list[Any]) -> tuple[str, Any]:
    """A pair of links; `peer` are the attributes of the other one. (It cannot be made up at once: set it up later.)"""
    return kind("veth", [("VETH_INFO_PEER", peer)])


def new_link(what: str, attributes: list[Any], *, up: bool = True) -> Message:
    flags = UP if up else 0
    return netlink.add(netlink.RTM_NEWLINK, what, flags=flags, change=flags, attributes=attributes)


def link_up(index: int, name: str) -> Message:
    return netlink.message(netlink.RTM_NEWLINK, 0, f"{name} up", index=index, flags=UP, change=UP, attributes=[])


def link_down(name: str) -> Message:
    """Fine if there is no such link."""
    named = [("IFLA_IFNAME", name)]
    gone = (errno.ENODEV,)
    return netlink.message(netlink.RTM_NEWLINK, 0, f"{name} down", flags=0, change=UP, attributes=named, ignore=gone)


def link_removal(name: str) -> Message:
    """Fine if there is no such link."""
    return netlink.remove(netlink.RTM_DELLINK, f"removal of {name}", attributes=[("IFLA_IFNAME", name)])


def address_on(index: int, address: str, name: str) -> Message:
    """Put `address` (with prefix length) on an interface, usable at once (no duplicate address detection)."""
    parsed = interface("address", address)
    nodad = 0x02
    return netlink.replace(
        netlink.RTM_NEWADDR,
        f"address {address} on {name}",
        family=family(str(parsed.ip)),
        index=index,
        prefixlen=parsed.network.prefixlen,
        flags=nodad if parsed.version == 6 else 0,
        attributes=[("IFA_ADDRESS", str(parsed.ip)), ("IFA_LOCAL", str(parsed.ip))],
    )


def default_route(index: int, gateway: str, *, table: int = _MAIN_TABLE, onlink: bool = False) -> Message:
    """The default route through `gateway` on the link behind `index`; `onlink`: no subnet of the link has it."""
    return netlink.replace(
        netlink.RTM_NEWROUTE,
        f"default route through {gateway}",
        family=family(gateway),
        dst_len=0,
        table=table if table < 256 else 0,
        proto=_STATIC_ROUTE,
        scope=0,
        type=_UNICAST,
        flags=_ONLINK if onlink else 0,
        attributes=[("RTA_GATEWAY", gateway), ("RTA_OIF", index), ("RTA_TABLE", table)],
    )


def prefix_route(index: int, prefix: str, source: str) -> Message:
    """The route to `prefix` through the link behind `index`, for packets that get the address `source`."""
    network, _, length = prefix.partition("/")
    return netlink.replace(
        netlink.RTM_NEWROUTE,
        f"route to {prefix}",
        family=family(network),
        dst_len=int(length),
        table=_MAIN_TABLE,
        proto=_STATIC_ROUTE,
        scope=_LINK,
        type=_UNICAST,
        attributes=[("RTA_DST", network), ("RTA_OIF", index), ("RTA_PREFSRC", source)],
    )


def loopback_rule() -> Message:
    """Packets for ::1 that the table `local` refuses, as they did not come from lo, are looked for in one of ours.

    The kernel has such a switch for 127.0.0.1 (route_localnet), and none for ::1.
    """
    return netlink.message(netlink.RTM_NEWRULE, netlink.CREATE, "routing rule for ::1", ignore=(errno.EEXIST,), **_RULE)


def loopback_rule_removal() -> Message:
    return netlink.remove(netlink.RTM_DELRULE, "removal of the routing rule for ::1", **_RULE)


def loopback_route(index: int, number: int) -> Message:
    """::1 may be reached through the link behind `index`; `number` is the link's own, so that many may have one."""
    return netlink.message(
        netlink.RTM_NEWROUTE,
        netlink.CREATE,
        "route to ::1",
        family=socket.AF_INET6,
        dst_len=128,
        table=0,
        proto=_STATIC_ROUTE,
        scope=0,
        type=_LOCAL,
        ignore=(errno.EEXIST,),
        attributes=[
            ("RTA_DST", "::1"),
            ("RTA_OIF", index),
            ("RTA_PRIORITY", number + 1),
            ("RTA_TABLE", _LOOPBACK_TABLE),
        ],
    )


def mark_rule(mark: int, version: int) -> Message:
    """Packets of an IP version with `mark` are routed by the table of the same number."""
    return netlink.message(
        netlink.RTM_NEWRULE,
        netlink.CREATE,
        f"routing rule for mark {mark:#x}",
        family=_FAMILIES[version],
        action=_TO_TABLE,
        ignore=(errno.EEXIST,),
        attributes=[("FRA_PRIORITY", _MARK_PLACE), ("FRA_FWMARK", mark), ("FRA_TABLE", mark)],
    )


def mark_rule_removal(mark: int, version: int) -> Message:
    return netlink.remove(
        netlink.RTM_DELRULE,
        f"removal of the routing rule for mark {mark:#x}",
        family=_FAMILIES[version],
        action=_TO_TABLE,
        attributes=[("FRA_FWMARK", mark), ("FRA_TABLE", mark)],
    )
