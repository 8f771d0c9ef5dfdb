"""What others on a network are told of tasks and services: NetworkPeer and NetworkService. Pure."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from flota.v1.dispatcher_pb2 import NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import EndpointSpec, PortConfig, TaskState, TunnelKey


def is_ready(task: Task) -> bool:
    """Whether the task answers to its service's name.

    It no longer does from the moment it is told to stop, before its worker sends the signal. (A job's task is wanted
    COMPLETE from the start: that does not tell it to stop.) Nor does one whose health check failed.
    """
    status = task.status
    runs = status.state == TaskState.TASK_STATE_RUNNING and not status.container.unhealthy
    return runs and task.desired_state <= TaskState.TASK_STATE_COMPLETE


def underlay_address(node: Node) -> str:
    """Where the node's VXLAN endpoint is reached."""
    return node.description.data_path_address or node.status.address


class Endpoint(NamedTuple):
    """Where a node's end of every network is: the address of VXLAN, and the keys of WireGuard."""

    vtep: str
    keys: tuple[TunnelKey, ...] = ()


def endpoint_of(node: Node) -> Endpoint:
    """The node's."""
    return Endpoint(underlay_address(node), tuple(node.description.tunnel_keys))


def peers_of(task: Task, endpoint: Endpoint, is_encrypted: Callable[[str], bool]) -> Iterator[NetworkPeer]:
    """The task's place on each of its networks; of which `is_encrypted` knows by their ids."""
    name, ready = task_name(task), is_ready(task)
    for attachment in task.networks:
        if attachment.addresses:
            yield NetworkPeer(
                network_id=attachment.network_id,
                task_id=task.id,
                task_name=name,
                service_id=task.service_id,
                service_name=task.service_annotations.name,
                slot=task.slot,
                aliases=attachment.aliases,
                addresses=attachment.addresses,
                node_id=task.node_id,
                vtep=endpoint.vtep,
                ready=ready,
                tunnel_keys=endpoint.keys if is_encrypted(attachment.network_id) else (),
            )


def node_peer(network_id: str, node_id: str, endpoint: Endpoint, is_encrypted: Callable[[str], bool]) -> NetworkPeer:
    """A node that answers published ports: a peer without addresses, and with the node's id in the task's place."""
    keys = endpoint.keys if is_encrypted(network_id) else ()
    return NetworkPeer(network_id=network_id, task_id=node_id, node_id=node_id, vtep=endpoint.vtep, tunnel_keys=keys)


def publishes(service: Service) -> bool:
    """Whether the service has a port in ingress mode (that the allocator has seen)."""
    return any(port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS for port in service.endpoint.ports)


def services_of(service: Service, ingress: str) -> Iterator[NetworkService]:
    """The service on each network where it has an address in common or, without one (dnsrr), where its tasks are; and
    on the network `ingress` ("" = there is none), without an address, if it publishes ports there.
    """
    if not service.HasField("endpoint"):
        return
    endpoint = service.endpoint
    aliases = {attachment.target: attachment.aliases for attachment in service.spec.task.networks}
    networks = dict.fromkeys(vip.network_id for vip in endpoint.virtual_ips)
    if endpoint.spec.mode == EndpointSpec.MODE_DNSRR:
        networks |= dict.fromkeys(aliases)
    if ingress and publishes(service):
        networks[ingress] = None
    for network_id in networks:
        addresses = [vip.address for vip in endpoint.virtual_ips if vip.network_id == network_id]
        yield NetworkService(
            network_id=network_id,
            service_id=service.id,
            service_name=service.spec.annotations.name,
            aliases=aliases.get(network_id, ()),
            virtual_ip=next((address for address in addresses if ":" not in address), ""),
            virtual_ipv6=next((address for address in addresses if ":" in address), ""),
            ports=endpoint.ports,
            mode=endpoint.spec.mode,
        )
