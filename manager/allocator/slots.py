"""Addresses that belong to a slot of a service rather than to the task that is in it (moby#24170).

A service asks for them network by network: with the option `stable-address` of its attachment every slot keeps the
address it was first given, with an address of its own (one replica only) that one. They are in the service object
(`slot_addresses`), so they outlive every task, a scaling down and the leader; they come back when the service goes, or
no longer asks. One address cannot be at two places: a task has to wait until its predecessor has ended, or its
predecessor's node is down.
"""

from collections.abc import Iterable, Iterator

from flota.manager.allocator.networks import Networks
from flota.manager.store import ReadTables
from flota.v1.network_options import keeps_address
from flota.v1.objects_pb2 import Service, SlotAddresses, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NetworkAttachmentConfig, NodeState

# (slot, network)
Place = tuple[int, str]


class KeptAddresses:
    """Those of all services. In memory; takes from and gives back to `networks`."""

    def __init__(self, tables: ReadTables, networks: Networks) -> None:
        self._tables = tables
        self._networks = networks
        self._services: dict[str, dict[Place, list[str]]] = {}

    def restore(self, service: Service) -> None:
        """Take over what a service was given before."""
        kept = {(one.slot, one.network_id): list(one.addresses) for one in service.slot_addresses}
        for (_, network_id), addresses in kept.items():
            self._networks.take(network_id, addresses)
        if kept:
            self._services[service.id] = kept

    def is_current(self, service: Service) -> bool:
        """Whether the service has what it asks for, and nothing else."""
        has = {(one.slot, one.network_id): list(one.addresses) for one in service.slot_addresses}
        return not self._missing(service, has) and not _surplus(service, has)

    def allocate(self, service: Service) -> list[SlotAddresses]:
        """What the service is to have. Raises Exhausted, Taken; then nothing has changed."""
        kept = dict(self._services.get(service.id, {}))
        given: list[tuple[str, list[str]]] = []
        surplus = {place: kept.pop(place) for place in _surplus(service, kept)}
        try:
            for (slot, network_id), asked in self._missing(service, kept).items():
                addresses = self._networks.give(network_id, asked)
                given.append((network_id, addresses))
                kept[slot, network_id] = addresses
        except Exception:
            for network_id, addresses in given:
                self._networks.take_back(network_id, addresses)
            raise
        for (_, network_id), addresses in surplus.items():
            self._let_go(service.id, network_id, addresses)
        self._services[service.id] = kept
        return [
            SlotAddresses(slot=slot, network_id=network_id, addresses=addresses)
            for (slot, network_id), addresses in sorted(kept.items())
        ]

    def release(self, service_id: str) -> None:
        """The service is gone."""
        for (_, network_id), addresses in self._services.pop(service_id, {}).items():
            self._let_go(service_id, network_id, addresses)

    def of(self, task: Task, network_id: str) -> list[str] | None:
        """The addresses of a task's slot; None if it has none."""
        return self._services.get(task.service_id, {}).get((task.slot, network_id))

    def holder(self, task: Task) -> Task | None:
        """Another task that is still where an address of the task's slot leads; its node may be asked no longer."""
        kept = self._services.get(task.service_id)
        if not kept:
            return None
        for other in self._tables.tasks.by("slot", (task.service_id, task.slot or task.node_id)):
            if other.id == task.id or is_terminal(other) or not other.networks:
                continue
            if not self._is_lost(other) and any(
                set(one.addresses) & set(kept.get((task.slot, one.network_id), ())) for one in other.networks
            ):
                return other
        return None

    def _is_lost(self, task: Task) -> bool:
        node = self._tables.nodes.get(task.node_id) if task.node_id else None
        return bool(task.node_id) and (node is None or node.status.state == NodeState.NODE_STATE_DOWN)

    def _let_go(self, service_id: str, network_id: str, addresses: list[str]) -> None:
        """Give back what no task uses; the rest goes with its task (`own`)."""
        used = {
            address
            for task in self._tables.tasks.by("service", service_id)
            if not is_terminal(task)
            for one in task.networks
            if one.network_id == network_id
            for address in one.addresses
        }
        self._networks.take_back(network_id, [address for address in addresses if address not in used])

    def own(self, task: Task) -> list[tuple[str, list[str]]]:
        """The addresses of a task, by network, that are not its slot's."""
        kept = self._services.get(task.service_id, {})
        return [
            (one.network_id, list(one.addresses))
            for one in task.networks
            if kept.get((task.slot, one.network_id)) != list(one.addresses)
        ]

    def _missing(self, service: Service, has: dict[Place, list[str]]) -> dict[Place, list[str]]:
        """Places without addresses, and which ones are asked for there."""
        keeping = list(_keeping(service))
        if not keeping:
            return {}
        replicated = service.spec.replicated
        replicas = replicated.replicas if replicated.HasField("replicas") else 1
        slots = {*range(1, replicas + 1), *self._slots_in_use(service)}
        return {
            (slot, attachment.target): list(attachment.addresses)
            for attachment in keeping
            for slot in sorted(slots)
            if (slot, attachment.target) not in has
        }

    def _slots_in_use(self, service: Service) -> Iterator[int]:
        return (task.slot for task in self._tables.tasks.by("service", service.id) if task.slot)


def _keeping(service: Service) -> Iterable[NetworkAttachmentConfig]:
    return (attachment for attachment in service.spec.task.networks if keeps_address(attachment))


def _surplus(service: Service, has: dict[Place, list[str]]) -> list[Place]:
    """Places whose addresses the service asks for no longer, or asks for others."""
    asked = {attachment.target: _bare(attachment.addresses) for attachment in _keeping(service)}
    return [
        (slot, network_id)
        for (slot, network_id), addresses in has.items()
        if network_id not in asked or not asked[network_id] <= _bare(addresses)
    ]


def _bare(addresses: Iterable[str]) -> set[str]:
    return {address.partition("/")[0] for address in addresses}
