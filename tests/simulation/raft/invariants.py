"""What must never happen among members of a group, checked at every step (Ongaro's dissertation, figure 3.2).

* election safety: at most one leader a term, and one vote of each member, over all its lives;
* log matching: an index and a term name one entry, with one predecessor, everywhere;
* leader completeness: a new leader has every entry that was committed in an earlier term than its own;
* state machine safety: all members apply the same entry at an index, once, in order;
* a leader counts entries of its own term only, and a majority of each half of its configuration has them on disk;
* every promise that leaves is on the disk of whoever makes it;
* term and commit index of a member only grow; at most one change of the membership is on its way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from flota.manager.raft.core import Raft, Role
from flota.v1.raft_pb2 import Entry, RaftMessage, SnapshotMeta


class Member(Protocol):
    """What is looked at. Attributes of one that is down are those of its last life."""

    @property
    def id(self) -> int: ...
    @property
    def core(self) -> Raft: ...
    # Counts starts.
    @property
    def life(self) -> int: ...
    # Newest entry and term that are on its disk.
    @property
    def durable_index(self) -> int: ...
    @property
    def durable_term(self) -> int: ...


M = TypeVar("M", bound=Member)


class Invariants(Generic[M]):
    """See the module's docstring. `on_election` is told of every new leader."""

    def __init__(self, members: Mapping[int, M], on_election: Callable[[M], None]) -> None:
        self._members = members
        self._on_election = on_election
        self._leaders: dict[int, int] = {}
        self._entries: dict[tuple[int, int], tuple[int | None, bytes]] = {}
        self._applied: dict[int, tuple[int, bytes]] = {}
        # In which term an entry was first seen to be committed; its own may be an earlier one.
        self._committed_in: dict[int, int] = {}
        self._applied_by: dict[int, int] = {}
        self._highest: dict[int, tuple[int, int, int]] = {}
        self._votes: dict[tuple[int, int], int] = {}
        # Of whoever leads: term and life, and how far it had committed.
        self._reigns: dict[int, tuple[tuple[int, int], int]] = {}
        self._elected: set[tuple[int, int, int]] = set()

    def check(self, member: M) -> None:
        """Of one member, after each step."""
        raft = member.core
        term, commit, life = self._highest.get(member.id, (0, 0, 0))
        if life == member.life:
            assert raft.term >= term, f"{member.id}: the term went back from {term} to {raft.term}"
            assert raft.log.committed >= commit, f"{member.id}: the commit index went back from {commit}"
        self._highest[member.id] = raft.term, raft.log.committed, member.life
        self._check_commit(member)
        if raft.role is Role.LEADER and (raft.term, member.id, member.life) not in self._elected:
            self._elected.add((raft.term, member.id, member.life))
            self._note_leader(member)

    def _check_commit(self, member: M) -> None:
        """A leader commits entries of its own term only (3.6.2), which a majority of each half has on disk (4.3)."""
        raft = member.core
        index, reign = raft.log.committed, (raft.term, member.life)
        if raft.role is not Role.LEADER:
            self._reigns.pop(member.id, None)
            return
        known, before = self._reigns.get(member.id, (reign, index))
        self._reigns[member.id] = reign, index
        if known != reign or index == before:
            return
        assert raft.log.term(index) == raft.term, f"{member.id} counts entry {index} of an earlier term"
        for half in (raft.conf.voters, raft.conf.voters_outgoing):
            there = [id for id in half if has_on_disk(self._members[id], index, raft.term)]
            assert not half or 2 * len(there) > len(half), f"{member.id} commits {index}: of {half} {there} have it"

    def _note_leader(self, member: M) -> None:
        raft = member.core
        self._on_election(member)
        other = self._leaders.setdefault(raft.term, member.id)
        assert other == member.id, f"{other} and {member.id} both lead in term {raft.term}"
        for index, (term, _) in self._applied.items():
            # A candidate of a term between the entry's own and the one that committed it may still win, late (3.6.3).
            if index > raft.log.snapshot.index and self._committed_in[index] < raft.term:
                found = raft.log.term(index)
                assert found == term, f"leader {member.id} of term {raft.term} lacks entry {index} of term {term}"

    def note_entries(self, member: M, entries: Sequence[Entry]) -> None:
        """Entries that a member is about to write."""
        for entry in entries:
            before = member.core.log.term(entry.index - 1)
            seen = (before, entry.data)
            known = self._entries.setdefault((entry.index, entry.term), seen)
            assert known[1] == entry.data, f"two entries {entry.index} of term {entry.term}"
            if None not in (known[0], before):
                assert known[0] == before, f"entry {entry.index} of term {entry.term} follows two different ones"
        if member.core.role is Role.LEADER:
            log = member.core.log
            undecided = log.slice(max(max(self._applied, default=1) + 1, log.first_index), log.last_index)
            changes = sum(entry.type == Entry.TYPE_CONF_CHANGE for entry in undecided)
            assert changes <= 1, f"leader {member.id} has {changes} changes of the membership on their way"

    def note_promise(self, member: M, message: RaftMessage) -> None:
        """A promise leaves: it is on the disk (3.8), and a vote goes to one member a term, in all the voter's lives."""
        if message.type == RaftMessage.TYPE_APPEND_RESPONSE and not message.reject:
            assert message.index <= member.durable_index, f"{member.id} promises entry {message.index} too early"
        elif message.type in (RaftMessage.TYPE_VOTE_RESPONSE, RaftMessage.TYPE_VOTE):
            assert message.term <= member.durable_term, f"{member.id} votes in term {message.term} too early"
        if message.type == RaftMessage.TYPE_VOTE_RESPONSE and not message.reject:
            known = self._votes.setdefault((message.term, member.id), message.to)
            assert known == message.to, f"{member.id} votes for {known} and {message.to} in term {message.term}"
        elif message.type == RaftMessage.TYPE_VOTE:
            known = self._votes.setdefault((message.term, member.id), member.id)
            assert known == member.id, f"{member.id} stands in term {message.term}, and voted for {known}"

    def note_applied(self, member: M, entry: Entry) -> None:
        """A member applies an entry."""
        follows = entry.index == self._applied_by.get(member.id, 1) + 1
        assert follows or member.life > 1, f"{member.id} skips an entry"
        self._applied_by[member.id] = entry.index
        seen = (entry.term, entry.data)
        self._committed_in.setdefault(entry.index, member.core.term)
        known = self._applied.setdefault(entry.index, seen)
        assert known == seen, f"{member.id} applies another entry {entry.index} than others did"

    def note_restored(self, member: M, meta: SnapshotMeta) -> None:
        """A member takes over a snapshot."""
        self._applied_by[member.id] = meta.index
        known = self._applied.get(meta.index)
        assert known is None or known[0] == meta.term, f"{member.id} takes a snapshot of another history"


def has_on_disk(member: Member, index: int, term: int) -> bool:
    """Whether an entry outlives a crash of this member at this moment; after a crash, too."""
    log = member.core.log
    return member.durable_index >= index and (log.matches(index, term) or index <= log.snapshot.index)
