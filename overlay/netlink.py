"""A route netlink socket that sends many messages at once.

rtnetlink encodes the messages; this module only carries them: a thousand forwarding entries are a few system calls. A
socket stays in the namespace it was opened in, whatever its thread enters later. Blocking: it belongs on the overlay's
kernel thread. It never decides what to send.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Self

from flota.overlay.errors import KernelRefused
from flota.overlay.rtnetlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELRULE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETRULE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTM_SETLINK,
    Answer,
    Attribute,
    decode,
    encode,
)

__all__ = [
    "CREATE",
    "RTM_DELLINK",
    "RTM_DELNEIGH",
    "RTM_DELRULE",
    "RTM_NEWADDR",
    "RTM_NEWLINK",
    "RTM_NEWNEIGH",
    "RTM_NEWROUTE",
    "RTM_NEWRULE",
    "RTM_SETLINK",
    "Message",
    "RouteSocket",
    "add",
    "message",
    "remove",
    "replace",
]

CREATE = NLM_F_CREATE | NLM_F_EXCL

_ERROR = struct.Struct("=i")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
# As many bytes as go out before answers are read: answers (one per message) must fit into the receive buffer.
_CHUNK = 32 * 1024
_RECEIVE_BUFFER = 4 * 1024 * 1024
_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10


class Message:
    """One encoded request, and the words for the error if the kernel refuses it."""

    __slots__ = ("data", "ignore", "what")

    def __init__(self, data: bytearray, what: str, ignore: tuple[int, ...]) -> None:
        self.data = data
        self.what = what
        self.ignore = ignore


def message(
    kind: int, how: int, what: str, *, attributes: Iterable[Attribute], ignore: tuple[int, ...] = (), **fields: Any
) -> Message:
    """Encode a request of `kind` (RTM_…); `how`: NLM_F_… flags.

    `fields` are the fixed part's; `ignore` lists errnos that are no error.
    """
    return Message(encode(kind, NLM_F_REQUEST | NLM_F_ACK | how, fields, attributes), what, ignore)


def add(kind: int, what: str, *, attributes: Iterable[Attribute], **fields: Any) -> Message:
    """A request for a thing that must not be there yet."""
    return message(kind, CREATE, what, attributes=attributes, **fields)


def replace(kind: int, what: str, *, attributes: Iterable[Attribute], **fields: Any) -> Message:
    """A request for a thing, whether it is there or not."""
    return message(kind, NLM_F_CREATE | NLM_F_REPLACE, what, attributes=attributes, **fields)


def remove(kind: int, what: str, *, attributes: Iterable[Attribute], **fields: Any) -> Message:
    """A request that a thing be gone; fine if it is already."""
    gone = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)
    return message(kind, 0, what, attributes=attributes, ignore=gone, **fields)


class RouteSocket:
    """NETLINK_ROUTE in the namespace the calling thread is in now."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # answers without a copy of the request
        self._socket.settimeout(10)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, messages: Iterable[Message]) -> None:
        """Send in order and wait for every answer. All are tried; raises KernelRefused for the first refusal."""
        refusal: KernelRefused | None = None
        for chunk in _chunks(messages):
            refusal = self._send_chunk(chunk) or refusal
        if refusal is not None:
            raise refusal

    def _send_chunk(self, chunk: list[Message]) -> KernelRefused | None:
        first = self._sequence + 1
        for one in chunk:
            self._sequence += 1
            struct.pack_into("=I", one.data, 8, self._sequence)
        self._socket.send(b"".join(one.data for one in chunk))
        refusal = None
        missing = len(chunk)
        while missing:
            for kind, sequence, payload in _split(self._socket.recv(65536)):
                if kind != _NLMSG_ERROR or sequence < first:
                    continue
                missing -= 1
                number = -_ERROR.unpack_from(payload)[0]
                one = chunk[sequence - first]
                if number and number not in one.ignore and refusal is None:
                    refusal = KernelRefused(one.what, number, os.strerror(number))
        return refusal

    def links(self) -> dict[str, int]:
        """Interfaces of the namespace: name → index."""
        return {link.attributes["IFLA_IFNAME"]: link.fields["index"] for link in self._dump(RTM_GETLINK)}

    def link(self, name: str) -> int | None:
        """Index of one interface, or None; one small answer instead of a dump."""
        request = encode(RTM_GETLINK, NLM_F_REQUEST, {}, [("IFLA_IFNAME", name)])
        self._sequence += 1
        struct.pack_into("=I", request, 8, self._sequence)
        self._socket.send(request)
        while True:
            for kind, sequence, payload in _split(self._socket.recv(65536)):
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    return None
                return int(struct.unpack_from("=i", payload, 4)[0])

    def addresses(self, index: int) -> list[str]:
        """Addresses of one interface, without prefix length."""
        entries = (entry for entry in self._dump(RTM_GETADDR) if entry.fields["index"] == index)
        return [str(one.attributes.get("IFA_LOCAL") or one.attributes.get("IFA_ADDRESS")) for one in entries]

    def holders(self) -> dict[str, int]:
        """Which interface has which address (without prefix length): address → index."""
        return {
            str(entry.attributes.get("IFA_LOCAL") or entry.attributes.get("IFA_ADDRESS")): entry.fields["index"]
            for entry in self._dump(RTM_GETADDR)
        }

    def mtu_of_address(self, address: str) -> int | None:
        """MTU (bytes) of the interface that has `address`, or None if none has."""
        links = [(link.fields["index"], int(link.attributes["IFLA_MTU"])) for link in self._dump(RTM_GETLINK)]
        for index, mtu in links:
            if address in self.addresses(index):
                return mtu
        return None

    def marks(self) -> set[int]:
        """Marks that routing rules look for."""
        found = (rule.attributes.get("FRA_FWMARK", 0) for rule in self._dump(RTM_GETRULE, socket.AF_INET))
        return {mark for mark in found if mark}

    def neighbours(self, family: int) -> list[Answer]:
        """All neighbour entries of `family` (AF_BRIDGE: forwarding entries)."""
        return list(self._dump(RTM_GETNEIGH, family))

    def _dump(self, kind: int, family: int = 0) -> Iterator[Answer]:
        self._sequence += 1
        request = encode(kind, NLM_F_REQUEST | NLM_F_DUMP, {"family": family}, [])
        struct.pack_into("=I", request, 8, self._sequence)
        self._socket.send(request)
        while True:
            data = self._socket.recv(262144)
            offset = 0
            while offset < len(data):
                length, kind, _flags, sequence, _pid = HEADER.unpack_from(data, offset)
                if sequence == self._sequence:
                    if kind == _NLMSG_DONE:
                        return
                    if kind == _NLMSG_ERROR:
                        number = -_ERROR.unpack_from(data, offset + 16)[0]
                        raise KernelRefused("list", number, os.strerror(number))
                    yield decode(data[offset : offset + length])
                offset += (length + 3) & ~3


def _chunks(messages: Iterable[Message]) -> Iterator[list[Message]]:
    chunk: list[Message] = []
    size = 0
    for one in messages:
        if size + len(one.data) > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += len(one.data)
    if chunk:
        yield chunk


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence number, payload) of every message in a datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _flags, sequence, _pid = HEADER.unpack_from(data, offset)
        yield kind, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3
