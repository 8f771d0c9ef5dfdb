"""What is allocated to whom: networks, virtual addresses and ports of services, addresses of tasks.

In memory, rebuilt from the store. Given an object of the store it makes the copy that has what it needs; it writes
nothing. When such a copy could not be committed, `reload` brings the memory back to what the store says.
"""

from flota.manager.allocator.addresses import Taken
from flota.manager.allocator.networks import DEFAULT_LENGTH, DEFAULT_POOLS, Networks, version_of
from flota.manager.allocator.ports import Ports
from flota.manager.allocator.slots import KeptAddresses
from flota.manager.clock import timestamp
from flota.manager.store import ReadTables
from flota.v1.network_options import PREDEFINED
from flota.v1.objects_pb2 import Network, Service, Task
from flota.v1.specs_pb2 import TaskSpec
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import Endpoint, EndpointSpec, PortConfig, TaskState


class NotYet(Exception):
    """Something it rests on is not allocated yet; the message says what."""


class NotThere(NotYet):
    """Something it rests on does not exist, and a person has to make it."""


Addresses = list[tuple[str, list[str]]]
# (network, IP version)
_Place = tuple[str, int]


class Allocation:
    """See the module's docstring."""

    def __init__(self, tables: ReadTables) -> None:
        cluster = next(iter(tables.clusters), None)
        pools = (cluster.address_pools if cluster is not None else ()) or DEFAULT_POOLS
        length = (cluster.subnet_length if cluster is not None else 0) or DEFAULT_LENGTH
        self._tables = tables
        self._networks = Networks(pools, length)
        self._ports = Ports()
        self._kept = KeptAddresses(tables, self._networks)
        self._services: dict[str, Addresses] = {}
        self._tasks: dict[str, Addresses] = {}
        # The ingress network's id, once somebody needed it.
        self._ingress = ""
        for network in tables.networks:
            self._networks.restore(network)
        for service in tables.services:
            self._take_service(service)
        # In the order in which they were given, so that the next ones come after the newest.
        for task in sorted(tables.tasks, key=lambda task: task.meta.created_at.ToNanoseconds()):
            self._take_task(task)

    # Networks.

    def allocate_network(self, network: Network) -> Network | None:
        """A copy with subnets and VNI, or None if it has them. Raises Exhausted, Taken."""
        if network.id in self._networks:
            return None
        if Networks.is_allocated(network):
            self._networks.restore(network)
            return None
        return self._networks.allocate(network)

    def release_network(self, network_id: str) -> None:
        """The network is gone."""
        self._networks.release(network_id)

    # Services.

    def allocate_service(self, service: Service) -> Service | None:
        """A copy with its endpoint and its slots' addresses, or None if both are as they should be.

        Raises Exhausted, Taken, NotYet.
        """
        if self._is_current(service):
            return None
        self._must_have(service.spec.task)
        allocated = Service()
        allocated.CopyFrom(service)
        del allocated.slot_addresses[:]
        allocated.slot_addresses.extend(self._kept.allocate(service))
        self._settle_tasks(service.id)
        if not self._has_endpoint(service):
            allocated.endpoint.CopyFrom(self._endpoint(service))
        return allocated

    def _is_current(self, service: Service) -> bool:
        return self._has_endpoint(service) and self._kept.is_current(service)

    def _endpoint(self, service: Service) -> Endpoint:
        """The endpoint that the service asks for, with what it had of it. Raises Exhausted, Taken."""
        spec = service.spec.endpoint
        wanted, had = self._wanted(service), _virtual_addresses(service)
        endpoint = Endpoint(spec=spec)
        endpoint.ports.extend(self._ports.assign(service.id, spec.ports, service.endpoint.ports))
        new: dict[_Place, str] = {}
        try:
            for network_id, version in wanted:
                if (network_id, version) not in had:
                    [new[network_id, version]] = self._networks.give(network_id, versions=(version,))
        except Exception:
            self._give_back([(network_id, [address]) for (network_id, _), address in new.items()])
            raise
        addresses: Addresses = []
        for place in wanted:
            address = had.pop(place) if place in had else new[place]
            addresses.append((place[0], [address]))
            endpoint.virtual_ips.add(network_id=place[0], address=address)
        self._give_back([(network_id, [address]) for (network_id, _), address in had.items()])
        self._services[service.id] = addresses
        return endpoint

    def release_service(self, service_id: str) -> None:
        """The service is gone."""
        for network_id, addresses in self._services.pop(service_id, ()):
            self._networks.take_back(network_id, addresses)
        self._kept.release(service_id)
        self._settle_tasks(service_id)
        self._ports.release(service_id)

    def _settle_tasks(self, service_id: str) -> None:
        """An address is its task's if it is not its slot's (any longer)."""
        for task in self._tables.tasks.by("service", service_id):
            if task.id in self._tasks:
                self._tasks[task.id] = self._kept.own(task)

    # Tasks.

    def allocate_task(self, task: Task, service: Service | None, now: float) -> Task:
        """A copy with its addresses, PENDING; a container's place is ASSIGNED. `service` as it will be.

        Raises Exhausted, Taken, NotYet.
        """
        if service is not None and not self._is_current(service):
            raise NotYet("waits for its service's endpoint")
        self._must_have(task.spec)
        holder = self._kept.holder(task)
        if holder is not None:
            raise NotYet(f"waits until task {holder.id} has ended, which has the addresses of slot {task.slot}")
        ingress = self._ingress_of(task)
        self.release_task(task.id)
        pending = Task()
        pending.CopyFrom(task)
        del pending.networks[:]
        addresses: Addresses = []
        try:
            for attachment in task.spec.networks:
                if attachment.target in PREDEFINED:
                    # Its node knows what to make of that.
                    pending.networks.add(network_id=attachment.target, aliases=attachment.aliases)
                    continue
                given = self._kept.of(task, attachment.target)
                if given is None:
                    given = self._networks.give(attachment.target, attachment.addresses)
                    addresses.append((attachment.target, given))
                pending.networks.add(network_id=attachment.target, addresses=given, aliases=attachment.aliases)
            if ingress is not None:
                given = self._networks.give(ingress)
                addresses.append((ingress, given))
                pending.networks.add(network_id=ingress, addresses=given)
        except Exception:
            self._give_back(addresses)
            raise
        if pending.networks:
            self._tasks[task.id] = addresses
        if service is not None and service.endpoint.spec == task.endpoint.spec:
            pending.endpoint.CopyFrom(service.endpoint)
        status = pending.status
        status.state = TaskState.TASK_STATE_PENDING
        status.message = "pending task scheduling"
        if task.attachment_of:
            # It is where its container is: there is nothing to schedule.
            status.state, status.message = TaskState.TASK_STATE_ASSIGNED, "assigned to the node of its container"
        status.error = ""
        status.timestamp.CopyFrom(timestamp(now))
        status.applied_at.CopyFrom(timestamp(now))
        return pending

    def release_task(self, task_id: str) -> bool:
        """The task has stopped or is gone. True when that freed something."""
        addresses = self._tasks.pop(task_id, None)
        if addresses is None:
            return False
        self._give_back(addresses)
        return True

    def reload(self, object_id: str) -> None:
        """What was made of this object was not committed: go back to what the store has."""
        network = self._tables.networks.get(object_id)
        service = self._tables.services.get(object_id)
        task = self._tables.tasks.get(object_id)
        self.release_task(object_id)
        if network is not None and not Networks.is_allocated(network):
            self._networks.release(object_id)
        if object_id in self._services or service is not None:
            self.release_service(object_id)
        if service is not None:
            self._take_service(service)
            self._settle_tasks(service.id)
        if task is not None:
            self._take_task(task)

    def _wanted(self, service: Service) -> list[_Place]:
        """Where the service is to have a virtual address. Networks that are not known (yet) have IPv4 only."""
        networks = _virtual_networks(service)
        return [(network_id, version) for network_id in networks for version in self._networks.versions(network_id)]

    def _has_endpoint(self, service: Service) -> bool:
        """Whether the service's endpoint is what its spec asks for."""
        if not service.HasField("endpoint") or service.endpoint.spec != service.spec.endpoint:
            return False
        return _virtual_addresses(service).keys() == set(self._wanted(service))

    def _ingress_of(self, task: Task) -> str | None:
        """The ingress network if the task is reached through it, else None. Raises NotYet.

        It is by a port in ingress mode; and by one in host mode if nothing else leads to the task from outside.
        """
        modes = {port.publish_mode for port in task.endpoint.spec.ports}
        if not modes:
            return None
        if PortConfig.PUBLISH_MODE_INGRESS not in modes:
            if any(attachment.target in PREDEFINED for attachment in task.spec.networks):
                return None
            networks = (self._tables.networks.get(attachment.target) for attachment in task.spec.networks)
            if any(network is not None and not network.spec.internal for network in networks):
                return None
        if self._ingress not in self._networks:
            self._ingress = next((network.id for network in self._tables.networks if network.spec.ingress), "")
        if self._ingress not in self._networks:
            if not self._ingress:
                raise NotThere("there is no ingress network: network create --ingress makes one")
            raise NotYet("waits for the ingress network")
        return self._ingress

    def _must_have(self, spec: TaskSpec) -> None:
        for attachment in spec.networks:
            if attachment.target not in self._networks and attachment.target not in PREDEFINED:
                raise NotYet(f"waits for network {attachment.target}")

    def _give_back(self, addresses: Addresses) -> None:
        for network_id, given in addresses:
            self._networks.take_back(network_id, given)

    def _take_service(self, service: Service) -> None:
        self._kept.restore(service)
        if not service.HasField("endpoint"):
            return
        addresses = [(vip.network_id, [vip.address]) for vip in service.endpoint.virtual_ips]
        for network_id, given in addresses:
            self._networks.take(network_id, given)
        self._services[service.id] = addresses
        try:
            self._ports.restore(service.id, service.endpoint.ports)
        except Taken:
            # Cannot be: ports were checked when they were given. A store that says so is kept working.
            return

    def _take_task(self, task: Task) -> None:
        if is_terminal(task) or task.status.state == TaskState.TASK_STATE_NEW or not task.networks:
            return
        addresses = self._kept.own(task)
        for network_id, given in addresses:
            self._networks.take(network_id, given)
        self._tasks[task.id] = addresses


def _virtual_networks(service: Service) -> list[str]:
    if service.spec.endpoint.mode != EndpointSpec.MODE_VIP:
        return []
    targets = (attachment.target for attachment in service.spec.task.networks)
    return list(dict.fromkeys(target for target in targets if target not in PREDEFINED))


def _virtual_addresses(service: Service) -> dict[_Place, str]:
    """What it was given."""
    return {(vip.network_id, version_of(vip.address)): vip.address for vip in service.endpoint.virtual_ips}
