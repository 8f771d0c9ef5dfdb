"""Networks of this node alone: the predefined `bridge`, and those that people make with that driver.

Each is a network like any other to the overlay, but without VXLAN. Subnets and addresses are given here. Which are in
use the overlay remembers: what is attached. Stands before the overlay for all that attaches containers: who is on
such a network has no address from the managers, and gets one on its way through. So does a container without a service
that goes to a network of the swarm (places.py).
"""

import asyncio
import ipaddress
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from flota.overlay import NotAttached, Sandbox
from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from flota.v1.dispatcher_pb2 import AssignmentChange, NetworkPeer
from flota.v1.network_options import BRIDGE, HOST, NONE, PREDEFINED
from flota.v1.objects_pb2 import Network, Task
from flota.v1.specs_pb2 import NetworkSpec
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import IpamConfig, NetworkAttachment
from flota.worker.containers.places import Places
from flota.worker.containers.records import Records

# Docker's own: a /16 each, the first for the predefined one.
_POOL = [ipaddress.IPv4Network(f"172.{number}.0.0/16") for number in range(17, 32)]
_POOL += list(ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=20))


class Overlay(Protocol):
    """overlay.Network"""

    def set_local(self, networks: list[Network]) -> None: ...
    def apply(self, changes: list[AssignmentChange], complete: bool) -> None: ...
    def attached(self) -> list[Task]: ...
    def name_of(self, network_id: str) -> str: ...
    async def attach(self, task: Task) -> Sandbox: ...
    async def change(self, task_id: str, networks: Sequence[NetworkAttachment]) -> None: ...
    async def close(self, task_id: str) -> None: ...
    async def detach(self, task_id: str) -> None: ...


# A container without a service, what becomes of it (connect, disconnect), the network.
Told = Callable[[str, str, Network], None]


