"""How much of a network's addresses is given out, and for whom there will be too few. Pure."""

import ipaddress
from collections.abc import Iterator

from flota.manager.control.references import publishes
from flota.manager.store import ReadTables
from flota.v1.control_pb2 import NetworkUse
from flota.v1.objects_pb2 import Network, Service
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import EndpointSpec, IpamConfig


def use_of(tables: ReadTables, network: Network) -> NetworkUse:
    """How much of a network's addresses is given out. (Tasks keep theirs until they have ended.)"""
    tasks = [
        address
        for task in tables.tasks.by("network", network.id)
        if not is_terminal(task)
        for one in task.networks
        if one.network_id == network.id
        for address in one.addresses[:1]
    ]
    services = [
        vip
        for service in tables.services
        for vip in service.endpoint.virtual_ips
        if vip.network_id == network.id and ":" not in vip.address
    ]
    return NetworkUse(
        network_id=network.id,
        used=len(tasks) + len(services),
        size=sum(capacity(config) for config in network.ipam if ":" not in config.subnet),
        services=len(services),
        tasks=len(tasks),
    )


def capacity(config: IpamConfig) -> int:
    """How many addresses of a subnet can be given: all of its range but network, broadcast, gateway, reserved ones."""
    subnet = ipaddress.ip_network(config.subnet, strict=False)
    part = ipaddress.ip_network(config.range, strict=False) if config.range else subnet
    never = {subnet.network_address, subnet.broadcast_address}
    given = [text.partition("/")[0] for text in (config.gateway, *config.reserved.values()) if text]
    never |= set(map(ipaddress.ip_address, given))
    return part.num_addresses - sum(address in part for address in never)


def too_small(tables: ReadTables, service: Service) -> Iterator[str]:
    """A warning for each network that has too few addresses left for all the tasks a replicated service asks for.

    It is no reason to refuse the service: others may go.
    """
    spec = service.spec
    if spec.WhichOneof("mode") != "replicated" or spec.stopped:
        return
    targets = {attachment.target for attachment in spec.task.networks}
    for network in tables.networks:
        if not (network.id in targets or (network.spec.ingress and publishes(spec))):
            continue
        use = use_of(tables, network)
        needed = int(spec.replicated.replicas)
        if spec.endpoint.mode == EndpointSpec.MODE_VIP and not network.spec.ingress:
            needed += 1
        free = use.size - use.used + _own(tables, service, network)
        if use.size and needed > free:
            yield (
                f"network {network.spec.annotations.name} has {free} of {use.size} addresses for this service, which "
                f"needs {needed}: the rest of its tasks will wait for one"
            )


def _own(tables: ReadTables, service: Service, network: Network) -> int:
    """Addresses that the service has there, and can go on with."""
    tasks = [
        task
        for task in tables.tasks.by("service", service.id)
        if not is_terminal(task) and any(one.network_id == network.id and one.addresses for one in task.networks)
    ]
    virtual = [vip for vip in service.endpoint.virtual_ips if vip.network_id == network.id and ":" not in vip.address]
    return len(tasks) + len(virtual)
