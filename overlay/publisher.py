"""Loads the rules of publish.py: ports of the node, and of the networks behind them.

Ports in host mode belong to tasks of this node: a task holds its ports from `hold_ports` to `release_ports`, and when
two hold one (the next task of a slot is made while the last one still runs), the older one answers.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from random import Random

from flota.overlay import libnftables, publish
from flota.overlay.addresses import network_namespace, version_of
from flota.overlay.connections import end_connections, end_untranslated
from flota.overlay.errors import PortTaken
from flota.overlay.kernel import NamespaceThreads
from flota.overlay.proxy_protocol import leads_to
from flota.overlay.publish import NodePort, Port, Ports, Target, port_of
from flota.overlay.segments import WayIn, WaysIn
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import PortConfig

# Ports given to host-mode tasks that ask for none; those of the mesh are below.
_FIRST, _LAST = 49153, 65535
_SOCKETS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass
class _Loaded:
    """What a network's namespace has. `seen` are addresses that connections may have been sent to.

    `made` is WaysIn's: a namespace that was made again has nothing.
    """

    made: int
    ports: Ports = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Held:
    """A task's port. `addresses` are (network, address), in the order of the task's networks."""

    task_id: str
    addresses: tuple[tuple[str, str], ...]
    port: int

    def leads_to(self, mesh: Mapping[str, Ports], ways: WaysIn) -> dict[str, Target]:
        """The network through which the task answers (see attachments.plan), if it is here; by each IP version."""
        found: dict[str, tuple[str, ...]] = {}
        for version in (4, 6):
            able = [(network_id, address) for network_id, address in self.addresses
                    if version_of(address) == version and _way(ways, network_id, version)]  # fmt: skip
            if able:
                network_id, address = min(able, key=lambda one: one[0] not in mesh)
                found[network_id] = (*found.get(network_id, ()), address)
        return {network_id: Target(addresses, self.port) for network_id, addresses in found.items()}


class Publisher:
    """The published ports of one node. `listening` says whether a program of the node has a port."""

    def __init__(
        self,
        run_directory: Path,
        threads: NamespaceThreads,
        random: Random,
        listening: Callable[[Port], bool] | None = None,
    ) -> None:
        self._run_directory = run_directory
        self._threads = threads
        self._random = random
        self._listening = listening or in_use
        self._lock = asyncio.Lock()
        self._node: dict[NodePort, tuple[str, ...]] = {}
        self._node_made = 0
        self._networks: dict[str, _Loaded] = {}
        self._held: dict[NodePort, list[_Held]] = {}
        # What ports of one address are called in their network's namespace.
        self._inner: dict[NodePort, int] = {}

    def is_idle(self) -> bool:
        """Nothing is published."""
        return not self._held and not self._node

    def hold_ports(self, task: Task, reached: Set[int]) -> list[PortConfig]:
        """Take the task's host-mode ports; those that were not chosen are now. Raises PortTaken, and takes none then.

        `reached` are the IP versions by which the task can be reached from outside through its networks.
        """
        held: list[PortConfig] = []
        try:
            for config in task.endpoint.ports:
                if config.publish_mode != PortConfig.PUBLISH_MODE_HOST:
                    continue
                if (version_of(config.host_address) if config.host_address else 4) not in reached:
                    by = " by IPv6" if config.host_address and reached else ""
                    raise PortTaken(config.published_port, f"the task is on no network with a way out{by}")
                chosen = PortConfig()
                chosen.CopyFrom(config)
                chosen.published_port = config.published_port or self._free_port(config)
                if chosen in held:
                    # Said twice: for all addresses of IPv4, and of IPv6.
                    continue
                port, overlapping = port_of(chosen), self._overlapping(_key(chosen))
                if not task.service_id and (overlapping or port in self._node):
                    # Of two tasks of a service one takes over from the other; this one would wait for ever.
                    raise PortTaken(chosen.published_port, "port is already allocated")
                if not overlapping and self._is_taken(port, chosen.host_address):
                    raise PortTaken(chosen.published_port, "a program of this node listens there")
                self._hold(task, chosen)
                held.append(chosen)
        except BaseException:
            self.release_ports(task.id)
            raise
        return held

    def _overlapping(self, key: NodePort) -> bool:
        """Whether anybody holds a port at an address at which `key` would be answered, too."""
        if key in self._held:
            return True
        return any(one[:2] == key[:2] and 2 in (len(one), len(key)) for one in self._held)

    def hold_again(self, task: Task) -> None:
        """After a restart: a task still has the ports it was given."""
        for config in task.endpoint.ports:
            self._hold(task, config)

    def _hold(self, task: Task, config: PortConfig) -> None:
        held = _Held(task.id, _addresses(task), leads_to(config))
        self._held.setdefault(_key(config), []).append(held)

    def follow(self, task: Task) -> None:
        """The task is on other networks now: its ports lead through those."""
        addresses = _addresses(task)
        for port, holders in self._held.items():
            self._held[port] = [replace(one, addresses=addresses) if one.task_id == task.id else one for one in holders]

    def _is_taken(self, port: Port, at: str) -> bool:
        return in_use_at(port, at) if at else self._listening(port)

    def release_ports(self, task_id: str) -> None:
        """Give the task's host-mode ports back."""
        for port, holders in list(self._held.items()):
            self._held[port] = [one for one in holders if one.task_id != task_id]
            if not self._held[port]:
                del self._held[port]

    async def adopt(self, ways: WaysIn) -> None:
        """See what an earlier process loaded into the node's namespace and these networks'."""
        async with self._lock:
            if not ways.networks:
                return
            listing = await self._threads.inside(None, lambda: libnftables.load("list table inet flota"))
            self._node, self._node_made = publish.node_loaded(listing), ways.made
            self._inner = {port: publish.inner_number(at[0]) for port, at in self._node.items() if len(port) == 3}
            for network_id, (_, made) in ways.networks.items():
                namespace = network_namespace(self._run_directory, network_id)
                listing = await self._threads.inside(namespace, lambda: libnftables.load("list table inet flota"))
                loaded = _Loaded(made, publish.network_loaded(listing), publish.addresses_loaded(listing))
                self._networks[network_id] = loaded

    async def update(self, mesh: Mapping[str, Ports], ways: WaysIn, alive: Set[str]) -> None:
        """Publish `mesh` (ingress network → its ports) and the held ports, through the networks that `ways` has.

        Connections to addresses that are no longer `alive` are ended. Raises OverlayError; the next call goes on.
        """
        async with self._lock:
            wanted: dict[str, Ports] = {network_id: {} for network_id in ways.networks}
            node: dict[NodePort, tuple[str, ...]] = {}
            for network_id in mesh.keys() & wanted.keys():
                wanted[network_id] = dict(mesh[network_id])
                node |= dict.fromkeys(mesh[network_id], ways.networks[network_id].addresses)
            for port, holders in self._held.items():
                if len(port) == 3:
                    continue
                node.pop(port, None)
                for network_id, target in holders[0].leads_to(mesh, ways).items():
                    wanted[network_id][port] = target
                    by = (_way(ways, network_id, version_of(address)) for address in target.addresses)
                    node[port] = (*node.get(port, ()), *filter(None, by))
            self._add_local(wanted, node, mesh, ways)
            for network_id in self._networks.keys() - wanted.keys():
                del self._networks[network_id]
            if self._node_made != ways.made:
                self._node, self._node_made = {}, ways.made
            loads = (
                self._load_network(network_id, ways.networks[network_id], ports, alive)
                for network_id, ports in wanted.items()
            )
            results = await asyncio.gather(*loads, return_exceptions=True)
            if ways.networks:
                await self._load_node(node)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    def _add_local(
        self, wanted: dict[str, Ports], node: dict[NodePort, tuple[str, ...]], mesh: Mapping[str, Ports], ways: WaysIn
    ) -> None:
        """Ports of one address. Their numbers in the networks' namespaces stay as long as nobody else needs them."""
        taken = {port for ports in wanted.values() for port in ports}
        known, self._inner = self._inner, {}
        local = [(port, holders[0]) for port, holders in self._held.items() if len(port) == 3]
        # Those that have a number keep it before others choose theirs.
        for port, holder in sorted(local, key=lambda one: one[0] not in known):
            kind, version = port[0], version_of(port[2])
            numbers = chain((known.get(port, port[1]), port[1]), range(_LAST, 0, -1))
            number = next(number for number in numbers if (kind, number) not in taken)
            for network_id, target in holder.leads_to(mesh, ways).items():
                addresses = tuple(address for address in target.addresses if version_of(address) == version)
                way = _way(ways, network_id, version)
                if addresses and way:
                    wanted[network_id][kind, number] = Target(addresses, target.port)
                    node[port] = (publish.inner(way, number),)
                    taken.add((kind, number))
                    self._inner[port] = number

    async def _load_network(self, network_id: str, way_in: WayIn, ports: Ports, alive: Set[str]) -> None:
        loaded = self._networks.get(network_id)
        if loaded is None or loaded.made != way_in.made:
            loaded = self._networks[network_id] = _Loaded(way_in.made)
        namespace = network_namespace(self._run_directory, network_id)
        rules = publish.network_change(loaded.ports, ports, self._random)
        if rules:
            opened = publish.opened_datagram_ports(loaded.ports, ports)
            await self._load(namespace, rules, opened, frozenset(way_in.addresses))
        loaded.ports = dict(ports)
        loaded.seen.update(address for target in ports.values() for address in target.addresses)
        gone = loaded.seen - alive
        if gone:
            await self._threads.inside(namespace, lambda: end_connections(gone))
            loaded.seen -= gone

    async def _load_node(self, node: dict[NodePort, tuple[str, ...]]) -> None:
        rules = publish.node_change(self._node, node)
        if rules:
            await self._load(None, rules, publish.opened_datagram_ports(self._node, node))
        self._node = node

    async def _load(
        self, namespace: Path | None, rules: str, opened: Set[tuple[int, int]], at: Set[str] = frozenset()
    ) -> None:
        def there() -> None:
            libnftables.load(rules)
            if opened:
                end_untranslated(opened, at)

        await self._threads.inside(namespace, there)

    def _free_port(self, config: PortConfig) -> int:
        start = self._random.randint(_FIRST, _LAST)
        for number in chain(range(start, _LAST + 1), range(_FIRST, start)):
            port = port_of(PortConfig(protocol=config.protocol, published_port=number))
            if not self._overlapping(port) and not self._listening(port):
                return number
        raise PortTaken(0, f"all ports from {_FIRST} to {_LAST} are in use")


