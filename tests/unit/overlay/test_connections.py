"""Tracked connections as the kernel lists them."""

import socket
import struct

import pytest

from flota.overlay import connections
from flota.overlay.errors import KernelRefused


def attribute(kind: int, value: bytes, nested: int = 0) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind | nested) + value).ljust((4 + len(value) + 3) & ~3, b"\0")


def way(kind: int, source: str, destination: str, protocol: int, ports: tuple[int, int] | None) -> bytes:
    ip = attribute(1, socket.inet_aton(source)) + attribute(2, socket.inet_aton(destination))
    proto = attribute(1, bytes([protocol]))
    for number, port in enumerate(ports or (), 2):
        proto += attribute(number, port.to_bytes(2, "big"))
    return attribute(kind, attribute(1, ip, 0x8000) + attribute(2, proto, 0x8000), 0x8000)


def test_both_directions_and_the_kernels_own_words_for_the_first_are_read() -> None:
    original = way(1, "192.0.2.9", "169.254.192.1", 6, (40000, 8080))
    entry = original + way(2, "10.0.0.5", "192.0.2.9", 6, (80, 40000)) + attribute(3, b"\0\0\0\0")
    found = connections._connection(entry, 0, len(entry))
    assert found is not None
    assert found.key == original
    assert found.original == (socket.inet_aton("192.0.2.9"), socket.inet_aton("169.254.192.1"), 6, 8080)
    assert found.reply == (socket.inet_aton("10.0.0.5"), socket.inet_aton("192.0.2.9"), 6, 40000)


def test_a_connection_without_ports_and_half_an_entry() -> None:
    ping = way(1, "192.0.2.9", "10.0.0.5", 1, None)
    entry = ping + way(2, "10.0.0.5", "192.0.2.9", 1, None)
    found = connections._connection(entry, 0, len(entry))
    assert found is not None
    assert (found.original.protocol, found.original.port) == (1, 0)
    assert connections._connection(ping, 0, len(ping)) is None


def test_a_refusal_is_one_line_unless_it_is_expected() -> None:
    gone = struct.pack("=IHHII", 36, 2, 0, 1, 0) + struct.pack("=i", -2)
    connections._check(gone, 2)
    with pytest.raises(KernelRefused, match="connection tracking: No such file or directory"):
        connections._check(gone)
