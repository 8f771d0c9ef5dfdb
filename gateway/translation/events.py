"""What a change in the store is in the words of `docker events`. Pure.

Docker's swarm events are about services, nodes, secrets, configs and networks (moby daemon/cluster and
daemon/events.go). Those of containers the node itself tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flota.gateway.translation import shown
from flota.gateway.translation.words import word
from flota.v1.containers_pb2 import ContainerEvent
from flota.v1.control_pb2 import WatchMessage
from flota.v1.ids import container_id
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.stack_records import is_record
from flota.v1.store_pb2 import StoreAction
from flota.v1.task_states import task_name
from flota.v1.types_pb2 import NodeState, UpdateStatus

KINDS = ("service", "node", "secret", "config", "network")
_ACTIONS = {
    StoreAction.KIND_CREATE: "create",
    StoreAction.KIND_UPDATE: "update",
    StoreAction.KIND_REMOVE: "remove",
}


@dataclass(frozen=True)
class Event:
    """One of them, but for its time."""

    type: str
    action: str
    id: str
    attributes: dict[str, str] = field(default_factory=dict)
    scope: str = "swarm"

    def shape(self, nanoseconds: int) -> dict[str, Any]:
        """As JSON, with when it was."""
        shape: dict[str, Any] = {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": self.scope,
            "time": nanoseconds // 1_000_000_000,
            "timeNano": nanoseconds,
        }
        if self.type == "container":
            # What the API had before 1.22, and some clients still read.
            shape |= {"status": self.action, "id": self.id, "from": self.attributes.get("image", "")}
        return shape


def events_of(message: WatchMessage) -> Iterator[Event]:
    """What `message` is to a client."""
    kind = message.object.WhichOneof("kind")
    if kind not in KINDS:
        return
    thing: Any = getattr(message.object, kind)
    old: Any = getattr(message.old, kind) if message.HasField("old") else None
    action = _ACTIONS.get(message.kind)
    if action is None or (kind == "config" and is_record(thing)):
        return
    attributes = {"name": thing.description.hostname if kind == "node" else thing.spec.annotations.name}
    if action == "update" and old is not None:
        changed = _node_changes(old, thing) if kind == "node" else {}
        changed |= _service_changes(old, thing) if kind == "service" else {}
        if not changed and thing.spec == old.spec:
            # Addresses were given, a certificate was renewed: nothing that Docker tells.
            return
        attributes |= changed
    if kind == "network":
        attributes["type"] = "overlay"
    yield Event(kind, action, thing.id, attributes)


def _pair(key: str, old: str, new: str) -> dict[str, str]:
    return {f"{key}.old": old, f"{key}.new": new} if old != new else {}


def _node_changes(old: Node, new: Node) -> dict[str, str]:
    def state(node: Node) -> str:
        return word(NodeState.Name(node.status.state), "NODE_STATE_")

    return (
        _pair("state", state(old), state(new))
        | _pair("availability", shown.availability(old.spec.availability), shown.availability(new.spec.availability))
        | _pair("role", shown.role(old.spec.desired_role), shown.role(new.spec.desired_role))
    )


def _service_changes(old: Service, new: Service) -> dict[str, str]:
    def status(service: Service) -> str:
        state = service.update_status.state
        return word(UpdateStatus.State.Name(state), "STATE_", "_") if state else ""

    changed = _pair("image", old.spec.task.container.image, new.spec.task.container.image)
    if new.spec.WhichOneof("mode") == "replicated":
        changed |= _pair("replicas", str(old.spec.replicated.replicas), str(new.spec.replicated.replicas))
    return changed | _pair("updatestate", status(old), status(new))


def event_of(told: ContainerEvent) -> Event:
    """What has happened to a container of this node, or to its networks."""
    task = told.container.task
    if told.HasField("network"):
        spec = told.network.spec
        about = {"container": container_id(task.id), "name": spec.annotations.name, "type": spec.driver.name}
        return Event("network", told.action, told.network.id, about, "local")
    attributes = container_labels(task) | {"image": task.spec.container.image, "name": task_name(task)}
    attributes |= dict(told.attributes)
    if told.action == "die":
        attributes["exitCode"] = str(task.status.container.exit_code)
    return Event("container", told.action, container_id(task.id), attributes, "local")


def container_labels(task: Task) -> dict[str, str]:
    """The labels by which tools know a task's container; its own if it has no service."""
    if not task.service_id:
        return dict(task.spec.container.labels)
    return dict(task.spec.container.labels) | {
        "com.docker.swarm.node.id": task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": task.service_annotations.name,
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": task_name(task),
    }
