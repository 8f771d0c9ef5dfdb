"""Places on networks for containers that belong to no service: a task that runs nothing, on the node that asks.

Like SwarmKit's network attachment tasks: the allocator gives it addresses, everybody on the network hears of it as of
any peer, and it is over when the node says so. Only on networks that are attachable.
"""

from flota.manager.clock import timestamp
from flota.manager.store import Transaction
from flota.rpc.errors import FailedPrecondition, NotFound
from flota.v1.dispatcher_pb2 import AttachNetworkRequest
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachmentConfig, TaskState


def take_place(tx: Transaction, request: AttachNetworkRequest, node_id: str, now: float) -> Task:
    """Make the task within a transaction. Raises NotFound, FailedPrecondition."""
    asked = request.attachment
    network = tx.networks.get(asked.target) or tx.networks.by_name(asked.target)
    if network is None:
        raise NotFound(f"network {asked.target} not found")
    if not network.spec.attachable:
        raise FailedPrecondition(
            f"Could not attach to network {network.spec.annotations.name}: it is not manually attachable"
        )
    tx.require(network)
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
