"""Published ports: who answers a port of the node, and the nftables maps that say so. Pure.

A packet for a port of the node goes two steps, and its sender's address is kept in both:
in the node's namespace (`published`, and `published6` for IPv6: protocol, port → the network's end of its way out), and
in the network's own namespace (a chain per port: in turn to one of the ready tasks, at the port they listen on). For
the ingress network these may be tasks of any node; ports in host mode lead to the one task they belong to.

A port of one address of the node (`local`, `local6`) has a number of its own in the network's namespace: others may
have the same port at other addresses of the node, for other tasks of that network.
"""

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from flota.overlay.addresses import version_of
from flota.overlay.proxy_protocol import leads_to
from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.types_pb2 import PortConfig

# (protocol, port)
Port = tuple[str, int]
# As the node has it: with the one of its addresses that leads there, if not all do.
NodePort = tuple[str, int] | tuple[str, int, str]

P = TypeVar("P", Port, NodePort)

_PROTOCOLS = {PortConfig.PROTOCOL_TCP: "tcp", PortConfig.PROTOCOL_UDP: "udp", PortConfig.PROTOCOL_SCTP: "sctp"}


@dataclass(frozen=True)
class Target:
    """What stands behind a port: addresses of ready tasks, of either IP version, and the port they listen on."""

    addresses: tuple[str, ...]
    port: int


Ports = dict[Port, Target]


def port_of(config: PortConfig) -> Port:
    return _PROTOCOLS[config.protocol], config.published_port


def ingress_ports(services: Iterable[NetworkService], peers: Iterable[NetworkPeer]) -> Ports:
    """Ports of an ingress network. One without a ready task is there too: it is refused rather than unanswered."""
    ready: dict[str, list[str]] = {}
    for peer in peers:
        if peer.ready:
            ready.setdefault(peer.service_id, []).extend(address.partition("/")[0] for address in peer.addresses)
    return {
        port_of(config): Target(tuple(sorted(ready.get(service.service_id, ()))), leads_to(config))
        for service in services
        for config in service.ports
        if config.publish_mode == PortConfig.PUBLISH_MODE_INGRESS and config.published_port
    }


def network_change(old: Mapping[Port, Target], new: Mapping[Port, Target], random: Random) -> str:
    """Commands for a network's namespace that lead from `old` to `new`; "" if there is nothing to do."""
    lines: list[str] = []
    for protocol, port in sorted(old.keys() - new.keys()):
        chain = f"pub_{protocol}_{port}"
        lines += [
            f"delete element inet flota published {{ {protocol} . {port} }}",
            f"flush chain inet flota {chain}",
            f"delete chain inet flota {chain}",
        ]
    for (protocol, port), target in sorted(new.items()):
        if old.get((protocol, port)) == target:
            continue
        chain = f"pub_{protocol}_{port}"
        known = (protocol, port) in old
        lines += [f"add chain inet flota {chain}", f"flush chain inet flota {chain}"]
        for version in (4, 6):
            row = [address for address in target.addresses if version_of(address) == version]
            if row:
                to = _spread(row, target.port, version, random)
                lines.append(f"add rule inet flota {chain} meta nfproto ipv{version} {protocol} dport {port} {to}")
        if not known:
            lines.append(f"add element inet flota published {{ {protocol} . {port} : goto {chain} }}")
    return "".join(f"{line}\n" for line in lines)


def node_change(old: Mapping[NodePort, tuple[str, ...]], new: Mapping[NodePort, tuple[str, ...]]) -> str:
    """Commands for the node's namespace; values are the addresses of networks' ends of their ways out, one of each IP
    version by which the port is reached. Those of a port of one address say the port there, too: `inner`.
    """
    before, after = _elements(old), _elements(new)
    lines = [f"delete element inet flota {at} {{ {port} }}" for at, port, _ in sorted(before - after)]
    lines += [f"add element inet flota {at} {{ {port} : {address} }}" for at, port, address in sorted(after - before)]
    return "".join(f"{line}\n" for line in lines)


def inner(way: str, number: int) -> str:
    """Where a port of one address leads to: a network's end of its way out, and the port's number there."""
    return f"{way} . {number}"


def inner_number(leads_to: str) -> int:
    """The number of `inner`."""
    return int(leads_to.rpartition(" . ")[2])


def _elements(node: Mapping[NodePort, tuple[str, ...]]) -> set[tuple[str, str, str]]:
    """(map, key, address)"""
    return {
        (_map_of(port, address), " . ".join(map(str, port)), address)
        for port, addresses in node.items()
        for address in addresses
    }


def _map_of(port: NodePort, address: str) -> str:
    if len(port) == 3:
        return "local" if version_of(port[2]) == 4 else "local6"
    return "published" if version_of(address) == 4 else "published6"


def opened_datagram_ports(
    old: Mapping[P, Target | tuple[str, ...]], new: Mapping[P, Target | tuple[str, ...]]
) -> set[tuple[int, int]]:
    """(IP protocol, port) of datagram ports that lead somewhere now and did not before. (TCP begins anew anyway.)"""
    return {
        (socket.IPPROTO_UDP, port[1])
        for port, leads_to in new.items()
        if port[0] == "udp" and _is_open(leads_to) and not _is_open(old.get(port, ()))
    }


def _is_open(leads_to: Target | tuple[str, ...]) -> bool:
    return bool(leads_to.addresses if isinstance(leads_to, Target) else leads_to)


def network_loaded(listing: str) -> Ports:
    """Ports that a listing of a network's table shows, with a target that equals none."""
    found = re.findall(r"chain pub_(tcp|udp|sctp)_(\d+) ", listing)
    return {(protocol, int(port)): Target(("?",), 0) for protocol, port in found}


def addresses_loaded(listing: str) -> set[str]:
    """Addresses of tasks that a listing of a network's table shows."""
    pattern = r"(\d+(?:\.\d+){3})(?: \.|:)|\[([0-9a-f:]+)\]:|: ([0-9a-f]*:[0-9a-f:]+) \."
    return {"".join(found) for found in re.findall(pattern, listing)}


def node_loaded(listing: str) -> dict[NodePort, tuple[str, ...]]:
    """Ports that a listing of the node's table shows."""
    result: dict[NodePort, tuple[str, ...]] = {}
    pattern = r"(tcp|udp|sctp) \. (\d+)(?: \. ([0-9a-f.:]+))? : ([0-9a-f.:]+(?: \. \d+)?)"
    for protocol, number, at, way in re.findall(pattern, listing):
        port: NodePort = (protocol, int(number), at) if at else (protocol, int(number))
        result[port] = (*result.get(port, ()), way)
    return result


def _spread(addresses: list[str], port: int, version: int, random: Random) -> str:
    family = "ip" if version == 4 else "ip6"
    if len(addresses) == 1:
        only = addresses[0] if version == 4 else f"[{addresses[0]}]"
        return f"dnat {family} to {only}:{port}"
    start = random.randrange(len(addresses))
    row = addresses[start:] + addresses[:start]
    elements = ", ".join(f"{number} : {address} . {port}" for number, address in enumerate(row))
    return f"dnat {family} to numgen inc mod {len(row)} map {{ {elements} }}"
