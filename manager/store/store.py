"""The replicated store: the state machine that Raft drives, and what managers read and write.

Writes: `update` runs a function over the newest committed state, turns what it did into one Raft entry, and waits for
that entry to be applied here. Applying checks every action's version again. It is deterministic, so all managers keep
the same tables, and any number of transactions can be in flight: the one that rests on something that moved is
refused, and its function is run again on the newer state.

Reads: the tables, at once, as of the last entry applied on this manager.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from flota.manager.clock import Clock, SystemClock
from flota.manager.store.fields import whole_fields
from flota.manager.store.memory import Memory
from flota.manager.store.schema import KINDS, StoreObject, unwrap, word_of, wrap
from flota.manager.store.tables import Table
from flota.manager.store.transaction import Transaction
from flota.manager.store.watch import Event, Watcher, WatchHub
from flota.v1.objects_pb2 import Cluster, Config, Network, Node, Secret, Service, ServiceHistory, Task
from flota.v1.store_pb2 import StoreAction, StoreSnapshot, StoreTransaction, SwarmEvent

R = TypeVar("R")
S = TypeVar("S", bound=Message)
_Action = tuple["StoreAction.Kind.ValueType", str, StoreObject]

# SwarmKit's MaxTransactionBytes: larger ones must be split by their makers.
MAX_TRANSACTION_BYTES = 1_500_000
# SwarmKit's MaxChangesPerTransaction.
MAX_CHANGES_PER_TRANSACTION = 200
_ATTEMPTS = 20
# Objects of a snapshot that are written in one go, and the pause after them in seconds.
_WRITTEN_AT_ONCE = 100
_BREATH = 0.0002


class StoreError(Exception):
    """What can go wrong with a transaction."""


class Conflict(StoreError):
    """An object changed, went, or appeared between the decision and its application."""


class NameTaken(Conflict):
    """Another object of that kind has this name."""


class TransactionTooLarge(StoreError):
    """A transaction is over MAX_TRANSACTION_BYTES."""


class Proposer(Protocol):
    """Consensus, as the store sees it."""

    async def propose(self, data: bytes) -> object:
        """Append `data` to the log; when it is applied on this manager, give back what `apply` returned."""
        ...


class Store:
    """Tables in memory; see the module's docstring."""

    def __init__(
        self, clock: Clock | None = None, tell: "Callable[[Event, Store], SwarmEvent | None] | None" = None
    ) -> None:
        """`tell` says what a change means to people; snapshots carry the newest of that."""
        self._clock: Clock = clock or SystemClock()
        self._proposer: Proposer | None = None
        self._hub = WatchHub()
        self._memory = Memory(self._hub, None if tell is None else lambda event: tell(event, self))
        self._index = 0
        self._use_tables(_new_tables())

    def _use_tables(self, tables: dict[str, Table[Any]]) -> None:
        self._tables = tables
        self.nodes: Table[Node] = self._tables["node"]
        self.services: Table[Service] = self._tables["service"]
        self.tasks: Table[Task] = self._tables["task"]
        self.networks: Table[Network] = self._tables["network"]
        self.clusters: Table[Cluster] = self._tables["cluster"]
        self.secrets: Table[Secret] = self._tables["secret"]
        self.configs: Table[Config] = self._tables["config"]
        self.histories: Table[ServiceHistory] = self._tables["service_history"]

    @property
    def cluster(self) -> Cluster | None:
        """The one cluster object, once there is one."""
        return next(iter(self.clusters), None)

    @property
    def index(self) -> int:
        """Version of the newest applied transaction."""
        return self._index

    def use(self, proposer: Proposer) -> None:
        """Say who carries transactions to the other managers. Needed before the first `update`."""
        self._proposer = proposer

    async def update(self, change: Callable[[Transaction], R]) -> R:
        """Run `change` on the newest state and commit what it did; gives back what it returned.

        `change` must be quick, must not await, and may run several times: each time on newer state. What it raises
        goes to the caller, and nothing is committed. Raises Conflict when the state keeps moving away,
        TransactionTooLarge, and whatever the proposer raises (not the leader, no quorum).
        """
        if self._proposer is None:
            raise StoreError("this store has no way to commit anything yet")
        refusal: Conflict | None = None
        for _ in range(_ATTEMPTS):
            transaction = Transaction(self._tables)
            result = change(transaction)
            if not transaction.actions:
                return result
            entry = transaction.to_entry(self._clock.now())
            if len(entry) > MAX_TRANSACTION_BYTES:
                raise TransactionTooLarge(
                    f"a transaction of {len(entry):,} bytes ({len(transaction.actions)} changes); "
                    f"at most {MAX_TRANSACTION_BYTES:,} are allowed"
                )
            outcome = await self._proposer.propose(entry)
            if outcome is None:
                return result
            assert isinstance(outcome, Conflict)
            refusal = outcome
        assert refusal is not None
        raise refusal

    async def batch(self, changes: Iterable[Callable[[Transaction], None]]) -> None:
        """Run many small changes, as many as fit in one transaction at a time. Not atomic as a whole."""
        group: list[Callable[[Transaction], None]] = []
        for change in changes:
            group.append(change)
            if len(group) == MAX_CHANGES_PER_TRANSACTION:
                await self.update(_all_of(group))
                group = []
        if group:
            await self.update(_all_of(group))

    def watch(self, *words: str, after: int | None = None) -> Watcher:
        """Open a watch on these kinds (none = all). With `after`, begin with what came after that version.

        Raises Compacted when that version is too old.
        """
        unknown = set(words) - set(KINDS)
        if unknown:
            raise ValueError(f"cannot watch {sorted(unknown)}; kinds are {sorted(KINDS)}")
        return self._hub.open(words, after)

    @property
    def kept_since(self) -> int:
        """A watch may begin after this version, or any later one."""
        return self._hub.complete_since

    @property
    def told_before(self) -> Sequence[SwarmEvent]:
        """What people were told of changes up to `kept_since`, as far as it is known; oldest first."""
        return self._memory.before

    # The state machine.

    def apply(self, index: int, data: bytes) -> Conflict | None:
        """Apply one committed entry; gives back why it was refused, or None. Deterministic."""
        entry = StoreTransaction.FromString(data)
        actions: list[_Action] = []
        for action in entry.actions:
            thing = unwrap(action.object)
            actions.append((action.kind, word_of(thing), thing))
        refusal = self._check(actions)
        if refusal is not None:
            return refusal
        # A part of a message keeps all of that message in memory.
        alone = len(actions) == 1
        proposed_at = Timestamp()
        proposed_at.CopyFrom(entry.proposed_at)
        events: list[Event] = []
        for kind, word, thing in actions:
            if kind == StoreAction.KIND_REQUIRE:
                continue
            table = self._tables[word]
            if kind == StoreAction.KIND_REMOVE:
                old = table.delete(thing.id)
                assert old is not None
                events.append(Event(word, kind, old, old, index, proposed_at))
                continue
            before = table.get(thing.id)
            if not alone:
                thing = _detached(thing)
            meta = thing.meta
            meta.version.index = index
            meta.updated_at.CopyFrom(proposed_at)
            meta.created_at.CopyFrom(proposed_at if before is None else before.meta.created_at)
            table.put(thing)
            events.append(Event(word, kind, thing, before, index, proposed_at))
        self._index = index
        self._hub.publish(events)
        return None

    def _check(self, actions: "list[_Action]") -> Conflict | None:
        freed = {(word, thing.id) for kind, word, thing in actions if kind == StoreAction.KIND_REMOVE}
        named: dict[tuple[str, str], str] = {}
        for kind, word, thing in actions:
            stored = self._tables[word].get(thing.id)
            if kind == StoreAction.KIND_CREATE:
                if stored is not None:
                    return Conflict(f"{word} {thing.id} exists already")
            elif stored is None:
                return Conflict(f"{word} {thing.id} does not exist any longer")
            elif stored.meta.version.index != thing.meta.version.index:
                return Conflict(
                    f"{word} {thing.id} is at version {stored.meta.version.index}, "
                    f"the change rests on version {thing.meta.version.index}"
                )
            name_of = KINDS[word].name
            if name_of is None or kind not in (StoreAction.KIND_CREATE, StoreAction.KIND_UPDATE):
                continue
            if name := name_of(thing):
                holder = self._tables[word].by_name(name)
                taken = holder is not None and holder.id != thing.id and (word, holder.id) not in freed
                if taken or named.setdefault((word, name), thing.id) != thing.id:
                    return NameTaken(f"{word} name {name!r} is taken")
        return None

    def everything(self) -> list[StoreObject]:
        """All objects as they are now."""
        return [thing for table in self._tables.values() for thing in table]

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """Freeze the store now; the function that comes back writes it out in pieces, and may run in any thread."""
        frozen, told = self.everything(), self._memory.freeze()

        def written() -> Iterator[bytes]:
            yield from _written(frozen)
            yield StoreSnapshot(events=told()).SerializeToString()

        return written

    def restore(self, pieces: Iterable[bytes], index: int = 0) -> None:
        """Replace everything by a snapshot taken at `index`. Open watches end with WatchClosed. Raises DecodeError."""
        self.reader(pieces, index)()

    def reader(self, pieces: Iterable[bytes], index: int) -> Callable[[], None]:
        """Read a snapshot, in any thread; the function that comes back puts it in place, quickly.

        Its bytes may be cut anywhere; of the bytes no more than some pieces are in memory. Raises DecodeError.
        """
        tables = _new_tables()
        told: list[SwarmEvent] = []
        for part in whole_fields(pieces):
            snapshot = StoreSnapshot.FromString(part)
            for envelope in snapshot.objects:
                thing = _detached(unwrap(envelope))
                tables[word_of(thing)].put(thing)
            told += map(_detached, snapshot.events)

        def replace() -> None:
            self._use_tables(tables)
            self._index = index
            self._hub.reset(index)
            self._memory.replace(told, index)

        return replace


