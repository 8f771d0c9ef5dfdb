"""The log in memory: entries after the last snapshot, and how far they are stable, committed and applied.

Theory of operation. `first_index` … `last_index` are here; what came before is in the snapshot (dissertation, 5), of
which only index and term are known. applied ≤ committed ≤ last_index: what is committed is never cut off again
(`append` asserts it; 3.6.3). `stable` is how far the disk has it. An index and a term name one entry and all before it
(log matching, 3.5), which is why agreement can be looked for a term at a time. Entries behind a snapshot may be kept
for followers that are a little late.

Pure bookkeeping: the durable log (storage.py) is written by whoever drives the core, from what `Ready` says.
"""

from collections.abc import Sequence

from flota.v1.raft_pb2 import Entry, SnapshotMeta


class Compacted(Exception):
    """The entry asked for is only part of a snapshot by now."""


class RaftLog:
    """Entries first_index … last_index; everything before is in the snapshot."""

    def __init__(self, snapshot: SnapshotMeta | None = None, entries: Sequence[Entry] = (), commit: int = 0) -> None:
        self.snapshot = snapshot or SnapshotMeta()
        self._entries: list[Entry] = list(entries)
        # Index and term before the first entry kept. Entries below a snapshot may be kept for slow followers.
        first = self._entries[0] if self._entries else None
        self._before = first.index - 1 if first else self.snapshot.index
        self._before_term = self.snapshot.term if self._before == self.snapshot.index else 0
        self.stable = self.last_index
        self.committed = max(commit, self.snapshot.index)
        self.applied = self.snapshot.index

    @property
    def first_index(self) -> int:
        """Index of the first entry kept (or that will be)."""
        return self._before + 1

    @property
    def last_index(self) -> int:
        """Index of the newest entry."""
        return self._before + len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the newest entry."""
        term = self.term(self.last_index)
        assert term is not None
        return term

    def term(self, index: int) -> int | None:
        """Term of the entry at `index`; None when it is compacted away or not there yet."""
        if index == self.snapshot.index:
            return self.snapshot.term
        if index == self._before:
            return self._before_term if self._before_term or index == 0 else None
        if self._before < index <= self.last_index:
            return self._entries[index - self._before - 1].term
        return None

    def slice(self, first: int, last: int, max_bytes: int | None = None) -> list[Entry]:
        """Entries first…last (inclusive), at least one, as many as fit. Raises Compacted."""
        if first < self.first_index:
            raise Compacted(f"entry {first} is compacted; the first kept is {self.first_index}")
        found = self._entries[first - self.first_index : last - self._before]
        if max_bytes is None or not found:
            return found
        size, count = 0, 0
        for entry in found:
            size += len(entry.data) + 32
            if count and size > max_bytes:
                break
            count += 1
        return found[:count]

    def append(self, entries: Sequence[Entry]) -> None:
        """Put entries at their indices, cutting off what stood there and after (3.5)."""
        if not entries:
            return
        first = entries[0].index
        assert self.committed < first <= self.last_index + 1
        if first <= self.last_index:
            del self._entries[first - self.first_index :]
            self.stable = min(self.stable, first - 1)
        self._entries.extend(entries)

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at `index` has this term."""
        return self.term(index) == term

    def first_conflict(self, entries: Sequence[Entry]) -> int:
        """Position in `entries` of the first one that is new or differs; len(entries) when all are here."""
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                return position
        return len(entries)

    def find_conflict_by_term(self, index: int, term: int) -> int:
        """The last index ≤ `index` whose term is ≤ `term`: where a search for agreement goes on (5.3's hint)."""
        index = min(index, self.last_index)
        while index > self._before:
            if (self.term(index) or 0) <= term:
                return index
            index -= 1
        return index

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a candidate whose last entry is this one may get our vote (3.6.1)."""
        return (term, index) >= (self.last_term, self.last_index)

    def compact(self, index: int) -> None:
        """Forget entries up to and including `index`, which must be covered by a snapshot."""
        assert index <= self.snapshot.index
        if index <= self._before:
            return
        term = self.term(index)
        assert term is not None
        del self._entries[: index - self._before]
        self._before, self._before_term = index, term

    def took_snapshot(self, meta: SnapshotMeta) -> None:
        """Our own state machine was written out at `meta`; entries stay until `compact`."""
        self.snapshot = meta

    def restore(self, meta: SnapshotMeta) -> None:
        """A snapshot from the leader replaces everything; `applied` follows once the state machine has it, too."""
        self.snapshot = meta
        self._entries.clear()
        self._before, self._before_term = meta.index, meta.term
        self.stable = self.committed = meta.index
