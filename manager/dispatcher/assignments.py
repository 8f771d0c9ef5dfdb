"""What every node needs to know, kept up to date from the store's events. No I/O; the tables are only read.

A node needs its own tasks; the secrets, configs and networks that those of them need which have not ended; and, for
each such network, every peer and service on it, wherever they are. While any service publishes a port in ingress mode,
every node that is not DOWN needs the ingress network too, and is a peer on it itself: published ports are answered
everywhere. Each of these things has a key:

    ("task", id)  ("secret", id)  ("config", id)  ("network", id)  ("service", network, id)  ("peer", network, task)

(The key of a node as a peer has its id in the task's place.)

An event is turned into `touch(nodes, keys)` for just the nodes whose need it concerns. What becomes of a key is read
from here when it is sent (`change`), not when it is touched: a slow worker costs a set of keys, and gets the newest
state of each. Nodes are said to *hold* a key for as long as one of their tasks needs it (or they are part of the mesh);
counting those makes the work of an event proportional to what it changes and to the nodes that hold it, and to nothing
else.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from flota.manager.dispatcher.peers import (
    Endpoint,
    endpoint_of,
    is_ready,
    node_peer,
    peers_of,
    publishes,
    services_of,
)
from flota.manager.store import Event, ReadTables
from flota.v1.dispatcher_pb2 import AssignmentChange, NetworkPeer, NetworkService
from flota.v1.network_options import PREDEFINED, is_encrypted
from flota.v1.objects_pb2 import Config, Network, Node, Secret, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import NodeState, TaskState

Key = tuple[str, ...]


class Urgency(Enum):
    """How soon the worker should hear of a change."""

    # It decides what this node does.
    OWN = 0
    # The same, once all who send to the task have been told that it stops, and say that they no longer do.
    STOP = 3
    # A peer is not to be used any longer.
    WITHDRAWN = 1
    # There is one more to be used, or one less that nobody used.
    SPREAD = 2


Touch = Callable[[Collection[str], Iterable[Key], Urgency], None]


class _Placement(NamedTuple):
    """Of a task that is on a node and has not ended: what it needs there, and what others see of it."""

    node_id: str
    needs: tuple[Key, ...]
    ready: bool


_UPDATE, _REMOVE = AssignmentChange.ACTION_UPDATE, AssignmentChange.ACTION_REMOVE


class Assignments:
    """See the module's docstring. `touch` hears of everything that nodes have to be told."""

    def __init__(self, tables: ReadTables, touch: Touch) -> None:
        self._tables = tables
        self._touch = touch
        self._placements: dict[str, _Placement] = {}
        # Secrets, configs and networks → the nodes that need them, and for how many tasks.
        self._holders: dict[Key, dict[str, int]] = {}
        # Network → task (service) → the change that tells of it, made once for all nodes.
        self._peers: dict[str, dict[str, AssignmentChange]] = {}
        self._services: dict[str, dict[str, AssignmentChange]] = {}
        self._networks_of_service: dict[str, set[str]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        # The ingress network's id ("" = there is none), services that publish ports on it, nodes that can answer them.
        self._ingress = ""
        self._publishing: set[str] = set()
        self._able: set[str] = set()
        for network in tables.networks:
            self._set_network(network, removed=False)
        for node in tables.nodes:
            self._set_node(node, removed=False)
        for service in tables.services:
            self._set_service(service)
        for task in tables.tasks:
            self._set_task(None, task)

    # What is so now.

    def complete(self, node_id: str) -> Iterator[AssignmentChange]:
        """Everything the node needs, in an order in which nothing comes before what it rests on."""
        tasks = [task for task in self._tables.tasks.by("node", node_id) if _is_assigned(task)]
        placements = (self._placements.get(task.id) for task in tasks)
        needs = dict.fromkeys(key for placement in placements if placement is not None for key in placement.needs)
        if self._publishing and node_id in self._able:
            needs.setdefault(("network", self._ingress))
        networks = [key for key in needs if key[0] == "network"]
        for key in needs:
            yield from self._update(node_id, key)
        for _, network_id in networks:
            yield from self._services.get(network_id, {}).values()
            yield from self._peers.get(network_id, {}).values()
        for task in tasks:
            yield AssignmentChange(action=_UPDATE, task=task)

    def senders(self, task_id: str) -> dict[str, list[Key]]:
        """Node → the keys under which it knows the task as a peer: whoever may send to it, its own node too."""
        found: dict[str, list[Key]] = {}
        for need in self._placements[task_id].needs if task_id in self._placements else ():
            if need[0] == "network" and task_id in self._peers.get(need[1], ()):
                for node_id in self._holders.get(need, ()):
                    found.setdefault(node_id, []).append(("peer", need[1], task_id))
        return found

    def change(self, node_id: str, key: Key) -> AssignmentChange:
        """What the node is to be told of a key: how it is now, or that it needs it no longer."""
        return next(self._update(node_id, key), None) or _removal(key)

    def _update(self, node_id: str, key: Key) -> Iterator[AssignmentChange]:
        """One change, or none when there is no such thing or the node does not need it."""
        kind, id = key[0], key[1]
        if kind == "task":
            task = self._tables.tasks.get(id)
            if task is not None and task.node_id == node_id and _is_assigned(task):
                yield AssignmentChange(action=_UPDATE, task=task)
        elif node_id not in self._holders.get(key if len(key) == 2 else ("network", id), ()):
            return
        elif kind == "peer" or kind == "service":
            known = self._peers if kind == "peer" else self._services
            found = known.get(id, {}).get(key[2])
            if found is not None:
                yield found
        elif kind == "network" and (network := self._tables.networks.get(id)) is not None:
            yield AssignmentChange(action=_UPDATE, network=network)
        elif kind == "secret" and (secret := self._tables.secrets.get(id)) is not None:
            yield AssignmentChange(action=_UPDATE, secret=secret)
        elif kind == "config" and (config := self._tables.configs.get(id)) is not None:
            yield AssignmentChange(action=_UPDATE, config=config)

    # What happens.

    def note(self, events: Iterable[Event]) -> None:
        """Take over one or more transactions' events, in their order."""
        for event in events:
            removed = event.kind == StoreAction.KIND_REMOVE
            match event.object:
                case Task() as task:
                    self._set_task(event.old if isinstance(event.old, Task) else None, None if removed else task)
                case Node() as node:
                    self._set_node(node, removed)
                case Service() as service:
                    self._set_service(Service(id=service.id) if removed else service)
                case Secret() | Config() | Network() as thing:
                    if isinstance(thing, Network):
                        self._set_network(thing, removed)
                    key = (event.word, thing.id)
                    if key in self._holders:
                        self._touch(self._holders[key], (key,), Urgency.OWN)
                case _:
                    pass

    def _set_task(self, old: Task | None, new: Task | None) -> None:
        task = new or old
        assert task is not None
        was, now = self._placements.get(task.id), None if new is None else _placement(new)
        if was != now:
            self._place(task, was, now)
        was_assigned, is_assigned = old is not None and _is_assigned(old), new is not None and _is_assigned(new)
        if is_assigned != was_assigned or (is_assigned and _differs(old, new)):
            self._touch((task.node_id,), (("task", task.id),), self._urgency(task, was, now))

    def _urgency(self, task: Task, was: _Placement | None, now: _Placement | None) -> Urgency:
        """How soon a task's own node hears of what is wanted of it. A service that is gone has no users to lose."""
        stops = was is not None and was.ready and now is not None and not now.ready and task.networks
        return Urgency.STOP if stops and self._tables.services.get(task.service_id) is not None else Urgency.OWN

    def _place(self, task: Task, was: _Placement | None, now: _Placement | None) -> None:
        """The task came to its node, ended there, or became ready or unready."""
        needed, needs = was.needs if was is not None else (), now.needs if now is not None else ()
        if now is not None:
            self._placements[task.id] = now
            if needs != needed:
                for key in needs:
                    self._hold(now.node_id, key)
            self._set_peers(task)
        else:
            self._placements.pop(task.id, None)
            for key in needed:
                if key[0] == "network":
                    self._drop_peer(key[1], task.id)
        if was is not None and needs != needed:
            for key in needed:
                self._release(was.node_id, key)

    def _hold(self, node_id: str, key: Key) -> None:
        holders = self._holders.setdefault(key, {})
        holders[node_id] = holders.get(node_id, 0) + 1
        if holders[node_id] == 1:
            self._touch((node_id,), self._with_contents(key), Urgency.OWN)

    def _release(self, node_id: str, key: Key) -> None:
        holders = self._holders[key]
        holders[node_id] -= 1
        if holders[node_id]:
            return
        del holders[node_id]
        if not holders:
            del self._holders[key]
        self._touch((node_id,), self._with_contents(key), Urgency.OWN)

    def _with_contents(self, key: Key) -> Iterator[Key]:
        yield key
        if key[0] == "network":
            network_id = key[1]
            for service_id in self._services.get(network_id, ()):
                yield "service", network_id, service_id
            for task_id in self._peers.get(network_id, ()):
                yield "peer", network_id, task_id

    def _set_peers(self, task: Task) -> None:
        endpoint = self._endpoints.get(task.node_id)
        for peer in peers_of(task, endpoint or Endpoint(""), self._is_encrypted):
            if endpoint is None:
                # Its node was removed from the cluster.
                self._drop_peer(peer.network_id, task.id)
                continue
            peers = self._peers.setdefault(peer.network_id, {})
            known = peers.get(task.id)
            if known is None or known.peer != peer:
                peers[task.id] = AssignmentChange(action=_UPDATE, peer=peer)
                withdrawn = known is not None and known.peer.ready and not peer.ready
                self._touch_peer(peer.network_id, task.id, Urgency.WITHDRAWN if withdrawn else Urgency.SPREAD)

    def _is_encrypted(self, network_id: str) -> bool:
        network = self._tables.networks.get(network_id)
        return network is not None and is_encrypted(network.spec)

    def _drop_peer(self, network_id: str, task_id: str) -> None:
        peers = self._peers.get(network_id, {})
        known = peers.pop(task_id, None)
        if known is None:
            return
        if not peers:
            del self._peers[network_id]
        self._touch_peer(network_id, task_id, Urgency.WITHDRAWN if known.peer.ready else Urgency.SPREAD)

    def _touch_peer(self, network_id: str, task_id: str, urgency: Urgency) -> None:
        holders = self._holders.get(("network", network_id))
        if holders:
            self._touch(holders, (("peer", network_id, task_id),), urgency)

    def _set_node(self, node: Node, removed: bool) -> None:
        """Its address may have changed, or whether it answers published ports; only then does anybody else care."""
        endpoint = None if removed else endpoint_of(node)
        able = endpoint is not None and bool(endpoint.vtep) and node.status.state != NodeState.NODE_STATE_DOWN
        moved = self._endpoints.get(node.id) != endpoint
        if moved:
            if endpoint is None:
                self._endpoints.pop(node.id, None)
            else:
                self._endpoints[node.id] = endpoint
            for task in self._tables.tasks.by("node", node.id):
                if task.id in self._placements:
                    self._set_peers(task)
        if able and node.id not in self._able:
            self._able.add(node.id)
            if self._publishing:
                self._join_mesh(node.id)
        elif not able and node.id in self._able:
            if self._publishing:
                self._leave_mesh(node.id)
            self._able.remove(node.id)
        elif able and moved and self._publishing:
            self._set_node_peer(node.id)

    # The mesh: who answers published ports.

    def _set_network(self, network: Network, removed: bool) -> None:
        """Only the ingress network is looked at, from when it has its subnet."""
        if network.id == self._ingress and removed:
            self._dissolve_mesh()
            self._ingress = ""
        elif network.spec.ingress and network.ipam and not removed and not self._ingress:
            self._ingress = network.id
        else:
            return
        for service in self._tables.services:
            self._set_service(service)

    def _set_publishing(self, service: Service, is_so: bool) -> None:
        """The first service that publishes a port brings all nodes onto the network, the last takes them off."""
        if is_so and service.id not in self._publishing:
            self._publishing.add(service.id)
            if len(self._publishing) == 1:
                for node_id in sorted(self._able):
                    self._join_mesh(node_id)
        elif not is_so and service.id in self._publishing:
            if len(self._publishing) == 1:
                self._dissolve_mesh()
            self._publishing.discard(service.id)

    def _dissolve_mesh(self) -> None:
        if self._publishing:
            for node_id in sorted(self._able):
                self._leave_mesh(node_id)
            self._publishing.clear()

    def _join_mesh(self, node_id: str) -> None:
        self._set_node_peer(node_id)
        self._hold(node_id, ("network", self._ingress))

    def _leave_mesh(self, node_id: str) -> None:
        self._drop_peer(self._ingress, node_id)
        self._release(node_id, ("network", self._ingress))

    def _set_node_peer(self, node_id: str) -> None:
        peer = node_peer(self._ingress, node_id, self._endpoints[node_id], self._is_encrypted)
        self._peers.setdefault(self._ingress, {})[node_id] = AssignmentChange(action=_UPDATE, peer=peer)
        self._touch_peer(self._ingress, node_id, Urgency.SPREAD)

    def _set_service(self, service: Service) -> None:
        before = self._networks_of_service.pop(service.id, set())
        now = {told.network_id: told for told in services_of(service, self._ingress)}
        if now:
            self._networks_of_service[service.id] = set(now)
        for network_id in before - now.keys():
            del self._services[network_id][service.id]
            if not self._services[network_id]:
                del self._services[network_id]
        changed = before - now.keys()
        for network_id, told in now.items():
            services = self._services.setdefault(network_id, {})
            known = services.get(service.id)
            if known is None or known.service != told:
                services[service.id] = AssignmentChange(action=_UPDATE, service=told)
                changed.add(network_id)
        for network_id in changed:
            holders = self._holders.get(("network", network_id))
            if holders:
                self._touch(holders, (("service", network_id, service.id),), Urgency.SPREAD)
        self._set_publishing(service, bool(self._ingress) and publishes(service))


def _is_assigned(task: Task) -> bool:
    return bool(task.node_id) and task.status.state >= TaskState.TASK_STATE_ASSIGNED


def _placement(task: Task) -> _Placement | None:
    if not _is_assigned(task) or task.status.state > TaskState.TASK_STATE_RUNNING:
        return None
    container = task.spec.container
    needs = [
        *(("network", one.network_id) for one in task.networks if one.network_id not in PREDEFINED),
        *(("secret", reference.secret_id) for reference in container.secrets),
        *(("config", reference.config_id) for reference in container.configs),
    ]
    return _Placement(task.node_id, tuple(dict.fromkeys(needs)), is_ready(task))


def _differs(old: Task | None, new: Task | None) -> bool:
    """Whether a worker has to hear of it: anything but what it reported itself and what the store keeps."""
    assert old is not None
    assert new is not None
    return (
        old.desired_state != new.desired_state
        or old.endpoint != new.endpoint
        or old.networks != new.networks
        or old.spec != new.spec
    )


def _removal(key: Key) -> AssignmentChange:
    match key:
        case ("task", id):
            return AssignmentChange(action=_REMOVE, task=Task(id=id))
        case ("secret", id):
            return AssignmentChange(action=_REMOVE, secret=Secret(id=id))
        case ("config", id):
            return AssignmentChange(action=_REMOVE, config=Config(id=id))
        case ("network", id):
            return AssignmentChange(action=_REMOVE, network=Network(id=id))
        case ("peer", network_id, id):
            return AssignmentChange(action=_REMOVE, peer=NetworkPeer(network_id=network_id, task_id=id))
        case ("service", network_id, id):
            return AssignmentChange(action=_REMOVE, service=NetworkService(network_id=network_id, service_id=id))
    raise AssertionError(f"no such kind of key: {key}")
