"""Tracked connections that go nowhere: to tasks that are gone, and to ports that were not published yet.

Connection tracking would keep sending packets of an old connection to an address where nobody is. Blocking: belongs on
a thread that is in the namespace that is meant.
"""

import errno
import os
import socket
from collections.abc import Callable, Set
from typing import Any

from pyroute2 import NFCTSocket
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

from flota.overlay.errors import KernelRefused


def end_connections(addresses: Set[str]) -> None:
    """Forget translated connections to these tasks: the client's next packet goes to a live one, which resets it."""
    # A translated one: the answer comes from elsewhere than the question went.
    _forget(lambda original, reply: reply.saddr in addresses and original.daddr != reply.saddr)


def end_untranslated(ports: Set[tuple[int, int]], address: str | None = None) -> None:
    """Forget connections to these (IP protocol, port), at `address` or any, that are led nowhere else.

    Whoever sends datagrams without pause, from one port, began such a connection before the port was published, and
    would never be led to a task.
    """

    def meant(original: NFCTAttrTuple, reply: NFCTAttrTuple) -> bool:
        untranslated = (original.saddr, original.daddr) == (reply.daddr, reply.saddr)
        return untranslated and (original.proto, original.dport) in ports and address in (None, original.daddr)

    _forget(meant)


def _forget(meant: Callable[[NFCTAttrTuple, NFCTAttrTuple], bool]) -> None:
    try:
        with NFCTSocket() as tracker:
            for entry in list(tracker.dump()):
                original = _tuple(entry, "CTA_TUPLE_ORIG")
                if meant(original, _tuple(entry, "CTA_TUPLE_REPLY")):
                    _remove(tracker, original)
    except NetlinkError as error:
        raise KernelRefused("connection tracking", error.code, os.strerror(error.code)) from None


def _remove(tracker: NFCTSocket, original: NFCTAttrTuple) -> None:
    """Fine if it has ended by itself meanwhile."""
    try:
        tracker.entry("del", tuple_orig=original)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise


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