class Bridges:
    """`start` it before the overlay adopts what is there, `adopted` after that."""

    def __init__(self, directory: Path, overlay: Overlay, places: Places, node_id: str) -> None:
        """The networks that people made are kept in `directory`. Raises OSError."""
        self._records = Records(directory, Network)
        self._overlay = overlay
        self._places = places
        self._node_id = node_id
        self._networks: dict[str, Network] = {}
        # What has been given here or by way of here, by task.
        self._given: dict[str, list[NetworkAttachment]] = {}
        # Tasks that have their namespace, and what they are called; changes of one are made one at a time.
        self._there: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.told: Told = lambda task_id, action, network: None

    def start(self) -> None:
        """Know the networks again."""
        own = Network(id=BRIDGE, ipam=[_ipam(_POOL[0])])
        own.spec.annotations.name = own.spec.driver.name = BRIDGE
        self._networks = {own.id: own} | {network.id: network for network in self._records.all()}
        self._overlay.set_local(list(self._networks.values()))

    def adopted(self) -> None:
        """Know again who has which address."""
        for task in self._overlay.attached():
            given = [one for one in task.networks if not task.service_id or one.network_id in self._networks]
            self._given[task.id] = given
            self._there[task.id] = task_name(task)
            self._tell(task, given)
            if not task.service_id:
                self._places.hold(task.id, [one.network_id for one in given])

    # What there is.

    def all(self) -> list[Network]:
        """Every network of this node alone."""
        return list(self._networks.values())

    def given(self, task_id: str) -> list[NetworkAttachment]:
        """A task's places that are known here."""
        return self._given.get(task_id, [])

    def is_attached(self, task_id: str) -> bool:
        """Whether the task has its namespace."""
        return task_id in self._there

    def is_local(self, network_id: str) -> bool:
        """Whether a network is of this node alone."""
        return network_id in self._networks

    def name_of(self, network_id: str) -> str:
        """What people call a network, of this node or of the swarm; empty if that is not known (yet)."""
        known = self._networks.get(network_id)
        if known is not None:
            return known.spec.annotations.name
        return network_id if network_id in PREDEFINED else self._overlay.name_of(network_id)

    def create(self, spec: NetworkSpec) -> Network:
        """A new one. Raises AlreadyExists, InvalidArgument, ResourceExhausted, OSError."""
        name = spec.annotations.name
        if name in PREDEFINED or any(name == one.spec.annotations.name for one in self._networks.values()):
            raise AlreadyExists(f"network with name {name} already exists")
        if len(spec.ipam) > 1 or any(":" in config.subnet for config in spec.ipam):
            raise InvalidArgument("a network of one node (driver bridge) has one subnet, of IPv4")
        made = Network(id=secrets.token_hex(32), spec=spec)
        made.meta.created_at.GetCurrentTime()
        made.ipam.append(self._subnet(spec.ipam[0] if spec.ipam else IpamConfig()))
        self._records.save(made.id, made)
        self._networks[made.id] = made
        self._overlay.set_local(list(self._networks.values()))
        return made

    def remove(self, network_id: str) -> None:
        """Raises NotFound, FailedPrecondition, OSError."""
        network = self._networks.get(network_id)
        if network is None:
            raise NotFound(f"network {network_id} not found")
        name = network.spec.annotations.name
        if network_id in PREDEFINED:
            raise FailedPrecondition(f"{name} is a pre-defined network and cannot be removed")
        users = [
            task_id for task_id, given in self._given.items() if any(one.network_id == network_id for one in given)
        ]
        if users:
            named = ", ".join(f'name:"{self._there.get(user, user)}" id:"{user[:12]}"' for user in users)
            raise FailedPrecondition(
                f"error while removing network: network {name} id {network_id} has active endpoints ({named})"
            )
        self._records.delete(network_id)
        del self._networks[network_id]
        self._overlay.set_local(list(self._networks.values()))

    def _subnet(self, asked: IpamConfig) -> IpamConfig:
        used = [ipaddress.IPv4Network(one.ipam[0].subnet) for one in self._networks.values()]
        if asked.subnet:
            try:
                subnet = ipaddress.IPv4Network(asked.subnet)
            except ValueError:
                raise InvalidArgument.of("subnet", asked.subnet, "a network like 172.20.0.0/16 is needed") from None
            if any(subnet.overlaps(one) for one in used):
                raise InvalidArgument.of("subnet", asked.subnet, "it overlaps another network of this node")
        else:
            free = (one for one in _POOL if not any(one.overlaps(other) for other in used))
            found = next(free, None)
            if found is None:
                raise ResourceExhausted("all predefined address pools have been fully subnetted: give a --subnet")
            subnet = found
        made = _ipam(subnet)
        if asked.gateway:
            made.gateway = asked.gateway
        made.range = asked.range
        made.reserved.update(asked.reserved)
        return made

    # Who is on them.

    async def attach(self, task: Task) -> Sandbox:
        """As the overlay does, with addresses for networks of this node. Raises OverlayError, FlotaError too."""
        placed = Task()
        placed.CopyFrom(task)
        del placed.networks[:]
        given = self._given.setdefault(task.id, [])
        try:
            for wanted in task.networks:
                if wanted.network_id == NONE:
                    continue
                placed.networks.append(await self._placed(task, wanted, given))
            if not task.service_id:
                placed.networks.sort(key=self._precedence)
            sandbox = await self._overlay.attach(placed)
        except BaseException:
            self._given.pop(task.id, None)
            self._places.leave(task.id)
            raise
        self._there[task.id] = task_name(task)
        self._tell(task, given)
        self._places.use(task.id)
        if not task.service_id:
            self._report(task.id, "connect", given)
        return sandbox

    async def connect(self, task: Task, wanted: NetworkAttachment) -> NetworkAttachment:
        """One more network for a task without a service that has its namespace; gives its place there.

        Raises NotAttached (it has none, or no longer), OverlayError, FlotaError; it is as it was then.
        """
        given = self._given.get(task.id)
        if given is None or task.id not in self._there:
            raise NotAttached(task.id)
        placed = await self._placed(task, wanted, given)
        try:
            async with self._lock(task.id):
                self._require_there(task.id, given)
                await self._overlay.change(task.id, sorted(given, key=self._precedence))
                self._tell(task, [placed])
        except BaseException:
            given.remove(placed)
            self._places.leave(task.id, placed.network_id)
            raise
        self._places.use(task.id)
        self._report(task.id, "connect", [placed])
        return placed

    async def disconnect(self, task: Task, network_id: str) -> None:
        """One network less for a task without a service: no name leads to it, it is off, its address is free.

        Raises NotAttached (it is not on it, or no longer), OverlayError; it is as it was then.
        """
        given = self._given.get(task.id, [])
        place = next((one for one in given if one.network_id == network_id), None)
        if place is None or task.id not in self._there:
            raise NotAttached(task.id)
        kept = [one for one in given if one is not place]
        try:
            if network_id in self._networks:
                self._withdraw(task.id, [place])
            else:
                await self._places.withdraw(task.id, network_id)
            async with self._lock(task.id):
                self._require_there(task.id, given)
                await self._overlay.change(task.id, sorted(kept, key=self._precedence))
                given.remove(place)
        except BaseException:
            if self._given.get(task.id) is given:
                self._tell(task, [place])
                self._places.use(task.id)
            raise
        self._places.leave(task.id, network_id)
        self._report(task.id, "disconnect", [place])

    def _require_there(self, task_id: str, given: list[NetworkAttachment]) -> None:
        """It has not been detached, and perhaps attached again, since `given` was looked up. Raises NotAttached."""
        if self._given.get(task_id) is not given or task_id not in self._there:
            raise NotAttached(task_id)

    def _precedence(self, place: NetworkAttachment) -> tuple[int, str]:
        """Which of a container's networks comes first, for its default routes and its names. As Docker has it."""
        return -place.gateway_priority, self.name_of(place.network_id)

    def _lock(self, task_id: str) -> asyncio.Lock:
        return self._locks.setdefault(task_id, asyncio.Lock())

    async def _placed(self, task: Task, wanted: NetworkAttachment, given: list[NetworkAttachment]) -> NetworkAttachment:
        """The task's place on one network, from managers or from here."""
        is_local = wanted.network_id in self._networks
        if wanted.network_id == HOST or (task.service_id and not is_local):
            return wanted
        known = next((one for one in given if one.network_id == wanted.network_id), None)
        if known is None:
            known = NetworkAttachment()
            known.CopyFrom(
                self._place(wanted) if is_local else await self._places.take(task.id, task_name(task), wanted)
            )
            known.gateway_priority, known.target = wanted.gateway_priority, wanted.network_id
            given.append(known)
        return known

    def rename(self, task: Task) -> None:
        """Names on networks of this node lead to a task under the name that it has now, and under no other.

        (On networks of the swarm from its next start on.)
        """
        name = task_name(task)
        if self._there.get(task.id, name) != name:
            self._there[task.id] = name
            self._tell(task, self._given.get(task.id, []))

    async def close(self, task_id: str) -> None:
        """As the overlay does."""
        await self._overlay.close(task_id)

    async def detach(self, task_id: str) -> None:
        """As the overlay does. Raises OverlayError."""
        async with self._lock(task_id):
            given = self._given.get(task_id, [])
            self._withdraw(task_id, given)
            await self._overlay.detach(task_id)
            self._given.pop(task_id, None)
            self._there.pop(task_id, None)
            self._places.leave(task_id)
        self._locks.pop(task_id, None)
        self._report(task_id, "disconnect", given)

    def _withdraw(self, task_id: str, given: Iterable[NetworkAttachment]) -> None:
        """Names on networks of this node lead to the task no longer."""
        peers = (
            NetworkPeer(network_id=one.network_id, task_id=task_id) for one in given if one.network_id in self._networks
        )
        self._overlay.apply([AssignmentChange(action=_REMOVE, peer=peer) for peer in peers], complete=False)

    def _report(self, task_id: str, action: str, given: Iterable[NetworkAttachment]) -> None:
        for one in given:
            network = Network(id=one.network_id)
            network.spec.annotations.name = self.name_of(one.network_id) or one.target
            network.spec.driver.name = BRIDGE if one.network_id in self._networks else "overlay"
            self.told(task_id, action, network)

    def _place(self, wanted: NetworkAttachment) -> NetworkAttachment:
        network = self._networks[wanted.network_id]
        ipam = network.ipam[0]
        subnet = ipaddress.IPv4Network(ipam.subnet)
        there = (one for given in self._given.values() for one in given if one.network_id == network.id)
        taken = set(_addresses(there))
        taken |= {ipam.gateway, *ipam.reserved.values()}
        if wanted.addresses:
            address = wanted.addresses[0].partition("/")[0]
            if ":" in address or ipaddress.IPv4Address(address) not in subnet:
                raise InvalidArgument(
                    f"Invalid address {address}: It does not belong to any of this network's subnets ({subnet})"
                )
            if address in taken:
                raise FailedPrecondition("Address already in use")
        else:
            free = (str(one) for one in ipaddress.IPv4Network(ipam.range or ipam.subnet).hosts())
            found = next((one for one in free if one not in taken), None)
            if found is None:
                raise ResourceExhausted(f"no available IPv4 addresses on this network: {network.spec.annotations.name}")
            address = found
        placed = NetworkAttachment(network_id=network.id, addresses=[f"{address}/{subnet.prefixlen}"])
        placed.aliases.extend(wanted.aliases)
        return placed

    def _tell(self, task: Task, given: list[NetworkAttachment]) -> None:
        """Names on these networks lead to the task."""
        peers = (
            NetworkPeer(
                network_id=one.network_id,
                task_id=task.id,
                task_name=task_name(task),
                service_id=task.service_id,
                service_name=task.service_annotations.name if task.service_id else "",
                slot=task.slot,
                aliases=one.aliases,
                addresses=one.addresses,
                node_id=self._node_id,
                ready=True,
            )
            for one in given
            if one.network_id in self._networks
        )
        self._overlay.apply([AssignmentChange(action=_UPDATE, peer=peer) for peer in peers], complete=False)


_UPDATE, _REMOVE = AssignmentChange.ACTION_UPDATE, AssignmentChange.ACTION_REMOVE


def _ipam(subnet: ipaddress.IPv4Network) -> IpamConfig:
    return IpamConfig(subnet=str(subnet), gateway=str(subnet[1]))


def _addresses(attachments: Iterator[NetworkAttachment]) -> Iterator[str]:
    for one in attachments:
        for address in one.addresses:
            yield address.partition("/")[0]
