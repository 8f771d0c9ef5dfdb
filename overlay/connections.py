"""Tracked connections that go nowhere: to tasks that are gone, and to ports that were not published yet.

Connection tracking would keep sending packets of an old connection to an address where nobody is. A node that answers
many clients tracks very many connections, so the kernel's list is read as it comes, and only what is needed of it
(linux/netfilter/nfnetlink_conntrack.h). Blocking: belongs on a thread that is in the namespace that is meant.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from flota.overlay.errors import KernelRefused

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102  # the connection tracking subsystem's IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_BODY = _HEADER.size + _FAMILY.size
_KIND = 0x3FFF  # without the flags of nested attributes
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_…
_ADDRESSES, _PROTOCOL = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_BUFFER = 256 * 1024
# Of the namespace that the reading thread is in.
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


class _Way(NamedTuple):
    """One direction of a connection: addresses as bytes; port 0 where the protocol has none."""

    source: bytes
    destination: bytes
    protocol: int
    port: int


class _Connection(NamedTuple):
    """`key` is the original direction as the kernel wrote it: what it wants to hear when it shall forget it."""

    original: _Way
    reply: _Way
    key: bytes


def end_connections(addresses: Set[str]) -> None:
    """Forget translated connections to these tasks: the client's next packet goes to a live one, which resets it."""
    gone = {ipaddress.ip_address(address).packed for address in addresses}
    # A translated one: the answer comes from elsewhere than the question went.
    _forget(lambda one: one.reply.source in gone and one.original.destination != one.reply.source)


def end_untranslated(ports: Set[tuple[int, int]], addresses: Set[str] = frozenset()) -> None:
    """Forget connections to these (IP protocol, port), at `addresses` (none: any), that are led nowhere else.

    Whoever sends datagrams without pause, from one port, began such a connection before the port was published, and
    would never be led to a task.
    """
    only = {ipaddress.ip_address(address).packed for address in addresses}

    def meant(one: _Connection) -> bool:
        there, back = one.original, one.reply
        untranslated = (there.source, there.destination) == (back.destination, back.source)
        return untranslated and (there.protocol, there.port) in ports and (not only or there.destination in only)

    _forget(meant)


def _forget(meant: Callable[[_Connection], bool]) -> None:
    if not _any():
        return
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(10)
        kernel.bind((0, 0))
        for one in [one for one in _connections(kernel) if meant(one)]:
            family = socket.AF_INET if len(one.original.source) == 4 else socket.AF_INET6
            kernel.send(_request(_DELETE, _ACKNOWLEDGE, family, one.key))
            # One that has ended by itself meanwhile is fine.
            _check(kernel.recv(_BUFFER), errno.ENOENT)


def _any() -> bool:
    """Whether the namespace has connections. Listing none takes the kernel ten milliseconds: one table has all's."""
    try:
        return int(_COUNT.read_text()) > 0
    except FileNotFoundError:
        return True


def _request(kind: int, flags: int, family: int, attributes: bytes = b"") -> bytes:
    header = _HEADER.pack(_BODY + len(attributes), kind, _REQUEST | flags, 1, 0)
    return header + _FAMILY.pack(family, 0, 0) + attributes


def _check(answer: bytes, *fine: int) -> None:
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if number and -number not in fine:
        raise KernelRefused("connection tracking", -number, os.strerror(-number))


def _connections(kernel: socket.socket) -> Iterator[_Connection]:
    kernel.send(_request(_GET, _DUMP, socket.AF_UNSPEC))
    while True:
        data = kernel.recv(_BUFFER)
        offset = 0
        while offset < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, offset)
            if kind == _DONE:
                return
            if kind == _ERROR:
                _check(data[offset:])
                return
            found = _connection(data, offset + _BODY, offset + length)
            if found is not None:
                yield found
            offset += (length + 3) & ~3


def _connection(data: bytes, start: int, end: int) -> _Connection | None:
    original = reply = None
    key = b""
    for kind, begin, stop in _attributes(data, start, end):
        if kind == _ORIGINAL:
            original, key = _way(data, begin, stop), data[begin - _ATTRIBUTE.size : stop]
        elif kind == _REPLY:
            reply = _way(data, begin, stop)
            break
    return _Connection(original, reply, key) if original is not None and reply is not None else None


def _way(data: bytes, start: int, end: int) -> _Way:
    found: dict[tuple[int, int], bytes] = {}
    for kind, begin, stop in _attributes(data, start, end):
        if kind in (_ADDRESSES, _PROTOCOL):
            for inner, first, last in _attributes(data, begin, stop):
                found[kind, inner] = data[first:last]
    port = found.get((_PROTOCOL, 3), b"")
    # CTA_IP_V4_SRC and _DST are 1 and 2, those of IPv6 are 3 and 4.
    return _Way(
        found.get((_ADDRESSES, 1)) or found.get((_ADDRESSES, 3), b""),
        found.get((_ADDRESSES, 2)) or found.get((_ADDRESSES, 4), b""),
        found.get((_PROTOCOL, 1), b"\0")[0],
        int.from_bytes(port, "big"),
    )


def _attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(kind, where its value begins, where it ends)."""
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        yield kind & _KIND, start + _ATTRIBUTE.size, start + length
        start += (length + 3) & ~3
