"""Subnets and VXLAN identifiers for networks, and the addresses within them.

In memory; rebuilt from the store when a manager becomes leader. It decides what is given, and writes nothing.
Defaults: pools of the cluster cut in subnets of its length, 10.0.0.0/24 left to the ingress network, VNIs from 4096
(SwarmKit's allocator and libnetwork's overlay manager).
"""

import ipaddress
from collections.abc import Iterable

from flota.manager.allocator.addresses import Exhausted, Numbers, Subnet, Taken
from flota.v1.objects_pb2 import Network
from flota.v1.types_pb2 import IpamConfig

FIRST_VNI = 4096
LAST_VNI = (1 << 24) - 1
DEFAULT_POOLS = ("10.0.0.0/8",)
DEFAULT_LENGTH = 24
INGRESS_SUBNET = ipaddress.IPv4Network("10.0.0.0/24")


class Networks:
    """Which subnets, identifiers and addresses are in use."""

    def __init__(self, pools: Iterable[str] = DEFAULT_POOLS, length: int = DEFAULT_LENGTH) -> None:
        self._pools = [ipaddress.IPv4Network(pool) for pool in pools]
        self._length = length
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
        for asked in network.spec.ipam or [IpamConfig()]:
            config = given.ipam.add()
            config.CopyFrom(asked)
            subnet = self._checked(asked.subnet) if asked.subnet else self._next_subnet()
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

    def give(self, network_id: str, asked: Iterable[str] = ()) -> list[str]:
        """Addresses on a network, with prefix lengths: those asked for, or one. Raises Exhausted, Taken, KeyError."""
        subnets = self._subnets[network_id]
        wanted = list(asked)
        if wanted:
            given: list[str] = []
            try:
                for address in wanted:
                    given.append(_subnet_of(subnets, address).take(address))
            except Taken:
                self.take_back(network_id, given)
                raise
            return given
        for subnet in subnets[:-1]:
            try:
                return [subnet.give()]
            except Exhausted:
                continue
        return [subnets[-1].give()]

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

    def _used(self) -> list[ipaddress.IPv4Network]:
        return [subnet.network for subnets in self._subnets.values() for subnet in subnets]

    def _checked(self, subnet: str) -> ipaddress.IPv4Network:
        asked = ipaddress.IPv4Network(subnet)
        for used in self._used():
            if asked.overlaps(used):
                raise Taken(f"subnet {asked} overlaps {used}, which another network has")
        return asked

    def _next_subnet(self) -> ipaddress.IPv4Network:
        used = [*self._used(), INGRESS_SUBNET]
        taken = {net for net in used if net.prefixlen == self._length}
        others = [net for net in used if net.prefixlen != self._length]
        for pool in self._pools:
            if pool.prefixlen > self._length:
                continue
            for subnet in pool.subnets(new_prefix=self._length):
                if subnet not in taken and not any(subnet.overlaps(other) for other in others):
                    return subnet
        pools = ", ".join(map(str, self._pools))
        raise Exhausted(f"no free subnet of length /{self._length} in {pools}")


def _subnet_of(subnets: list[Subnet], address: str) -> Subnet:
    wanted = ipaddress.IPv4Address(address.partition("/")[0])
    for subnet in subnets:
        if wanted in subnet.network:
            return subnet
    raise Taken(f"address {wanted} is in none of the network's subnets")
