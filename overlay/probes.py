"""Questions to the network between this namespace and another address, of either IP version. Blocking, and they need
root.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

from flota.overlay.addresses import version_of

_PROBE = 3  # IP_PMTUDISC_PROBE: do not fragment, and ask the wire instead of what is remembered of it
# Seconds for an answer, and how often it is asked for before silence counts.
_PATIENCE = 0.4
_TRIES = 3


@dataclass(frozen=True)
class _Family:
    """What differs between the IP versions: the names of socket options, sizes of headers, types of ICMP's messages."""

    family: socket.AddressFamily
    # IP's and ICMP's.
    headers: int
    icmp: int
    level: int
    discover: int
    mtu: int
    asks: int
    answers: int
    # Whether what arrives begins with the IP header.
    with_header: bool


_FOUR = _Family(socket.AF_INET, 28, socket.IPPROTO_ICMP, socket.IPPROTO_IP, 10, 14, 8, 0, True)
_SIX = _Family(socket.AF_INET6, 48, socket.IPPROTO_ICMPV6, socket.IPPROTO_IPV6, 23, 24, 128, 129, False)


def _family(address: str) -> _Family:
    return _FOUR if version_of(address) == 4 else _SIX


def round_trip(address: str, size: int = 64) -> float | None:
    """Seconds until a packet of `size` bytes that must not be cut is answered, or None."""
    for _ in range(_TRIES):
        try:
            took = _echo(address, size)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return None
            raise
        if took is not None:
            return took
    return None


def interface_mtu(address: str) -> int:
    """Bytes that this machine believes to pass in one packet."""
    family = _family(address)
    with socket.socket(family.family, socket.SOCK_DGRAM) as way:
        way.connect((address, 9))
        return int(way.getsockopt(family.level, family.mtu))


def largest(address: str, limit: int) -> int:
    """The largest packet, up to `limit` bytes, that is answered; 0 if none is."""
    passes, fails = 0, limit + 1
    while fails - passes > 1:
        middle = limit if passes == 0 and fails == limit + 1 else max((passes + fails) // 2, 64)
        if middle <= passes:
            break
        if round_trip(address, middle) is not None:
            passes = middle
        else:
            fails = middle
            if middle <= 64:
                return 0
    return passes


def rejected(address: str, port: int) -> bool:
    """Whether something on the way rejects UDP to this port. (A port that nobody listens on rejects nothing.)"""
    with socket.socket(_family(address).family, socket.SOCK_DGRAM) as trial:
        trial.connect((address, port))
        trial.settimeout(_PATIENCE)
        try:
            trial.send(b"\0")
            trial.recv(1)
        except (TimeoutError, ConnectionRefusedError):
            return False
        except OSError as error:
            return error.errno in (errno.EHOSTUNREACH, errno.EACCES, errno.ENETUNREACH, errno.EPERM)
    return False


def _echo(address: str, size: int) -> float | None:
    """One ICMP echo."""
    family = _family(address)
    with socket.socket(family.family, socket.SOCK_RAW, family.icmp) as way:
        way.setsockopt(family.level, family.discover, _PROBE)
        token = os.urandom(4)
        payload = bytes(max(0, size - family.headers))
        packet = struct.pack("!BBH4s", family.asks, 0, 0, token) + payload
        if family is _FOUR:
            # The kernel does that for ICMPv6.
            packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
        begun = time.monotonic()
        way.sendto(packet, (address, 0))
        while (left := begun + _PATIENCE - time.monotonic()) > 0:
            if not select.select([way], [], [], left)[0]:
                break
            answer = way.recv(65536)
            start = (answer[0] & 15) * 4 if family.with_header else 0
            if answer[start] == family.answers and answer[start + 4 : start + 8] == token:
                return time.monotonic() - begun
    return None


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) % 2 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
