"""Which forwarding and neighbour entries a network needs on this node. Pure.

On an ordinary network every remote peer is one MAC behind one VXLAN endpoint, and one neighbour entry per address, from
which ARP and neighbour solicitation are answered without leaving the node. Peers on this node need none: the bridge
sees them.

The ingress network is routed between nodes instead: a remote peer's address leads to the MAC of its node, whose kernel
passes packets on to the task and thereby sees both directions of a connection. Each node is also an entry: replies to
a connection that came in through it are routed back to it (segment.py), by a mark that stands for the node.

A peer without addresses is a node that takes part in an ingress network without having a task on it.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

from flota.overlay.addresses import node_hop, node_mac
from flota.overlay.tunnel_keys import newest, oldest, tunnel_address
from flota.v1.dispatcher_pb2 import NetworkPeer
from flota.v1.mac_addresses import mac_of


@dataclass
class Forwarding:
    """`endpoints`: MAC → VXLAN endpoint; `neighbours`: address → MAC; `entries`: VXLAN endpoints of entry nodes."""

    endpoints: dict[str, str] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    entries: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ForwardingChange:
    """What leads from one Forwarding to another. Entries to put are put over what is there."""

    put_endpoints: tuple[tuple[str, str], ...]
    drop_endpoints: tuple[tuple[str, str], ...]
    put_neighbours: tuple[tuple[str, str], ...]
    drop_neighbours: tuple[str, ...]
    put_entries: tuple[str, ...] = ()
    drop_entries: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        puts = self.put_endpoints or self.put_neighbours or self.put_entries
        return bool(puts or self.drop_endpoints or self.drop_neighbours or self.drop_entries)


def vtep_of(peer: NetworkPeer) -> str:
    """Where packets for a peer go on a plain network."""
    return peer.vtep


def tunnel_end(peer: NetworkPeer, greeted: Set[bytes] = frozenset()) -> str:
    """Where they go on an encrypted one: its node's address within WireGuard; "" while its node has told no key.

    Of two keys the newer one, once it is among those `greeted`: what is sent before the handshake waits for it, and
    WireGuard lets few packets wait.
    """
    key = newest([key for key in peer.tunnel_keys if key.public_key in greeted]) or oldest(peer.tunnel_keys)
    return tunnel_address(peer.vtep, key.generation) if key is not None else ""


def wanted(
    peers: Iterable[NetworkPeer],
    node_id: str,
    vtep: str,
    *,
    ingress: bool = False,
    versions: Iterable[int] = (4,),
    through: Callable[[NetworkPeer], str] = vtep_of,
) -> Forwarding:
    """Entries for `peers` as seen from node `node_id` with VXLAN endpoint `vtep`; `through` says where packets go;
    `versions` are the network's IP versions.

    When two peers claim one address (a fixed address that moves from task to task), the ready one has it.
    """
    peers = sorted(peers, key=lambda peer: (peer.ready, peer.task_id))
    owners = {address: peer.task_id for peer in peers for address in peer.addresses}
    result = Forwarding()
    entries: set[str] = set()
    for peer in peers:
        if peer.node_id == node_id or not peer.vtep or peer.vtep == vtep:
            continue
        if not ingress and not peer.addresses:
            continue
        end = through(peer)
        if not end:
            continue
        gate = node_mac(peer.vtep)
        result.endpoints[gate] = end
        if ingress:
            result.neighbours |= {node_hop(peer.vtep, version): gate for version in versions}
            entries.add(peer.vtep)
            mac = gate
        else:
            mac = mac_of(peer.addresses[0])
        for address in peer.addresses:
            if owners[address] == peer.task_id:
                result.neighbours[address.partition("/")[0]] = mac
                result.endpoints[mac] = end
    result.entries = frozenset(entries)
    return result


def difference(old: Forwarding, new: Forwarding) -> ForwardingChange:
    """The changes from `old` to `new`."""
    return ForwardingChange(
        put_endpoints=tuple(new.endpoints.items() - old.endpoints.items()),
        drop_endpoints=tuple((mac, vtep) for mac, vtep in old.endpoints.items() if mac not in new.endpoints),
        put_neighbours=tuple(new.neighbours.items() - old.neighbours.items()),
        drop_neighbours=tuple(address for address in old.neighbours if address not in new.neighbours),
        put_entries=tuple(new.entries - old.entries),
        drop_entries=tuple(old.entries - new.entries),
    )
