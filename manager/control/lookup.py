"""Finding objects by what people type, and filtering lists.

A reference is an id, a name, or the beginning of exactly one id, in this order (Docker's rule). Nodes are named by
their hostname.
"""

from collections.abc import Iterable
from typing import TypeVar

from flota.manager.store import Reader
from flota.manager.store.schema import StoreObject
from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.control_pb2 import ListFilters
from flota.v1.objects_pb2 import Cluster, Config, Network, Node, Secret, Service, ServiceHistory, Task
from flota.v1.task_states import task_name

M = TypeVar("M", Node, Service, Task, Network, Secret, Config)


def find(table: Reader[M], word: str, reference: str) -> M:
    """The object a person means. Raises NotFound, and InvalidArgument when the reference is empty or ambiguous."""
    if not reference:
        raise InvalidArgument(f"no {word} is named: give its id or its name")
    found = table.get(reference)
    if found is not None:
        return found
    candidates = _named(table, word, reference) or table.by_prefix(reference)
    if len(candidates) > 1:
        raise InvalidArgument(
            f"{word} {reference!r} is ambiguous: {len(candidates)} {word}s match, for example "
            f"{candidates[0].id} and {candidates[1].id}; give more of the id"
        )
    if not candidates:
        raise NotFound(f"{word} {reference} not found")
    return candidates[0]


def _named(table: Reader[M], word: str, name: str) -> list[M]:
    if word == "node":
        return [node for node in table if name_of(node) == name]
    if word == "task":
        return [task for task in table if name_of(task) == name] if "." in name else []
    found = table.by_name(name)
    return [found] if found is not None else []


def name_of(thing: StoreObject) -> str:
    """The name people know an object by."""
    if isinstance(thing, Task):
        return task_name(thing)
    if isinstance(thing, Node):
        return thing.description.hostname
    if isinstance(thing, ServiceHistory):
        return thing.revisions[-1].spec.annotations.name if thing.revisions else ""
    return thing.spec.annotations.name


def labels_of(thing: StoreObject) -> dict[str, str]:
    """The labels a user gave."""
    if isinstance(thing, Task):
        return dict(thing.service_annotations.labels)
    if isinstance(thing, ServiceHistory):
        return {}
    return dict(thing.spec.annotations.labels)


def matching(things: Iterable[M], filters: ListFilters) -> list[M]:
    """Those that fulfil every filter of any kind of object; filters are and-ed, the values within one or-ed."""
    if filters.id_prefixes:
        prefixes = tuple(filters.id_prefixes)
        things = [thing for thing in things if thing.id.startswith(prefixes)]
    if filters.names:
        names = set(filters.names)
        things = [thing for thing in things if _answers_to(thing) & names]
    if filters.name_prefixes:
        starts = tuple(filters.name_prefixes)
        things = [thing for thing in things if any(name.startswith(starts) for name in _answers_to(thing))]
    if filters.labels:
        things = [thing for thing in things if _has_labels(thing, filters)]
    return list(things)


def _answers_to(thing: StoreObject) -> set[str]:
    names = {name_of(thing)}
    if isinstance(thing, Task):
        # A person who filters tasks by name may mean the service's, or service.slot.
        names |= {thing.service_annotations.name, f"{thing.service_annotations.name}.{thing.slot or thing.node_id}"}
    elif not isinstance(thing, Cluster | ServiceHistory):
        names.add(thing.spec.annotations.name)
    return names - {""}


def _has_labels(thing: StoreObject, filters: ListFilters) -> bool:
    labels = labels_of(thing)
    return all(key in labels and (not value or labels[key] == value) for key, value in filters.labels.items())
