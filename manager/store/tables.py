"""Tables of immutable messages with secondary indices.

A table never copies and never changes a message: whoever stored it has given it away, and whoever reads it must copy
it before changing anything (`CopyFrom`). Reads give lists, so that a caller may write while it walks them.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from flota.manager.store.schema import Kind, StoreObject
from flota.v1.objects_pb2 import Cluster, Config, Network, Node, Secret, Service, ServiceHistory, Task

M = TypeVar("M", bound=StoreObject)


class Reader(Protocol[M]):
    """What can be asked of a table, in the store and within a transaction alike."""

    def get(self, id: str) -> M | None:
        """The object with this id."""
        ...

    def by_name(self, name: str) -> M | None:
        """The object with this name (names are unique within their kind)."""
        ...

    def by(self, index: str, key: Hashable) -> list[M]:
        """All objects that `index` (see schema.py) finds under `key`."""
        ...

    def by_prefix(self, prefix: str) -> list[M]:
        """All objects whose id begins with `prefix`."""
        ...

    def __iter__(self) -> Iterator[M]: ...

    def __len__(self) -> int: ...


class Table(Generic[M]):
    """All objects of one kind, by id, by name and by the kind's indices."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._objects: dict[str, M] = {}
        self._names: dict[str, M] = {}
        # Ids, in order, so that an object that changes without moving costs its indices nothing.
        self._indices: dict[str, dict[Hashable, dict[str, None]]] = {index: {} for index in kind.indices}
        self._keys_of = kind.keys or (lambda thing: [keys_of(thing) for keys_of in kind.indices.values()])
        # Of each object, what it is found under in each index.
        self._keys: dict[str, list[Iterable[Hashable]]] = {}

    def get(self, id: str) -> M | None:
        return self._objects.get(id)

    def by_name(self, name: str) -> M | None:
        return self._names.get(name)

    def by(self, index: str, key: Hashable) -> list[M]:
        found = self._indices[index].get(key)
        return [self._objects[id] for id in found] if found else []

    def count(self, index: str, key: Hashable) -> int:
        """How many objects `by` would give."""
        return len(self._indices[index].get(key, ()))

    def by_prefix(self, prefix: str) -> list[M]:
        return [thing for id, thing in self._objects.items() if id.startswith(prefix)]

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, thing: M) -> M | None:
        """Store `thing`, replacing what had its id; gives back what it replaced."""
        id = thing.id
        old = self._objects.get(id)
        keys = self._keys_of(thing)
        old_keys = self._keys.get(id)
        if keys != old_keys:
            self._move(id, old_keys or [()] * len(keys), keys)
            self._keys[id] = keys
        if self._kind.name is not None:
            if old is not None:
                self._names.pop(self._kind.name(old), None)
            if name := self._kind.name(thing):
                self._names[name] = thing
        self._objects[id] = thing
        return old

    def delete(self, id: str) -> M | None:
        """Forget the object with this id; gives it back."""
        old = self._objects.pop(id, None)
        if old is None:
            return None
        keys = self._keys.pop(id, [])
        self._move(id, keys, [()] * len(keys))
        if self._kind.name is not None:
            self._names.pop(self._kind.name(old), None)
        return old

    def _move(self, id: str, old_keys: list[Iterable[Hashable]], keys: list[Iterable[Hashable]]) -> None:
        for entries, before, after in zip(self._indices.values(), old_keys, keys, strict=True):
            if before == after:
                continue
            for key in set(before).difference(after):
                self._drop(entries, key, id)
            for key in after:
                entries.setdefault(key, {})[id] = None

    @staticmethod
    def _drop(entries: dict[Hashable, dict[str, None]], key: Hashable, id: str) -> None:
        found = entries[key]
        del found[id]
        if not found:
            del entries[key]


class ReadTables(Protocol):
    """The tables by name; the store and every transaction have them."""

    @property
    def nodes(self) -> Reader[Node]: ...
    @property
    def services(self) -> Reader[Service]: ...
    @property
    def tasks(self) -> Reader[Task]: ...
    @property
    def networks(self) -> Reader[Network]: ...
    @property
    def clusters(self) -> Reader[Cluster]: ...
    @property
    def secrets(self) -> Reader[Secret]: ...
    @property
    def configs(self) -> Reader[Config]: ...
    @property
    def histories(self) -> Reader[ServiceHistory]: ...