def _new_tables() -> dict[str, Table[Any]]:
    return {word: Table(kind) for word, kind in KINDS.items()}


def _detached(thing: S) -> S:
    """A copy that stands alone: a part of a message keeps all of that message in memory."""
    copy = type(thing)()
    copy.CopyFrom(thing)
    return copy


def _written(things: list[StoreObject]) -> Iterator[bytes]:
    """A StoreSnapshot, some objects at a time: what is repeated may be written in pieces, one after the other.

    Each piece holds Python's lock for a moment only, and lets go of it: the event loop's thread must not wait.
    """
    for first in range(0, len(things), _WRITTEN_AT_ONCE):
        part = things[first : first + _WRITTEN_AT_ONCE]
        yield StoreSnapshot(objects=map(wrap, part)).SerializeToString()
        time.sleep(_BREATH)


def _all_of(changes: list[Callable[[Transaction], None]]) -> Callable[[Transaction], None]:
    def run(transaction: Transaction) -> None:
        for change in changes:
            change(transaction)

    return run


class LocalProposer:
    """Consensus of one, in memory: for tests, simulations of the loops, and `flota simulate`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.index
        store.use(self)

    async def propose(self, data: bytes) -> object:
        """Apply at once."""
        self._index += 1
        return self._store.apply(self._index, data)
