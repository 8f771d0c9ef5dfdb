"""Making and changing tasks: a new one from a service's spec, a copy with another desired state, and the test whether
a task still is what its service asks for.

Nothing here decides; nothing here writes. Semantics: SwarmKit's manager/orchestrator/task.go.
"""

from random import Random
from typing import TypeAlias

from flota.manager.clock import timestamp
from flota.manager.constraint import node_fits
from flota.manager.orchestrator.records import ORCHESTRATOR, note
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Cluster, Node, Service, Task
from flota.v1.specs_pb2 import TaskSpec
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState

Desired: TypeAlias = "TaskState.ValueType"


def new_task(
    cluster: Cluster | None,
    service: Service,
    slot: int,
    node_id: str,
    desired: Desired,
    now: float,
    rng: Random,
    why: str = "",
    by: str = ORCHESTRATOR,
) -> Task:
    """A fresh task of `service` in a slot (or, for global services, on a node) with slot 0. `why` is recorded."""
    task = Task(
        id=new_id(rng),
        spec=service.spec.task,
        spec_version=service.spec_version,
        service_id=service.id,
        slot=slot,
        node_id=node_id,
        service_annotations=service.spec.annotations,
        desired_state=desired,
    )
    task.status.state = TaskState.TASK_STATE_NEW
    task.status.timestamp.CopyFrom(timestamp(now))
    task.status.applied_at.CopyFrom(timestamp(now))
    task.status.message = "created"
    task.endpoint.spec.CopyFrom(service.spec.endpoint)
    if service.HasField("job_status"):
        task.job_iteration.CopyFrom(service.job_status.iteration)
    if task.spec.HasField("log_driver"):
        task.log_driver.CopyFrom(task.spec.log_driver)
    elif cluster is not None and cluster.spec.HasField("default_log_driver"):
        task.log_driver.CopyFrom(cluster.spec.default_log_driver)
    if why:
        note(task, by, why, now)
    return task


def wanted(task: Task, desired: Desired, now: float, why: str = "", by: str = ORCHESTRATOR) -> Task:
    """A copy with another desired state; `why` is recorded.

    A task that has no node yet, or that no worker has been told of, ends here: nobody else would ever report it
    stopped. (SwarmKit leaves that to its scheduler; such tasks once stayed Pending for ever.)
    """
    copy = Task()
    copy.CopyFrom(task)
    copy.desired_state = desired
    if why:
        note(copy, by, why, now)
    if desired > TaskState.TASK_STATE_COMPLETE and task.status.state < TaskState.TASK_STATE_ASSIGNED:
        copy.status.state = TaskState.TASK_STATE_SHUTDOWN
        copy.status.timestamp.CopyFrom(timestamp(now))
        copy.status.applied_at.CopyFrom(timestamp(now))
        copy.status.message = "not wanted any longer before it had a node"
    return copy


def must_leave(node: Node | None) -> bool:
    """Whether tasks cannot stay on this node: it is gone, down, or drained (SwarmKit's InvalidNode)."""
    return (
        node is None
        or node.status.state == NodeState.NODE_STATE_DOWN
        or node.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
    )


def is_gone(task: Task, node: Node | None) -> bool:
    """Whether the task holds up nobody any longer: it has stopped, or its node cannot tell."""
    if is_terminal(task) or task.status.state < TaskState.TASK_STATE_ASSIGNED:
        return True
    return node is None or node.status.state == NodeState.NODE_STATE_DOWN


def is_dirty(service: Service, task: Task, node: Node | None) -> bool:
    """Whether the task has to be replaced to be what the service's spec says (SwarmKit's IsTaskDirty).

    Not when only constraints changed and its node still fulfils them, nor for registry credentials (they matter only
    while the image is pulled).
    """
    if task.spec_version == service.spec_version:
        return False
    if task.endpoint.spec != service.spec.endpoint:
        return True
    if task.spec == service.spec.task:
        return False
    fits = node is None or node_fits(service.spec.task.placement.constraints, node)
    return not fits or _comparable(task.spec) != _comparable(service.spec.task)


def _comparable(spec: TaskSpec) -> TaskSpec:
    copy = TaskSpec()
    copy.CopyFrom(spec)
    copy.container.registry_auth = ""
    del copy.placement.constraints[:]
    if copy.placement == type(copy.placement)():
        copy.ClearField("placement")
    return copy
