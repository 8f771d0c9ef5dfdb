"""Tracked connections to tasks that are gone.

Connection tracking would keep sending packets of an old connection to an address where nobody is. Blocking: belongs on
a thread that is in the namespace that is meant.
"""

import socket
from collections.abc import Set
from typing import Any

from pyroute2 import NFCTSocket
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple


def end_connections(addresses: Set[str]) -> None:
    """Forget translated connections to these tasks: the client's next packet goes to a live one, which resets it."""
    with NFCTSocket() as tracker:
        for entry in list(tracker.dump()):
            reply, original = _tuple(entry, "CTA_TUPLE_REPLY"), _tuple(entry, "CTA_TUPLE_ORIG")
            # A translated one: the answer comes from elsewhere than the question went.
            if reply.saddr in addresses and original.daddr != reply.saddr:
                tracker.entry("del", tuple_orig=original)


def _tuple(entry: Any, name: str) -> NFCTAttrTuple:
    found = entry.get_attr(name)
    address, protocol = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")
    return NFCTAttrTuple(
        family=socket.AF_INET,
        saddr=address.get_attr("CTA_IP_V4_SRC"),
        daddr=address.get_attr("CTA_IP_V4_DST"),
        proto=protocol.get_attr("CTA_PROTO_NUM"),
        sport=protocol.get_attr("CTA_PROTO_SRC_PORT"),
        dport=protocol.get_attr("CTA_PROTO_DST_PORT"),
        icmp_id=protocol.get_attr("CTA_PROTO_ICMP_ID"),
        icmp_type=protocol.get_attr("CTA_PROTO_ICMP_TYPE"),
        icmp_code=protocol.get_attr("CTA_PROTO_ICMP_CODE"),
    )
