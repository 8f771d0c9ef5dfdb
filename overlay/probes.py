"""Questions to the network between this namespace and another address. Blocking, and they need root."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

_PROBE = 3  # IP_PMTUDISC_PROBE: do not fragment, and ask the wire instead of what is remembered of it
_IP_MTU_DISCOVER, _IP_MTU = 10, 14
_HEADERS = 28  # IPv4 and ICMP
# Seconds for an answer, and how often it is asked for before silence counts.
_PATIENCE = 0.4
_TRIES = 3


def round_trip(address: str, size: int = 64) -> float | None:
    """Seconds until an IPv4 packet of `size` bytes that must not be cut is answered, or None."""
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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((address, 9))
        return int(way.getsockopt(socket.IPPROTO_IP, _IP_MTU))


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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
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
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as way:
        way.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        token = os.urandom(4)
        payload = bytes(max(0, size - _HEADERS))
        packet = struct.pack("!BBH4s", 8, 0, 0, token) + payload
        packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
        begun = time.monotonic()
        way.sendto(packet, (address, 0))
        while (left := begun + _PATIENCE - time.monotonic()) > 0:
            if not select.select([way], [], [], left)[0]:
                break
            answer = way.recv(65536)
            start = (answer[0] & 15) * 4
            if answer[start] == 0 and answer[start + 4 : start + 8] == token:
                return time.monotonic() - begun
    return None


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) % 2 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
