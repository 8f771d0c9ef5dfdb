"""Route netlink's messages, as far as the overlay speaks them: encoded and decoded. Pure.

A message is a header, a fixed part by its kind, and attributes (linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h,
fib_rules.h). pyroute2 knows all of them; importing it takes a tenth of a second and twelve megabytes in every worker.
"""

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE = 24
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = 0x3FFF  # without the flags of nested attributes
_NESTED = 0x8000

# (name, value); the value of one that holds others is a list of such.
Attribute: TypeAlias = tuple[str, Any]


class _Codec(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _number(layout: str) -> _Codec:
    packed = struct.Struct(layout)
    return _Codec(packed.pack, lambda data: packed.unpack_from(data)[0])


def _mac(data: bytes) -> str:
    return data.hex(":")


_U8, _U32, _BE16 = _number("=B"), _number("=I"), _number(">H")
_TEXT = _Codec(lambda text: text.encode() + b"\0", lambda data: data.rstrip(b"\0").decode())
_MAC = _Codec(lambda text: bytes.fromhex(text.replace(":", "")), _mac)
_IP = _Codec(
    lambda text: ipaddress.ip_address(text).packed,
    lambda data: str(ipaddress.ip_address(data)) if len(data) in (4, 16) else "",
)


@dataclass(frozen=True)
class _Nest:
    """An attribute that holds others, perhaps after a fixed part of zeros."""

    attributes: "_Table"
    before: int = 0
    flag: int = 0


_Table: TypeAlias = dict[str, tuple[int, "_Codec | _Nest"]]

_BRIDGE: _Table = {"IFLA_BR_FORWARD_DELAY": (1, _U32), "IFLA_BR_MCAST_SNOOPING": (23, _U8)}
_VXLAN: _Table = {
    "IFLA_VXLAN_ID": (1, _U32),
    "IFLA_VXLAN_LOCAL": (4, _IP),
    "IFLA_VXLAN_LEARNING": (7, _U8),
    "IFLA_VXLAN_PORT": (15, _BE16),
    "IFLA_VXLAN_LOCAL6": (17, _IP),
    "IFLA_VXLAN_UDP_ZERO_CSUM6_TX": (19, _U8),
    "IFLA_VXLAN_UDP_ZERO_CSUM6_RX": (20, _U8),
}
_PORT: _Table = {
    "IFLA_BRPORT_LEARNING": (8, _U8),
    "IFLA_BRPORT_UNICAST_FLOOD": (9, _U8),
    "IFLA_BRPORT_MCAST_FLOOD": (27, _U8),
    "IFLA_BRPORT_BCAST_FLOOD": (30, _U8),
    "IFLA_BRPORT_NEIGH_SUPPRESS": (32, _U8),
}
_LINK: _Table = {
    "IFLA_ADDRESS": (1, _MAC),
    "IFLA_IFNAME": (3, _TEXT),
    "IFLA_MTU": (4, _U32),
    "IFLA_MASTER": (10, _U32),
    "IFLA_PROTINFO": (12, _Nest(_PORT, flag=_NESTED)),
    "IFLA_NET_NS_FD": (28, _U32),
}
# The other end of a pair is described as a link is: struct ifinfomsg, then attributes.
_INFO: _Table = {
    "IFLA_INFO_KIND": (1, _TEXT),
    "IFLA_INFO_DATA": (2, _Nest({**_BRIDGE, **_VXLAN, "VETH_INFO_PEER": (1, _Nest(_LINK, before=16))})),
}
_LINK["IFLA_LINKINFO"] = (18, _Nest(_INFO))
_ADDRESS: _Table = {"IFA_ADDRESS": (1, _IP), "IFA_LOCAL": (2, _IP)}
_ROUTE: _Table = {
    "RTA_DST": (1, _IP),
    "RTA_OIF": (4, _U32),
    "RTA_GATEWAY": (5, _IP),
    "RTA_PRIORITY": (6, _U32),
    "RTA_PREFSRC": (7, _IP),
    "RTA_TABLE": (15, _U32),
}
_RULE: _Table = {"FRA_DST": (1, _IP), "FRA_PRIORITY": (6, _U32), "FRA_FWMARK": (10, _U32), "FRA_TABLE": (15, _U32)}
_NEIGHBOUR: _Table = {"NDA_DST": (1, _IP), "NDA_LLADDR": (2, _MAC)}


class _Kind:
    """The fixed part of some messages, and their attributes."""

    def __init__(self, layout: str, fields: str, table: _Table) -> None:
        self.fixed = struct.Struct(layout)
        self.fields = tuple(fields.split())
        self.table = table
        self.names = {number: (name, codec) for name, (number, codec) in table.items() if isinstance(codec, _Codec)}


_KINDS: dict[int, _Kind] = {}
for _numbers, _kind in [
    ((RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK), _Kind("=BxHiII", "family type index flags change", _LINK)),
    ((RTM_NEWADDR, RTM_GETADDR), _Kind("=BBBBI", "family prefixlen flags scope index", _ADDRESS)),
    ((RTM_NEWROUTE,), _Kind("=BBBBBBBBI", "family dst_len src_len tos table proto scope type flags", _ROUTE)),
    (
        (RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE),
        _Kind("=BBBBBxxBI", "family dst_len src_len tos table action flags", _RULE),
    ),
    ((RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH), _Kind("=BxxxiHBB", "family ifindex state flags type", _NEIGHBOUR)),
]:
    _KINDS.update(dict.fromkeys(_numbers, _kind))


def encode(kind: int, flags: int, fields: Mapping[str, int], attributes: Iterable[Attribute]) -> bytearray:
    """A whole message, its sequence number 0. Fields that are not given are 0."""
    form = _KINDS[kind]
    unknown = fields.keys() - set(form.fields)
    if unknown:
        raise ValueError(f"message {kind} has no field {', '.join(unknown)}")
    body = form.fixed.pack(*(fields.get(name, 0) for name in form.fields)) + _encode(form.table, attributes)
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body)


def _encode(table: _Table, attributes: Iterable[Attribute]) -> bytes:
    parts = []
    for name, value in attributes:
        number, codec = table[name]
        if isinstance(codec, _Nest):
            number |= codec.flag
            content = bytes(codec.before) + _encode(codec.attributes, value)
        else:
            content = codec.encode(value)
        length = _ATTRIBUTE.size + len(content)
        parts.append(_ATTRIBUTE.pack(length, number) + content + bytes(-length % 4))
    return b"".join(parts)


@dataclass(frozen=True)
class Answer:
    """A message of the kernel: its fixed part, and those of its attributes that are known here."""

    fields: dict[str, int]
    attributes: dict[str, Any]


def decode(data: bytes) -> Answer:
    """A whole message, with its header."""
    _, kind, *_ = HEADER.unpack_from(data)
    form = _KINDS[kind]
    fields = dict(zip(form.fields, form.fixed.unpack_from(data, HEADER.size), strict=True))
    found = {}
    for number, value in _parts(data, HEADER.size + form.fixed.size):
        if known := form.names.get(number):
            name, codec = known
            found[name] = codec.decode(value)
    return Answer(fields, found)


def _parts(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    while start + _ATTRIBUTE.size <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size:
            return
        yield number & _NUMBER, data[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
