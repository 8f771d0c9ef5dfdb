"""Places on networks for containers that belong to no service: a task that runs nothing, on the node that asks.

Like SwarmKit's network attachment tasks: the allocator gives it addresses, everybody on the network hears of it as of
any peer, and it is over when the node says so. Only on networks that are attachable.
"""

import ipaddress

from flota.manager.clock import timestamp
from flota.manager.store import Transaction
from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from flota.v1.dispatcher_pb2 import AttachNetworkRequest
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NetworkAttachmentConfig, TaskState


def take_place(tx: Transaction, request: AttachNetworkRequest, node_id: str, now: float) -> Task:
    """Make the task within a transaction. Raises NotFound, FailedPrecondition, InvalidArgument."""
    asked = request.attachment
    network = tx.networks.get(asked.target) or tx.networks.by_name(asked.target)
    if network is None:
        raise NotFound(f"network {asked.target} not found")
    if not network.spec.attachable:
        name = network.spec.annotations.name
        raise FailedPrecondition(f"Could not attach to network {name}: network {name} not manually attachable")
    tx.require(network)
    for address in asked.addresses:
        _check_address(tx, network, address)
    task = Task(id=new_id(), node_id=node_id, desired_state=TaskState.TASK_STATE_RUNNING)
    task.service_annotations.name = request.container_name
    task.attachment_of = request.container_id
    attachment = NetworkAttachmentConfig()
    attachment.CopyFrom(asked)
    attachment.target = network.id
    task.spec.networks.append(attachment)
    task.status.timestamp.CopyFrom(timestamp(now))
    task.status.message = "created"
    tx.create(task)
    return task


def _check_address(tx: Transaction, network: Network, address: str) -> None:
    """Whether an address that is asked for can be had now: nobody waits for what the allocator will never give.

    Raises InvalidArgument, FailedPrecondition.
    """
    subnets = [ipaddress.ip_network(config.subnet) for config in network.ipam]
    try:
        parsed = ipaddress.ip_address(address.partition("/")[0])
    except ValueError:
        raise InvalidArgument(f"Invalid address {address}: an address such as 10.0.1.5 is needed") from None
    if not any(parsed in subnet for subnet in subnets):
        known = ", ".join(map(str, subnets))
        raise InvalidArgument(
            f"Invalid address {address}: It does not belong to any of this network's subnets ({known})"
        )
    taken = {config.gateway for config in network.ipam}
    for task in tx.tasks.by("network", network.id):
        if not is_terminal(task):
            taken |= {one for each in task.networks if each.network_id == network.id for one in each.addresses}
    for service in tx.services:
        taken |= {one.address for one in service.endpoint.virtual_ips if one.network_id == network.id}
    if str(parsed) in {one.partition("/")[0] for one in taken}:
        raise FailedPrecondition("Address already in use")
