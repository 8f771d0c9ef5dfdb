"""Which addresses a name stands for on one network. Pure; kept up to date peer by peer.

On a network a service `web` of stack `shop` (service name `shop_web`, alias `web`) is found as

    shop_web, web, web.shop           its virtual address, or its ready tasks when it has none (dnsrr)
    tasks.shop_web, tasks.web         its ready tasks
    shop_web.3, web.3                 the ready task in slot 3
    shop_web.3.ID (the task's name)   that task, ready or not; a container without a service only while it is ready
    each of these with .NETWORK       the same, should a name be on several of the asker's networks

SRV records say at which ports: `web` at all its published ones, `_http._tcp.web` at the one named `http` (a port that
has no name is called by its number), with the ready tasks' own names as targets.

Names are compared in lower case. A name that is known but has nothing ready behind it has no addresses, which is
something else than a name nobody knows.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.types_pb2 import EndpointSpec, PortConfig

T = TypeVar("T")


class ServicePort(NamedTuple):
    """`protocol` as in SRV names: tcp, udp, sctp; `target` is the port that tasks listen on."""

    name: str
    protocol: str
    target: int


class NameTable:
    """The names of one network."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[str, tuple[str, ...]]] = {}
        self._virtual: dict[str, dict[str, tuple[str, ...]]] = {}
        self._reverse: dict[str, dict[str, str]] = {}
        # Of services, by their names; names of ready tasks, by the names they answer to.
        self._ports: dict[str, dict[str, tuple[ServicePort, ...]]] = {}
        self._ready: dict[str, dict[str, str]] = {}

    def lookup(self, name: str) -> tuple[str, ...] | None:
        """Addresses of a name in lower case; () if nothing is ready behind it, None if nobody has that name."""
        virtual, tasks = self._virtual.get(name), self._tasks.get(name)
        if virtual:
            addresses = tuple(sorted({address for of in virtual.values() for address in of}))
            if addresses:
                # A service that was made before there were virtual addresses of IPv6: the name leads to its tasks.
                alone = all(":" not in address for address in addresses)
                return (*addresses, *(one for of in (tasks or {}).values() for one in of if alone and ":" in one))
        if tasks is None:
            return None if virtual is None else ()
        return tuple(address for addresses in tasks.values() for address in addresses)

    def service(self, name: str) -> list[tuple[str, int]] | None:
        """(a task's name, the port it listens on) for a name in lower case, or `_PORT._PROTOCOL.NAME`.

        None if nobody has that name; empty if nothing is ready behind it, or its service publishes no such port.
        """
        asked, protocol = "", ""
        if name.startswith("_"):
            asked, _, rest = name.partition(".")
            protocol, _, name = rest.partition(".")
            if not protocol.startswith("_"):
                return None
        if name not in self._tasks and name not in self._virtual:
            return None
        numbers = {
            port.target
            for ports in self._ports.get(name, {}).values()
            for port in ports
            if not asked or (f"_{port.name}", f"_{port.protocol}") == (asked, protocol)
        }
        return [(task, number) for task in self._ready.get(name, {}).values() for number in sorted(numbers)]

    def reverse(self, address: str) -> str | None:
        """The name of the task or service that has an address."""
        owners = self._reverse.get(address)
        return next(iter(owners.values())) if owners else None

    def add_peer(self, peer: NetworkPeer) -> None:
        """Take a peer in, or again after `remove_peer` when it changed."""
        addresses = tuple(address.partition("/")[0] for address in peer.addresses)
        for name, needs_ready in _peer_names(peer):
            self._tasks.setdefault(name, {})[peer.task_id] = addresses if peer.ready or not needs_ready else ()
            if peer.ready:
                self._ready.setdefault(name, {})[peer.task_id] = (peer.task_name or peer.task_id).lower()
        for address in addresses:
            self._reverse.setdefault(address, {})[peer.task_id] = peer.task_name or peer.task_id

    def remove_peer(self, peer: NetworkPeer) -> None:
        """Forget a peer as it was added."""
        for name, _needs_ready in _peer_names(peer):
            _drop(self._tasks, name, peer.task_id)
            _drop(self._ready, name, peer.task_id)
        for address in peer.addresses:
            _drop(self._reverse, address.partition("/")[0], peer.task_id)

    def add_service(self, service: NetworkService) -> None:
        """Take a service's common address in."""
        addresses = virtual_addresses(service)
        ports = tuple(map(_port, service.ports))
        for name in _service_names(service.service_name, service.aliases):
            self._virtual.setdefault(name, {})[service.service_id] = addresses
            self._ports.setdefault(name, {})[service.service_id] = ports
        for address in addresses:
            self._reverse.setdefault(address, {})[service.service_id] = service.service_name

    def remove_service(self, service: NetworkService) -> None:
        """Forget a service as it was added."""
        for name in _service_names(service.service_name, service.aliases):
            _drop(self._virtual, name, service.service_id)
            _drop(self._ports, name, service.service_id)
        for address in virtual_addresses(service):
            _drop(self._reverse, address, service.service_id)


def _port(config: PortConfig) -> ServicePort:
    protocol = PortConfig.Protocol.Name(config.protocol).removeprefix("PROTOCOL_").lower()
    return ServicePort(config.name.lower() or str(config.target_port), protocol, config.target_port)


def virtual_addresses(service: NetworkService) -> tuple[str, ...]:
    """Its common addresses without prefix length, IPv4 first; none with dnsrr."""
    if service.mode == EndpointSpec.MODE_DNSRR:
        return ()
    return tuple(one.partition("/")[0] for one in (service.virtual_ip, service.virtual_ipv6) if one)


def _service_names(name: str, aliases: Iterable[str]) -> set[str]:
    service = name.lower()
    names = {service} if service else set()
    for alias in map(str.lower, aliases):
        names.add(alias)
        # Stacks name their services STACK_NAME and give NAME as an alias.
        if service.endswith(f"_{alias}"):
            names.add(f"{alias}.{service[: -len(alias) - 1]}")
    return names


def _peer_names(peer: NetworkPeer) -> Iterable[tuple[str, bool]]:
    """(name, whether the task must be ready to answer to it)"""
    for name in _service_names(peer.service_name, peer.aliases):
        yield name, True
        yield f"tasks.{name}", True
        if peer.slot:
            yield f"{name}.{peer.slot}", True
    if peer.task_name:
        # One without a service has no other name by which it is to be found: that leads to it only while it is there.
        yield peer.task_name.lower(), not peer.service_id


def _drop(table: dict[str, dict[str, T]], key: str, owner: str) -> None:
    owners = table.get(key)
    if owners is not None:
        owners.pop(owner, None)
        if not owners:
            del table[key]
