"""What networks ride on, and what follows for a network on this node: its MTU, IP versions and gateways. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from flota.overlay.addresses import Interface, interface, mtu_over, version_of
from flota.overlay.tunnel_keys import PREFIX, tunnel_mtu
from flota.v1.network_options import MTU_OPTION, is_encrypted, is_local
from flota.v1.objects_pb2 import Network

_SMALLEST_MTU = 576
_LOCAL_MTU = 1500
# RFC 8200, section 5: a smaller link has no IPv6, says the kernel too.
_SMALLEST_MTU_IPV6 = 1280


@dataclass(frozen=True)
class Underlay:
    """The node's namespace, its VXLAN endpoint's address and port, the MTU between nodes (bytes), and whether the
    kernel speaks IPv6.
    """

    home: int
    address: str
    port: int
    mtu: int
    has_ipv6: bool = True


def network_mtu(network: Network, underlay: Underlay) -> int:
    """MTU of a network's interfaces, bytes: what fits through VXLAN, or less if its options ask for less.

    A network of this node alone has what the node has, and Docker's 1500 at most.
    """
    local = is_local(network.spec)
    largest = min(underlay.mtu, _LOCAL_MTU) if local else mtu_over(underlay.mtu, underlay.address)
    if is_encrypted(network.spec):
        largest = mtu_over(tunnel_mtu(underlay.mtu, version_of(underlay.address)), PREFIX)
    asked = network.spec.driver.options.get(MTU_OPTION, "")
    if asked.isdigit() and _SMALLEST_MTU <= int(asked) < largest:
        return int(asked)
    return largest


def versions(network: Network, underlay: Underlay) -> tuple[int, ...]:
    """The IP versions that a network has on this node.

    Packets of IPv6 may be too large for what is left of the underlay's MTU (1280 in many a VPN): IPv4 has to do then.
    """
    fits = network_mtu(network, underlay) >= _SMALLEST_MTU_IPV6
    return (4, 6) if network.spec.ipv6_enabled and underlay.has_ipv6 and fits else (4,)


def gateways(network: Network) -> list[Interface]:
    """Gateways with prefix length, for every subnet that names one."""
    found = []
    for ipam in network.ipam:
        if ipam.gateway and ipam.subnet:
            length = ipam.subnet.rpartition("/")[2]
            bare = ipam.gateway.partition("/")[0]
            found.append(interface("network.ipam.gateway", f"{bare}/{length}"))
    return found


def other_subnets(network: Network, addresses: Iterable[Interface]) -> list[tuple[str, str]]:
    """(subnet, the address with which it is spoken to): those of the network that none of `addresses` is in."""
    found = []
    for ipam in network.ipam:
        subnet = interface("network.ipam.subnet", ipam.subnet).network
        same = [address for address in addresses if address.version == subnet.version]
        if same and not any(address.ip in subnet for address in same):
            found.append((str(subnet), str(same[0].ip)))
    return found
