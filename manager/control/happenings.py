"""What a change of the store means to people: `service web was scaled from 2 to 3`, rather than two whole objects.

Pure. Most changes mean nothing to people (a heartbeat's status, an address), and give nothing. Kinds, actions and
attributes are those of Docker's swarm events where it has them (service, node, network, secret, config; name,
replicas.old/new, updatestate.old/new, state.old/new, availability.old/new, role.old/new, leader.old/new); events of
tasks stand for the events of containers, which Docker tells only of one's own machine.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from flota.manager.store import Event, Store
from flota.manager.store.schema import StoreObject
from flota.v1.objects_pb2 import Cluster, Network, Node, Service, ServiceHistory, Task
from flota.v1.store_pb2 import StoreAction, SwarmEvent
from flota.v1.types_pb2 import NodeAvailability, NodeRole, NodeState, TaskState, UpdateStatus

T = TypeVar("T")
KINDS = ("service", "task", "node", "network", "secret", "config", "cluster")
# What the command line keeps for itself in configs is no news.
_RECORD = "flota.stack.record"
_STACK = "com.docker.stack.namespace"
_TOLD_STATES = {
    TaskState.TASK_STATE_RUNNING: "running",
    TaskState.TASK_STATE_COMPLETE: "complete",
    TaskState.TASK_STATE_SHUTDOWN: "shutdown",
    TaskState.TASK_STATE_FAILED: "failed",
    TaskState.TASK_STATE_REJECTED: "rejected",
    TaskState.TASK_STATE_ORPHANED: "orphaned",
}
_ACTIONS = {
    StoreAction.KIND_CREATE: "create",
    StoreAction.KIND_UPDATE: "update",
    StoreAction.KIND_REMOVE: "remove",
}


def told(event: Event, store: Store) -> SwarmEvent | None:
    """What to tell of a change; None = nothing. `store` gives names to ids."""
    old = event.old if event.kind == StoreAction.KIND_UPDATE else None
    action = _ACTIONS[event.kind]
    attributes: dict[str, str] | None
    match event.object:
        case Task() as task:
            action, attributes = _task(task, old, store)
        case Service() as service:
            attributes = _service(service, old)
        case Node() as node:
            attributes = _node(node, old)
        case Cluster() as cluster:
            attributes = _cluster(cluster, old)
        case ServiceHistory():
            # The service's own event says it.
            return None
        case _:
            attributes = _named(event.object)
    if not action or attributes is None or (event.kind == StoreAction.KIND_REMOVE and isinstance(event.object, Task)):
        return None
    made = SwarmEvent(
        at=event.at,
        kind=event.word,
        action=action,
        id=event.object.id,
        attributes={key: value for key, value in attributes.items() if value},
    )
    made.version.index = event.index
    return made


def _named(thing: StoreObject) -> dict[str, str] | None:
    """Networks, secrets and configs."""
    assert not isinstance(thing, Task | ServiceHistory)
    labels = thing.spec.annotations.labels
    if _RECORD in labels:
        return None
    made = {"name": thing.spec.annotations.name, "stack": labels.get(_STACK, "")}
    return made | ({"type": thing.spec.driver.name or "overlay"} if isinstance(thing, Network) else {})


def _task(task: Task, old: StoreObject | None, store: Store) -> tuple[str, dict[str, str]]:
    before = old.status.state if isinstance(old, Task) else None
    if before == task.status.state:
        return "", {}
    service, node = store.services.get(task.service_id), store.nodes.get(task.node_id)
    name = service.spec.annotations.name if service is not None else task.service_annotations.name
    hostname = node.description.hostname if node is not None else ""
    ended = task.status.state > TaskState.TASK_STATE_RUNNING
    exit_code = task.status.container.exit_code if ended else 0
    return _TOLD_STATES.get(task.status.state, ""), {
        "name": f"{name}.{task.slot or hostname or task.node_id}",
        "service": name,
        "service.id": task.service_id,
        "node": hostname,
        "node.id": task.node_id,
        "image": task.spec.container.image,
        "error": task.status.error,
        "exitCode": str(exit_code) if exit_code else "",
        "stack": task.service_annotations.labels.get(_STACK, ""),
    }


def _service(service: Service, old: StoreObject | None) -> dict[str, str] | None:
    made = {
        "name": service.spec.annotations.name,
        "stack": service.spec.annotations.labels.get(_STACK, ""),
    }
    if not isinstance(old, Service):
        return made | {"image": service.spec.task.container.image}
    changes = dict(
        _changed(
            old,
            service,
            {
                "replicas": lambda each: _number(each.spec.replicated.replicas, each.spec.HasField("replicated")),
                "image": lambda each: each.spec.task.container.image,
                "updatestate": lambda each: _word(UpdateStatus.State.Name(each.update_status.state), "STATE_"),
            },
        )
    )
    return made | changes if changes or old.spec != service.spec else None


def _node(node: Node, old: StoreObject | None) -> dict[str, str] | None:
    made = {"name": node.description.hostname or node.spec.annotations.name}
    if not isinstance(old, Node):
        return made
    changes = dict(
        _changed(
            old,
            node,
            {
                "state": lambda each: _word(NodeState.Name(each.status.state), "NODE_STATE_"),
                "availability": lambda each: _word(NodeAvailability.Name(each.spec.availability), "NODE_AVAILABILITY_"),
                "role": lambda each: _word(NodeRole.Name(each.role), "NODE_ROLE_"),
            },
        )
    )
    return made | changes if changes or old.spec != node.spec else None


def _cluster(cluster: Cluster, old: StoreObject | None) -> dict[str, str] | None:
    if isinstance(old, Cluster) and old.spec == cluster.spec:
        return None
    return {"name": cluster.spec.annotations.name}


def _changed(old: T, new: T, fields: dict[str, Callable[[T], str]]) -> Iterator[tuple[str, str]]:
    for key, read in fields.items():
        before, after = read(old), read(new)
        if before != after:
            yield from ((f"{key}.old", before), (f"{key}.new", after))


def _number(value: int, known: bool) -> str:
    return str(value) if known else ""


def _word(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix).lower()
    return "" if word == "unspecified" else word
