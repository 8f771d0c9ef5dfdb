"""Names and addresses that follow from others: MACs, interface names, link addresses of the way out.

All of it is arithmetic, so that every node comes to the same result without asking.
"""

import ipaddress
from collections.abc import Container
from functools import lru_cache
from pathlib import Path

from flota.overlay.errors import BadAddress
from flota.v1.mac_addresses import four_bytes, mac_text

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# VXLAN's cost per packet over IPv4 and IPv6: outer Ethernet is not counted, the inner one is.
_VXLAN_OVERHEAD = {4: 50, 6: 70}
# The way out of a network is a link of two addresses from 169.254.192.0/18: never routed, and apart from the
# 169.254.169.254 that clouds answer on.
EXIT_RANGE = "169.254.192.0/18"
EXIT_LINKS = 8192
# The same for IPv6, and for next hops; unique local, beside the one that WireGuard's ends have (tunnel_keys.py).
EXIT_RANGE_IPV6 = "fd7a:f108::/64"
_HOPS_IPV6 = int(ipaddress.IPv6Address("fd7a:f108:0:1::"))


def interface(field: str, value: str) -> Interface:
    """Parse "10.0.1.5/24". Raises BadAddress that names `field`."""
    try:
        return ipaddress.ip_interface(value)
    except ValueError:
        raise BadAddress(field, value, "an address with a prefix length, such as 10.0.1.5/24") from None


@lru_cache(maxsize=4096)
def node_mac(vtep: str) -> str:
    """MAC of a node's own end on every network: 02:66 and its VXLAN endpoint's address."""
    return mac_text(b"\x02\x66" + four_bytes(ipaddress.ip_address(vtep)))


def node_hop(vtep: str, version: int = 4) -> str:
    """The address of an IP version under which a network's own namespace knows another node as a next hop."""
    mark = node_mark(vtep)
    # None of one link only: the kernel would tell tasks of it as a shorter way.
    return hop_of_mark(mark) if version == 4 else str(ipaddress.IPv6Address(_HOPS_IPV6 + mark))


def node_mark(vtep: str) -> int:
    """What connections that came in through a node are marked with; also the number of the routing table back."""
    return int.from_bytes(four_bytes(ipaddress.ip_address(vtep)), "big")


def hop_of_mark(mark: int) -> str:
    """The next hop of IPv4 that a mark stands for: the inverse of `node_mark`, as far as `node_hop`."""
    return str(ipaddress.IPv4Address(mark))


def version_of(address: str) -> int:
    """4 or 6."""
    return ipaddress.ip_address(address).version


def mtu_over(underlay: int, vtep: str) -> int:
    """Largest packet a network over an underlay of MTU `underlay` can carry in one piece."""
    return underlay - _VXLAN_OVERHEAD[ipaddress.ip_address(vtep).version]


def exit_name(network_id: str) -> str:
    """Interface in the node's namespace through which a network's tasks reach the world (15 characters at most)."""
    return f"fl-{network_id[:12]}"


def exit_index(vni: int, taken: Container[int]) -> int:
    """A free number for a network's way out: its VNI folded into the range, or the next free one."""
    for step in range(EXIT_LINKS):
        index = (vni + step) % EXIT_LINKS
        if index not in taken:
            return index
    raise BadAddress("network", str(vni), f"possible: this node already has {EXIT_LINKS} networks")


def exit_addresses(index: int, version: int = 4) -> tuple[str, str]:
    """(node's end, network's end) of the way out with number `index`; they form a /31 (IPv6: /127)."""
    first = ipaddress.ip_network(EXIT_RANGE if version == 4 else EXIT_RANGE_IPV6)[2 * index]
    return str(first), str(first + 1)


def exit_number(address: str) -> int:
    """The number of the way out that has the IPv4 `address` at one of its ends."""
    return (int(ipaddress.IPv4Address(address)) - int(ipaddress.IPv4Network(EXIT_RANGE)[0])) // 2


def port_name(task_id: str) -> str:
    """Name of a task's bridge port within its network's namespace."""
    return f"t{task_id[:14]}"


def task_namespace(run_directory: Path, task_id: str) -> Path:
    return run_directory / "netns" / task_id


def network_namespace(run_directory: Path, network_id: str) -> Path:
    """Beside the tasks' ones; ids have no hyphen, so the two cannot be confused."""
    return run_directory / "netns" / f"net-{network_id}"
