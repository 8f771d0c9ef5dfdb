"""Subnets and VXLAN identifiers for networks, and the addresses within them.

In memory; rebuilt from the store when a manager becomes leader. It decides what is given, and writes nothing.
Defaults: pools of the cluster cut in subnets of its length (IPv6: /64), 10.0.0.0/24 left to the ingress network, VNIs
from 4096 (SwarmKit's allocator and libnetwork's overlay manager). Without a pool of IPv6 its subnets are unique local.
"""

import hashlib
import ipaddress
from collections.abc import Iterable

from flota.manager.allocator.addresses import Exhausted, Numbers, Subnet, Taken
from flota.v1.objects_pb2 import Network
from flota.v1.types_pb2 import IpamConfig

FIRST_VNI = 4096
LAST_VNI = (1 << 24) - 1
DEFAULT_POOLS = ("10.0.0.0/8",)
DEFAULT_LENGTH = 24
IPV6_LENGTH = 64
INGRESS_SUBNET = ipaddress.IPv4Network("10.0.0.0/24")


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Stands for an IPv6 subnet that nobody chose.
_SIX = IpamConfig()


class Networks:
    """Which subnets, identifiers and addresses are in use."""

    def __init__(self, pools: Iterable[str] = DEFAULT_POOLS, length: int = DEFAULT_LENGTH) -> None:
        parsed = list(map(ipaddress.ip_network, pools))
        self._pools = {version: [pool for pool in parsed if pool.version == version] for version in (4, 6)}
        self._lengths = {4: length, 6: IPV6_LENGTH}
        self._vnis = Numbers(FIRST_VNI, LAST_VNI, "VXLAN identifier")
        self._subnets: dict[str, list[Subnet]] = {}
        self._vni_of: dict[str, int] = {}

    def __contains__(self, network_id: str) -> bool:
        return network_id in self._subnets

    @staticmethod
    def is_allocated(network: Network) -> bool:
        """Whether a network has what it needs."""
        return bool(network.vni and network.ipam)

    def restore(self, network: Network) -> None:
        """Take over what a network was given before (by a leader before this one)."""
        if network.id in self._subnets or not self.is_allocated(network):
            return
        self._vnis.take(network.vni)
        self._keep(network)

    def allocate(self, network: Network) -> Network:
        """A copy of the network with subnets and VNI. Raises Exhausted, and Taken when a subnet it asks for is used."""
        given = Network()
        given.CopyFrom(network)
        del given.ipam[:]
        for asked in _asked(network):
            config = given.ipam.add()
            config.CopyFrom(asked)
            if asked is _SIX:
                subnet = self._next_subnet(6) if self._pools[6] else self._next_local(network.id)
            else:
                subnet = self._checked(asked.subnet) if asked.subnet else self._next_subnet(4)
            config.subnet = str(subnet)
            if not config.gateway:
                config.gateway = str(subnet.network_address + 1)
        given.vni = self._vnis.give()
        self._keep(given)
        return given

    def release(self, network_id: str) -> None:
        """The network is gone (or what was given to it was not committed)."""
        self._subnets.pop(network_id, None)
        vni = self._vni_of.pop(network_id, None)
        if vni is not None:
            self._vnis.free(vni)

    def versions(self, network_id: str) -> tuple[int, ...]:
        """The IP versions of a network's subnets, 4 first; of one that is not known, 4 alone."""
        return tuple(sorted({subnet.network.version for subnet in self._subnets.get(network_id, ())})) or (4,)

    def give(self, network_id: str, asked: Iterable[str] = (), versions: Iterable[int] = (4, 6)) -> list[str]:
        """Addresses on a network, with prefix lengths, IPv4 first: those asked for, and one of each other version.

        Raises Exhausted, Taken, KeyError; then nothing is given.
        """
        subnets = self._subnets[network_id]
        given: list[str] = []
        try:
            for address in asked:
                given.append(_subnet_of(subnets, address).take(address))
            for version in {
                version: None for version in versions if not any(version_of(one) == version for one in given)
            }:
                here = [subnet for subnet in subnets if subnet.network.version == version]
                if here:
                    given.append(_first_free(here))
        except (Exhausted, Taken):
            self.take_back(network_id, given)
            raise
        return sorted(given, key=version_of)

    def take(self, network_id: str, addresses: Iterable[str]) -> None:
        """Take over addresses that were given before; ones that cannot be are left alone."""
        for address in addresses:
            try:
                _subnet_of(self._subnets.get(network_id, []), address).take(address)
            except Taken:
                continue

    def take_back(self, network_id: str, addresses: Iterable[str]) -> None:
        """Addresses are not used any longer."""
        for address in addresses:
            try:
                _subnet_of(self._subnets.get(network_id, []), address).free(address)
            except Taken:
                continue

    def _keep(self, network: Network) -> None:
        name = network.spec.annotations.name
        self._subnets[network.id] = [
            Subnet(config.subnet, config.gateway, config.range, config.reserved.values(), name)
            for config in network.ipam
        ]
        self._vni_of[network.id] = network.vni

    def _used(self) -> list[_Network]:
        return [subnet.network for subnets in self._subnets.values() for subnet in subnets]

    def _checked(self, subnet: str) -> _Network:
        asked = ipaddress.ip_network(subnet)
        for used in self._used():
            if asked.overlaps(used):
                raise Taken(f"subnet {asked} overlaps {used}, which another network has")
        return asked

    def _next_local(self, network_id: str) -> ipaddress.IPv6Network:
        """A unique local /64 (RFC 4193) that follows from the network's id."""
        for attempt in range(1000):
            digest = hashlib.sha256(f"{network_id} {attempt}".encode()).digest()[:7]
            subnet = ipaddress.IPv6Network((b"\xfd" + digest + bytes(8), 64))
            if not any(subnet.overlaps(used) for used in self._used()):
                return subnet
        raise Exhausted("no free unique local subnet of length /64")

    def _next_subnet(self, version: int) -> _Network:
        length, pools = self._lengths[version], self._pools[version]
        used = [net for net in (*self._used(), INGRESS_SUBNET) if net.version == version]
        taken = {net for net in used if net.prefixlen == length}
        others = [net for net in used if net.prefixlen != length]
        for pool in pools:
            if pool.prefixlen > length:
                continue
            for subnet in pool.subnets(new_prefix=length):
                if subnet not in taken and not any(subnet.overlaps(other) for other in others):
                    return subnet
        raise Exhausted(f"no free subnet of length /{length} in {', '.join(map(str, pools))}")


def _asked(network: Network) -> list[IpamConfig]:
    """What the network asks for, with an IPv4 subnet in any case, and an IPv6 one if that is wanted."""
    asked = list(network.spec.ipam)
    if all(":" in one.subnet for one in asked):
        asked.insert(0, IpamConfig())
    if network.spec.ipv6_enabled and not any(":" in one.subnet for one in asked):
        asked.append(_SIX)
    return asked


def version_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def _first_free(subnets: list[Subnet]) -> str:
    for subnet in subnets[:-1]:
        try:
            return subnet.give()
        except Exhausted:
            continue
    return subnets[-1].give()


def _subnet_of(subnets: list[Subnet], address: str) -> Subnet:
    wanted = ipaddress.ip_address(address.partition("/")[0])
    for subnet in subnets:
        if wanted in subnet.network:
            return subnet
    raise Taken(f"address {wanted} is in none of the network's subnets")
