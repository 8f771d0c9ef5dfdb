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


def _spec_name(thing: Any) -> str:
    name: str = thing.spec.annotations.name
    return name


def _networks(spec: TaskSpec) -> set[str]:
    return {attachment.target for attachment in spec.networks}


def _secrets(spec: TaskSpec) -> set[str]:
    return {reference.secret_id for reference in spec.container.secrets}


def _configs(spec: TaskSpec) -> set[str]:
    return {reference.config_id for reference in spec.container.configs}


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
                "network": lambda task: {attachment.network_id for attachment in task.networks} | _networks(task.spec),
                "secret": lambda task: _secrets(task.spec),
                "config": lambda task: _configs(task.spec),
            },
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