def _key(config: PortConfig) -> NodePort:
    return (*port_of(config), config.host_address) if config.host_address else port_of(config)


def _addresses(task: Task) -> tuple[tuple[str, str], ...]:
    """(network, address) of the task, in the order of its networks."""
    return tuple((one.network_id, address.partition("/")[0]) for one in task.networks for address in one.addresses)


def _way(ways: WaysIn, network_id: str, version: int) -> str | None:
    """The address by which the node's namespace reaches a network, if it does by that IP version."""
    way_in = ways.networks.get(network_id)
    by = way_in.addresses if way_in is not None else ()
    return next((address for address in by if version_of(address) == version), None)


def in_use(port: Port) -> bool:
    """Whether a program of this node has a port."""
    kind = _SOCKETS.get(port[0])
    return kind is not None and any(
        _is_bound(family, kind, (address, port[1]))
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
    )


def in_use_at(port: Port, address: str) -> bool:
    """Whether a program of this node has a port at one of its addresses. Raises PortTaken: it is none of its."""
    kind = _SOCKETS.get(port[0])
    family = socket.AF_INET if version_of(address) == 4 else socket.AF_INET6
    if kind is None:
        return False
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        raise PortTaken(port[1], f"{address} is no address of this node") from None
    return _is_bound(family, kind, (address, port[1]))


def _is_bound(family: int, kind: int, address: tuple[str, int]) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        # A kernel without IPv6 has nobody who listens there.
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return False
        if error.errno == errno.EADDRINUSE:
            return True
        raise
    return False
