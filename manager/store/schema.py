"""Which kinds of objects the store keeps, and by what each is found.

A kind's word ("task") is the name of its field in `Object` (proto/flota/v1/store.proto). An index maps an object to
the keys it is found under; keys are read from the object alone, so every replica builds the same index.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flota.v1.objects_pb2 import Cluster, Config, Network, Node, Secret, Service, ServiceHistory, Task
from flota.v1.specs_pb2 import TaskSpec
from flota.v1.store_pb2 import Object

StoreObject = Node | Service | Task | Network | Cluster | Secret | Config | ServiceHistory
Keys = Callable[[Any], Iterable[Hashable]]


@dataclass(frozen=True)
class Kind:
    """One kind of object: its word, its message, the name that must be unique (if any) and its indices."""

    word: str
    message: type[Any]
    name: Callable[[Any], str] | None = None
    indices: dict[str, Keys] = field(default_factory=dict)
    # The keys of all indices at once, in their order, where that is worth a function of its own.
    keys: Callable[[Any], list[Iterable[Hashable]]] | None = None


def _spec_name(thing: Any) -> str:
    name: str = thing.spec.annotations.name
    return name


# Most have none of these, and tables keep what they are given: no sets for nothing.


def _networks(spec: TaskSpec) -> Iterable[str]:
    found = spec.networks
    return {attachment.target for attachment in found} if found else ()


def _secrets(spec: TaskSpec) -> Iterable[str]:
    found = spec.container.secrets
    return {reference.secret_id for reference in found} if found else ()


def _configs(spec: TaskSpec) -> Iterable[str]:
    found = spec.container.configs
    return {reference.config_id for reference in found} if found else ()


def _task_networks(task: Task) -> Iterable[str]:
    found, wanted = task.networks, _networks(task.spec)
    return {attachment.network_id for attachment in found}.union(wanted) if found else wanted


def _task_keys(task: Task) -> list[Iterable[Hashable]]:
    """Tasks change more often than all else."""
    service, node, spec = task.service_id, task.node_id, task.spec
    return [
        (service,),
        (node,) if node else (),
        ((service, task.slot or node),),
        (task.status.state,),
        (task.desired_state,),
        _task_networks(task),
        _secrets(spec),
        _configs(spec),
    ]


def _member(node: Node) -> tuple[int, ...]:
    return (node.manager_status.raft_id,) if node.HasField("manager_status") else ()


KINDS: dict[str, Kind] = {
    kind.word: kind
    for kind in (
        Kind("node", Node, None, {"role": lambda node: (node.role,), "raft_id": _member}),
        Kind(
            "service",
            Service,
            _spec_name,
            {
                "network": lambda service: _networks(service.spec.task),
                "secret": lambda service: _secrets(service.spec.task),
                "config": lambda service: _configs(service.spec.task),
            },
        ),
        Kind(
            "task",
            Task,
            None,
            {
                "service": lambda task: (task.service_id,),
                "node": lambda task: (task.node_id,) if task.node_id else (),
                "slot": lambda task: ((task.service_id, task.slot or task.node_id),),
                "state": lambda task: (task.status.state,),
                "desired_state": lambda task: (task.desired_state,),
                "network": _task_networks,
                "secret": lambda task: _secrets(task.spec),
                "config": lambda task: _configs(task.spec),
            },
            _task_keys,
        ),
        Kind("network", Network, _spec_name),
        Kind("cluster", Cluster, _spec_name),
        Kind("secret", Secret, _spec_name),
        Kind("config", Config, _spec_name),
        Kind("service_history", ServiceHistory),
    )
}
_WORDS: dict[type[Any], str] = {kind.message: kind.word for kind in KINDS.values()}


def word_of(thing: StoreObject) -> str:
    """The kind's word for an object: "task" for a Task."""
    return _WORDS[type(thing)]


def wrap(thing: StoreObject) -> Object:
    """Put an object into the `Object` envelope that log and snapshots carry."""
    return Object(**{word_of(thing): thing})  # type: ignore[arg-type]


def unwrap(envelope: Object) -> StoreObject:
    """Take the object out of its envelope.

    Raises ValueError for an empty envelope (or one of a kind this version does not know).
    """
    word = envelope.WhichOneof("kind")
    if word is None:
        raise ValueError("an object of a kind this version does not know")
    thing: StoreObject = getattr(envelope, word)
    return thing
