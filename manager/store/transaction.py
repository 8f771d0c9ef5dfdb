"""A transaction: reads that see its own writes, and a list of actions that becomes one Raft entry.

Transactions are optimistic. Each action names the version of the object it was decided on; the entry is checked again
when it is applied (apply.py), by every manager in the same way, so any number of them can be on their way at once.
"""

from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

from flota.manager.clock import timestamp
from flota.manager.store.schema import KINDS, Kind, StoreObject, word_of, wrap
from flota.manager.store.tables import Table
from flota.v1.objects_pb2 import Cluster, Config, Network, Node, Secret, Service, ServiceHistory, Task
from flota.v1.store_pb2 import StoreAction, StoreTransaction

M = TypeVar("M", bound=StoreObject)


class View(Generic[M]):
    """A table as this transaction sees it."""

    def __init__(self, kind: Kind, table: Table[M]) -> None:
        self._kind = kind
        self._table = table
        self._changed: dict[str, M | None] = {}

    def get(self, id: str) -> M | None:
        return self._changed[id] if id in self._changed else self._table.get(id)

    def by_name(self, name: str) -> M | None:
        assert self._kind.name is not None
        for thing in self._changed.values():
            if thing is not None and self._kind.name(thing) == name:
                return thing
        found = self._table.by_name(name)
        return None if found is not None and found.id in self._changed else found

    def by(self, index: str, key: Hashable) -> list[M]:
        found = self._table.by(index, key)
        if not self._changed:
            return found
        keys_of = self._kind.indices[index]
        return [thing for thing in found if thing.id not in self._changed] + [
            thing for thing in self._changed.values() if thing is not None and key in set(keys_of(thing))
        ]

    def by_prefix(self, prefix: str) -> list[M]:
        return [thing for thing in self if thing.id.startswith(prefix)]

    def __iter__(self) -> Iterator[M]:
        for thing in self._table:
            if thing.id not in self._changed:
                yield thing
        yield from [thing for thing in self._changed.values() if thing is not None]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def record(self, id: str, thing: M | None) -> None:
        """Remember a write of this transaction; None = removed."""
        self._changed[id] = thing


class Transaction:
    """What a change function is given. It reads, decides, and calls create, update, remove and require."""

    def __init__(self, tables: dict[str, Table[Any]]) -> None:
        self._views: dict[str, View[Any]] = {word: View(KINDS[word], table) for word, table in tables.items()}
        self.nodes: View[Node] = self._views["node"]
        self.services: View[Service] = self._views["service"]
        self.tasks: View[Task] = self._views["task"]
        self.networks: View[Network] = self._views["network"]
        self.clusters: View[Cluster] = self._views["cluster"]
        self.secrets: View[Secret] = self._views["secret"]
        self.configs: View[Config] = self._views["config"]
        self.histories: View[ServiceHistory] = self._views["service_history"]
        self.actions: dict[tuple[str, str], StoreAction] = {}

    def create(self, thing: StoreObject) -> None:
        """Add a new object. It is given away: do not change it afterwards."""
        self._write(StoreAction.KIND_CREATE, thing)

    def update(self, thing: StoreObject) -> None:
        """Replace an object by a changed copy of what this transaction read (its meta.version says what that was)."""
        key = (word_of(thing), thing.id)
        earlier = self.actions.get(key)
        created_here = earlier is not None and earlier.kind == StoreAction.KIND_CREATE
        self._write(StoreAction.KIND_CREATE if created_here else StoreAction.KIND_UPDATE, thing)

    def remove(self, thing: StoreObject) -> None:
        """Delete an object this transaction read."""
        word = word_of(thing)
        earlier = self.actions.get((word, thing.id))
        self._views[word].record(thing.id, None)
        if earlier is not None and earlier.kind == StoreAction.KIND_CREATE:
            del self.actions[word, thing.id]
            return
        self.actions[word, thing.id] = StoreAction(kind=StoreAction.KIND_REMOVE, object=wrap(_key_only(thing)))

    def require(self, thing: StoreObject) -> None:
        """Make this transaction fail if `thing` has changed or gone when it is applied."""
        key = (word_of(thing), thing.id)
        if key not in self.actions:
            self.actions[key] = StoreAction(kind=StoreAction.KIND_REQUIRE, object=wrap(_key_only(thing)))

    def _write(self, kind: "StoreAction.Kind.ValueType", thing: StoreObject) -> None:
        word = word_of(thing)
        self._views[word].record(thing.id, thing)
        self.actions[word, thing.id] = StoreAction(kind=kind, object=wrap(thing))

    def to_entry(self, now: float) -> bytes:
        """The bytes for the Raft log; `now` is the proposer's wall clock in seconds."""
        return StoreTransaction(actions=self.actions.values(), proposed_at=timestamp(now)).SerializeToString()


def _key_only(thing: StoreObject) -> StoreObject:
    key = type(thing)(id=thing.id)
    key.meta.version.index = thing.meta.version.index
    return key
