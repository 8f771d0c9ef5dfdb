"""The PROXY protocol's header, version 1 or 2 (HAProxy's doc/proxy-protocol.txt), and where it is added. Pure.

A published port that asks for it does not lead to the program's port but to one beside it in the task's own namespace,
on which the worker listens (proxies.py).
"""

import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from flota.v1.types_pb2 import PortConfig

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP = {4: 0x11, 6: 0x21}
# Listeners are on the topmost ports: above those that programs are given (32768 to 60999) and the DNS server's.
_FIRST, _COUNT = 61440, 4096

# (IP address, port)
End = tuple[str, int]
Version: TypeAlias = PortConfig.ProxyProtocol.ValueType


class Target(NamedTuple):
    """A port that a program listens on, and the version of the header it is told of clients with."""

    port: int
    version: Version


def listener(target_port: int) -> int:
    """The port in the task's namespace beside the one its program listens on."""
    return _FIRST + target_port % _COUNT


def leads_to(config: PortConfig) -> int:
    """The port of the task that a published port leads to."""
    return listener(config.target_port) if config.proxy_protocol else config.target_port


def proxied(ports: Iterable[PortConfig]) -> list[PortConfig]:
    """Those whose connections are to begin with a header."""
    return [port for port in ports if port.proxy_protocol]


def targets_of(ports: Iterable[PortConfig]) -> list[Target]:
    """Where those lead to, each once."""
    return sorted({Target(port.target_port, port.proxy_protocol) for port in proxied(ports)})


def header(version: Version, client: End, server: End) -> bytes:
    """What a connection of `client` to `server` begins with. Both have one IP version; IPv4 may be written as IPv6."""
    source, target = _address(client[0]), _address(server[0])
    if version == PortConfig.PROXY_PROTOCOL_V1:
        return f"PROXY TCP{source.version} {source} {target} {client[1]} {server[1]}\r\n".encode()
    addresses = source.packed + target.packed + struct.pack("!HH", client[1], server[1])
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, _TCP[source.version], len(addresses)) + addresses


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(text)
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return mapped or parsed
