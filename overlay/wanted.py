"""What should be on this node, for all its networks together: what the model says, for the tasks that are here.

Puts the model and the attached tasks through the rules of forwarding.py, balance.py and publish.py. Reads them as they
are at the moment; changes nothing, and never looks at what the kernel has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flota.overlay import balance, forwarding, publish
from flota.overlay.balance import Balance
from flota.overlay.encryption import Encryption
from flota.overlay.forwarding import Forwarding, vtep_of
from flota.overlay.model import Model
from flota.overlay.publish import Ports
from flota.overlay.underlay import Underlay, versions
from flota.v1.objects_pb2 import Network, Task


@dataclass(frozen=True)
class Wanted:
    """Owned by one Network. `tasks` are those attached here, by their id, and follow what the Network does."""

    model: Model
    tasks: Mapping[str, Task]
    encryption: Encryption
    underlay: Underlay
    node_id: str

    def in_use(self) -> set[str]:
        """Networks that are to be on this node: some task is attached to them, or they publish ports."""
        attached = {attachment.network_id for task in self.tasks.values() for attachment in task.networks}
        return attached | self.ingress().keys()

    def ingress(self) -> dict[str, Network]:
        """The networks that publish ports."""
        return {network.id: network for network in self.model.networks.values() if network.spec.ingress}

    def forwarding(self, network_id: str) -> Forwarding:
        """Ways to the tasks of a network on other nodes."""
        network = self.model.networks.get(network_id)
        return forwarding.wanted(
            self.model.peers(network_id),
            self.node_id,
            self.underlay.address,
            ingress=network_id in self.ingress(),
            versions=versions(network, self.underlay) if network is not None else (4,),
            through=self.encryption.end_of if self.encryption.covers(network_id) else vtep_of,
        )

    def balance(self, network_ids: Iterable[str]) -> Balance:
        """Virtual addresses of some networks together."""
        result: Balance = {}
        for network_id in network_ids:
            result |= balance.wanted(self.model.services(network_id), self.model.peers(network_id))
        return result

    def mesh(self) -> dict[str, Ports]:
        """Ports that every node answers: those of each network that publishes."""
        return {
            network_id: publish.ingress_ports(self.model.services(network_id), self.model.peers(network_id))
            for network_id in self.ingress()
        }

    def alive(self) -> set[str]:
        """Addresses (without prefix length) of all tasks on this node's networks, wherever they are."""
        local = (address for task in self.tasks.values() for one in task.networks for address in one.addresses)
        known = (
            address
            for network_id in self.in_use()
            for peer in self.model.peers(network_id)
            for address in peer.addresses
        )
        return {address.partition("/")[0] for address in (*local, *known)}
