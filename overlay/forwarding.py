"""Which forwarding and neighbour entries a network needs on this node. Pure.

Every remote peer is one MAC behind one VXLAN endpoint, and one neighbour entry per address, from which ARP and
neighbour solicitation are answered without leaving the node. Peers on this node need none: the bridge sees them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from flota.overlay.addresses import mac_of, node_mac
from flota.v1.dispatcher_pb2 import NetworkPeer


@dataclass
class Forwarding:
    """`endpoints`: MAC → VXLAN endpoint; `neighbours`: address → MAC."""

    endpoints: dict[str, str] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ForwardingChange:
    """What leads from one Forwarding to another. Entries to put are put over what is there."""

    put_endpoints: tuple[tuple[str, str], ...]
    drop_endpoints: tuple[tuple[str, str], ...]
    put_neighbours: tuple[tuple[str, str], ...]
    drop_neighbours: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.put_endpoints or self.drop_endpoints or self.put_neighbours or self.drop_neighbours)


def wanted(peers: Iterable[NetworkPeer], node_id: str, vtep: str) -> Forwarding:
    """Entries for `peers` as seen from node `node_id` with VXLAN endpoint `vtep`.

    When two peers claim one address (a fixed address that moves from task to task), the ready one has it.
    """
    result = Forwarding()
    for peer in sorted(peers, key=lambda peer: (peer.ready, peer.task_id)):
        if peer.node_id == node_id or not peer.vtep or peer.vtep == vtep or not peer.addresses:
            for address in peer.addresses:
                # A local task took the address over: no entry may lead away from here.
                bare = address.partition("/")[0]
                result.endpoints.pop(result.neighbours.pop(bare, ""), None)
            continue
        mac = mac_of(peer.addresses[0])
        result.endpoints[mac] = peer.vtep
        result.endpoints[node_mac(peer.vtep)] = peer.vtep
        for address in peer.addresses:
            result.neighbours[address.partition("/")[0]] = mac
    return result


def difference(old: Forwarding, new: Forwarding) -> ForwardingChange:
    """The changes from `old` to `new`."""
    return ForwardingChange(
        put_endpoints=tuple(new.endpoints.items() - old.endpoints.items()),
        drop_endpoints=tuple((mac, vtep) for mac, vtep in old.endpoints.items() if mac not in new.endpoints),
        put_neighbours=tuple(new.neighbours.items() - old.neighbours.items()),
        drop_neighbours=tuple(address for address in old.neighbours if address not in new.neighbours),
    )
