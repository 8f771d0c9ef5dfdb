"""What the node has been told about its networks: networks, peers, services, and the names that follow. Pure.

Fed with assignment changes; a complete set replaces everything. Says which networks a change touched, and never does
anything about it.
"""

from collections.abc import Iterable

from flota.overlay.names import NameTable
from flota.v1.dispatcher_pb2 import AssignmentChange, NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Network

_KINDS = ("network", "peer", "service")


class Model:
    """The node's view of its networks. `revision` grows with every change of a name."""

    def __init__(self) -> None:
        self.complete = False
        self.revision = 0
        self.networks: dict[str, Network] = {}
        # Those of this node alone: managers do not know them.
        self.local: set[str] = set()
        self._peers: dict[str, dict[str, NetworkPeer]] = {}
        self._services: dict[str, dict[str, NetworkService]] = {}
        self._names: dict[str, NameTable] = {}

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> set[str]:
        """Take changes over; returns the ids of networks about which anything changed."""
        relevant = [change for change in changes if change.WhichOneof("item") in _KINDS]
        touched = {touched for change in relevant for touched in self._apply_one(change)}
        if complete:
            self.complete = True
            touched |= self._retain(relevant)
        if touched:
            self.revision += 1
        return touched

    def peers(self, network_id: str) -> Iterable[NetworkPeer]:
        return self._peers.get(network_id, {}).values()

    def services(self, network_id: str) -> Iterable[NetworkService]:
        return self._services.get(network_id, {}).values()

    def names(self, network_id: str) -> NameTable | None:
        """Names on a network. The ingress network has none: it is not for tasks to find each other on."""
        network = self.networks.get(network_id)
        return None if network is not None and network.spec.ingress else self._names.get(network_id)

    def _apply_one(self, change: AssignmentChange) -> Iterable[str]:
        removal = change.action == AssignmentChange.ACTION_REMOVE
        kind = change.WhichOneof("item")
        if kind == "network":
            return self._set_network(change.network, removal)
        if kind == "peer":
            return self._set_peer(change.peer, removal)
        return self._set_service(change.service, removal)

    def _set_network(self, network: Network, removal: bool) -> Iterable[str]:
        if removal:
            return [network.id] if self.networks.pop(network.id, None) is not None else []
        if self.networks.get(network.id) == network:
            return []
        self.networks[network.id] = network
        return [network.id]

    def _set_peer(self, peer: NetworkPeer, removal: bool) -> Iterable[str]:
        peers = self._peers.setdefault(peer.network_id, {})
        old = peers.get(peer.task_id)
        if (removal and old is None) or (not removal and old == peer):
            return []
        names = self._names.setdefault(peer.network_id, NameTable())
        if old is not None:
            names.remove_peer(old)
        if removal:
            del peers[peer.task_id]
        else:
            peers[peer.task_id] = peer
            names.add_peer(peer)
        return [peer.network_id]

    def _set_service(self, service: NetworkService, removal: bool) -> Iterable[str]:
        services = self._services.setdefault(service.network_id, {})
        old = services.get(service.service_id)
        if (removal and old is None) or (not removal and old == service):
            return []
        names = self._names.setdefault(service.network_id, NameTable())
        if old is not None:
            names.remove_service(old)
        if removal:
            del services[service.service_id]
        else:
            services[service.service_id] = service
            names.add_service(service)
        return [service.network_id]

    def _retain(self, changes: list[AssignmentChange]) -> set[str]:
        """Forget everything a complete set does not contain."""
        networks, peers, services = set(self.local), set(), set()
        for change in changes:
            if change.action == AssignmentChange.ACTION_REMOVE:
                continue
            kind = change.WhichOneof("item")
            if kind == "network":
                networks.add(change.network.id)
            elif kind == "peer":
                peers.add((change.peer.network_id, change.peer.task_id))
            else:
                services.add((change.service.network_id, change.service.service_id))
        touched: set[str] = set()
        for network in [network for network in self.networks.values() if network.id not in networks]:
            touched.update(self._set_network(network, removal=True))
        for peer in [peer for of in self._peers.values() for peer in of.values()]:
            if (peer.network_id, peer.task_id) not in peers and peer.network_id not in self.local:
                touched.update(self._set_peer(peer, removal=True))
        for service in [service for of in self._services.values() for service in of.values()]:
            if (service.network_id, service.service_id) not in services:
                touched.update(self._set_service(service, removal=True))
        return touched
