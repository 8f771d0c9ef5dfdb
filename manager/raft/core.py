"""Raft as a deterministic state machine: messages, ticks and proposals in; one `Ready` out. No I/O, clock or threads.

Theory of operation. Whoever drives a `Raft` loops: feed it (`step`, `tick`, `propose`, …), take `ready()`, send
`messages`, apply `committed`, write `hard_state` and `entries` to disk, then call `advance(ready)` and send
`messages_after`. Rules the driver must keep:

1. `messages_after` leave only when everything that this Ready (and earlier ones) asked to persist is on disk: votes and
   acknowledgements are promises. `messages` may leave at once: a leader writes its own log in parallel with its
   followers (dissertation, 10.2.1).
2. While a Ready is being persisted the core may be fed, but the next `ready()` comes after `advance`.
3. Committed entries are applied in order, each once.

Section numbers in comments are of Ongaro's dissertation, "Consensus: Bridging Theory and Practice" (2014).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import ClassVar

from flota.manager.raft import membership
from flota.manager.raft.log import Compacted, RaftLog
from flota.manager.raft.progress import Progress, ProgressState
from flota.manager.raft.quorum import Vote, committed_index, has_quorum, vote_result
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, HardState, RaftMessage, SnapshotMeta

NOBODY = 0
_TRANSFER = b"transfer"
# A follower's promises, which rest on its disk.
_PROMISES = (RaftMessage.TYPE_APPEND_RESPONSE, RaftMessage.TYPE_VOTE_RESPONSE, RaftMessage.TYPE_PRE_VOTE_RESPONSE)


class Role(Enum):
    """What a member is at the moment."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class ProposalRefused(Exception):
    """Why a proposal was not taken."""


class NotLeader(ProposalRefused):
    """Another member leads, or nobody does."""


class TooMuchInFlight(ProposalRefused):
    """Uncommitted entries are over their limit: slow down."""


@dataclass(frozen=True)
class ReadState:
    """A read is safe once `index` is applied."""

    index: int
    context: bytes


@dataclass
class Ready:
    """What the driver has to do; see the module's docstring."""

    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    snapshot: SnapshotMeta | None = None
    messages: list[RaftMessage] = field(default_factory=list)
    messages_after: list[RaftMessage] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)

    def __bool__(self) -> bool:
        if self.hard_state is not None or self.snapshot is not None:
            return True
        return any((self.entries, self.messages, self.messages_after, self.committed, self.reads))


@dataclass(frozen=True)
class Config:
    """Times in ticks, sizes in bytes."""

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    max_message_bytes: int = 1 << 20
    max_inflight: int = 256
    max_uncommitted_bytes: int = 256 << 20
    # Committed entries handed out in one Ready.
    max_apply_bytes: int = 4 << 20


class Raft:
    """One member."""

    def __init__(
        self,
        id: int,
        conf: ConfState,
        log: RaftLog,
        hard_state: HardState | None = None,
        random: Random | None = None,
        config: Config | None = None,
    ) -> None:
        self.id = id
        self.conf = conf
        self.log = log
        self.config = config or Config()
        self._random = random or Random(id)
        state = hard_state or HardState()
        self.term, self.voted_for = state.term, state.voted_for
        log.committed = max(log.committed, min(state.commit, log.last_index))
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.progress: dict[int, Progress] = {}
        self.transferee = NOBODY
        self._elapsed = 0
        self._heartbeat_elapsed = 0
        self._timeout = 0
        self._votes: dict[int, bool] = {}
        self._uncommitted_bytes = 0
        self._conf_change_index = 0
        self._reads: dict[bytes, tuple[int, int, set[int]]] = {}
        self._early_reads: list[RaftMessage] = []
        self._read_round = 0
        self._messages: list[RaftMessage] = []
        self._messages_after: list[RaftMessage] = []
        self._read_states: list[ReadState] = []
        self._new_snapshot: SnapshotMeta | None = None
        self._persisted = self.hard_state()
        self._become_follower(self.term, NOBODY)

    # What the driver calls.

    def tick(self) -> None:
        """Let one tick pass."""
        self._elapsed += 1
        if self.role is Role.LEADER:
            self._tick_leader()
        elif self._elapsed >= self._timeout and self._may_campaign():
            self._elapsed = 0
            self._campaign(pre=True)

    def campaign(self) -> None:
        """Stand for election now (a single member does so at its start)."""
        if self.role is not Role.LEADER and self._may_campaign():
            self._campaign(pre=True)

    def propose(self, entries: Sequence[Entry]) -> None:
        """Append entries (data and proposal_id) to the log if this member leads, all or none; they become the log's.

        Raises NotLeader, ProposalRefused, TooMuchInFlight.
        """
        self._append_proposals(entries)

    def propose_conf_change(self, change: ConfChange, proposal_id: int = 0) -> None:
        """Propose a new configuration. Raises NotLeader; ProposalRefused while another one is in flight."""
        if self._conf_change_index > self.log.applied:
            raise ProposalRefused("another change of the membership is in flight")
        if membership.is_joint(self.conf) == bool(change.changes):
            raise ProposalRefused("the membership is between two configurations" if change.changes else "not joint")
        if change.changes:
            membership.apply_change(self.conf, change)
        data = change.SerializeToString()
        self._append_proposals([Entry(type=Entry.TYPE_CONF_CHANGE, data=data, proposal_id=proposal_id)])

    def read_index(self, context: bytes) -> None:
        """Ask for an index that makes a read linearizable (6.4); it comes as a ReadState. Raises NotLeader."""
        if self.leader == NOBODY:
            raise NotLeader
        message = self._message(self.leader, RaftMessage.TYPE_READ_INDEX)
        message.context = context
        if self.role is Role.LEADER:
            self._on_read_index(message)
        else:
            self._messages.append(message)

    def transfer_leadership(self, to: int) -> None:
        """Hand leadership to a voter (3.10). Raises NotLeader; ProposalRefused for somebody who cannot lead."""
        if self.role is not Role.LEADER:
            raise NotLeader
        if to == self.id:
            return
        if to not in self.conf.voters:
            raise ProposalRefused(f"{to} is not a voter")
        self.transferee = to
        self._elapsed = 0
        if self.progress[to].match == self.log.last_index:
            self._send(to, RaftMessage.TYPE_TIMEOUT_NOW)
        else:
            self._send_append(to)

    def report_unreachable(self, id: int) -> None:
        """The transport lost messages to `id`."""
        progress = self.progress.get(id)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def report_snapshot(self, id: int, ok: bool) -> None:
        """The transport delivered a snapshot to `id`, or failed to."""
        progress = self.progress.get(id)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.snapshot_index = 0
        progress.become_probe()
        # Wait for its answer, or for the next heartbeat, before trying again.
        progress.paused = True

    def ready(self) -> Ready:
        """Everything there is to do now. Empty (false) when there is nothing."""
        state = self.hard_state()
        ready = Ready(
            hard_state=None if state == self._persisted else state,
            entries=self.log.slice(self.log.stable + 1, self.log.last_index)
            if self.log.stable < self.log.last_index
            else [],
            snapshot=self._new_snapshot,
            messages=self._messages,
            messages_after=self._messages_after,
            reads=self._read_states,
        )
        if self._new_snapshot is None and self.log.applied < self.log.committed:
            ready.committed = self.log.slice(self.log.applied + 1, self.log.committed, self.config.max_apply_bytes)
        self._messages, self._messages_after, self._read_states = [], [], []
        return ready

    @property
    def leads(self) -> bool:
        """Leader, and everything before its own term is applied here."""
        return self.role is Role.LEADER and self.log.term(self.log.applied) == self.term

    def applied(self, index: int) -> None:
        """The driver applied everything up to `index` (configuration changes through `apply_conf_change`)."""
        self.log.applied = max(self.log.applied, index)
        self._leave_joint()

    def advance(self, ready: Ready) -> None:
        """What `ready` asked to persist is on disk."""
        if ready.hard_state is not None:
            self._persisted = ready.hard_state
            if self.role is Role.CANDIDATE and ready.hard_state.term == self.term and self.id not in self._votes:
                self._count_vote(self.id, True)
        if ready.snapshot is not None and self._new_snapshot is ready.snapshot:
            self._new_snapshot = None
        if ready.entries:
            last = ready.entries[-1]
            if self.log.matches(last.index, last.term):
                self.log.stable = max(self.log.stable, last.index)
                own = self.progress.get(self.id)
                if own is not None and own.acknowledged(last.index) and self._maybe_commit():
                    self._broadcast_append()

    def apply_conf_change(self, entry: Entry) -> ConfState:
        """Apply a committed configuration change; gives back the configuration that holds now (4.1)."""
        before = self.conf
        self.conf = membership.apply_if_possible(before, ConfChange.FromString(entry.data))
        if self.conf is not before:
            self._configuration_changed()
        return self.conf

    def step(self, message: RaftMessage) -> None:
        """Take a message from another member."""
        sender: int = getattr(message, "from")
        if message.term > self.term:
            if message.type in (RaftMessage.TYPE_PRE_VOTE, RaftMessage.TYPE_VOTE):
                forced = message.context == _TRANSFER
                # Leader stickiness: who hears from a leader does not help to replace it (4.2.3).
                if not forced and self.leader != NOBODY and self._elapsed < self.config.election_ticks:
                    return
            if message.type == RaftMessage.TYPE_PRE_VOTE or (
                message.type == RaftMessage.TYPE_PRE_VOTE_RESPONSE and not message.reject
            ):
                pass
            else:
                from_leader = message.type in (
                    RaftMessage.TYPE_APPEND,
                    RaftMessage.TYPE_HEARTBEAT,
                    RaftMessage.TYPE_SNAPSHOT,
                )
                self._become_follower(message.term, sender if from_leader else NOBODY)
        elif message.term < self.term and message.term != 0:
            if message.type in (RaftMessage.TYPE_APPEND, RaftMessage.TYPE_HEARTBEAT, RaftMessage.TYPE_SNAPSHOT):
                # A deposed leader learns our term, and so does a member that pre-vote kept behind.
                self._send(sender, RaftMessage.TYPE_APPEND_RESPONSE)
            elif message.type == RaftMessage.TYPE_PRE_VOTE:
                self._send(sender, RaftMessage.TYPE_PRE_VOTE_RESPONSE, reject=True)
            return
        handler = self._HANDLERS.get(message.type)
        if handler is not None:
            handler(self, message)

    # Roles.

    def hard_state(self) -> HardState:
        """Term, vote and commit index as they are now."""
        return HardState(term=self.term, voted_for=self.voted_for, commit=self.log.committed)

    def _may_campaign(self) -> bool:
        if not membership.may_vote(self.conf, self.id) or self._new_snapshot is not None:
            return False
        # A committed change that is not applied yet may alter who decides: apply it first.
        unapplied = self.log.slice(self.log.applied + 1, self.log.committed)
        return not any(entry.type == Entry.TYPE_CONF_CHANGE for entry in unapplied)

    def _reset(self, term: int) -> None:
        if term != self.term:
            self.term, self.voted_for = term, NOBODY
        self.leader = NOBODY
        self.transferee = NOBODY
        self._elapsed = self._heartbeat_elapsed = 0
        self._timeout = self._random.randint(self.config.election_ticks, 2 * self.config.election_ticks - 1)
        self._votes = {}
        self._uncommitted_bytes = 0
        self._conf_change_index = 0
        self._reads.clear()
        self._early_reads.clear()

    def _become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.role = Role.FOLLOWER
        self.leader = leader
        self.progress = {}

    def _campaign(self, pre: bool, forced: bool = False) -> None:
        """Stand for election; `pre` only asks whether it would be won (9.6)."""
        if pre:
            self._votes = {}
            self.role = Role.PRE_CANDIDATE
            self.leader = NOBODY
            term, kind = self.term + 1, RaftMessage.TYPE_PRE_VOTE
        else:
            self._reset(self.term + 1)
            self.role = Role.CANDIDATE
            self.voted_for = self.id
            term, kind = self.term, RaftMessage.TYPE_VOTE
        for id in membership.everybody(self.conf):
            if id != self.id and membership.may_vote(self.conf, id):
                message = self._message(id, kind, term=term)
                message.index, message.log_term = self.log.last_index, self.log.last_term
                if forced:
                    message.context = _TRANSFER
                # A real candidate's own vote must be on disk before it asks for others'; `advance` counts it.
                (self._messages if pre else self._messages_after).append(message)
        if pre:
            self._count_vote(self.id, True)

    def _count_vote(self, id: int, granted: bool) -> None:
        self._votes.setdefault(id, granted)
        result = vote_result(self.conf, self._votes)
        if result is Vote.WON:
            if self.role is Role.PRE_CANDIDATE:
                self._campaign(pre=False)
            else:
                self._become_leader()
        elif result is Vote.LOST:
            self._become_follower(self.term, NOBODY)

    def _become_leader(self) -> None:
        self._reset(self.term)
        self.role = Role.LEADER
        self.leader = self.id
        self.progress = {}
        self._configuration_changed()
        # Changes of the membership that we inherit may still be uncommitted.
        self._conf_change_index = self.log.last_index
        # An entry of our own term makes earlier ones committable (3.6.2) and reads possible (6.4).
        self._append_entry(Entry(type=Entry.TYPE_NORMAL))
        self._broadcast_append()

    # Time.

    def _tick_leader(self) -> None:
        self._heartbeat_elapsed += 1
        if self._elapsed >= self.config.election_ticks:
            self._elapsed = 0
            self.transferee = NOBODY
            # Check-quorum: who cannot reach a majority must not pretend to lead (6.2).
            present = [id for id, progress in self.progress.items() if progress.active or id == self.id]
            if not has_quorum(self.conf, present):
                self._become_follower(self.term, NOBODY)
                return
            for id, progress in self.progress.items():
                progress.active = id == self.id
        if self._heartbeat_elapsed >= self.config.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()
        self._leave_joint()

    def _broadcast_heartbeat(self, context: bytes = b"") -> None:
        waiting = context or next(reversed(self._reads), b"")
        for id, progress in self.progress.items():
            if id != self.id:
                message = self._message(id, RaftMessage.TYPE_HEARTBEAT)
                message.commit = min(progress.match, self.log.committed)
                message.context = waiting
                self._messages.append(message)

    # Replication (3.5).

    def _append_proposals(self, entries: Sequence[Entry]) -> None:
        if self.role is not Role.LEADER or self.id not in self.progress:
            raise NotLeader
        if self.transferee != NOBODY:
            raise ProposalRefused("leadership is being handed on")
        size = sum(len(entry.data) for entry in entries)
        if self._uncommitted_bytes and self._uncommitted_bytes + size > self.config.max_uncommitted_bytes:
            raise TooMuchInFlight(f"{self._uncommitted_bytes:,} bytes wait to be committed")
        self._uncommitted_bytes += size
        for entry in entries:
            self._append_entry(entry)
            if entry.type == Entry.TYPE_CONF_CHANGE:
                self._conf_change_index = entry.index
        self._broadcast_append()

    def _append_entry(self, entry: Entry) -> None:
        entry.term, entry.index = self.term, self.log.last_index + 1
        self.log.append([entry])

    def _broadcast_append(self) -> None:
        for id in self.progress:
            if id != self.id:
                self._send_append(id)

    def _send_append(self, to: int, only_if_news: bool = False) -> bool:
        progress = self.progress[to]
        if progress.blocked():
            return False
        before = progress.next - 1
        term = self.log.term(before)
        try:
            if term is None:
                raise Compacted
            entries = self.log.slice(progress.next, self.log.last_index, self.config.max_message_bytes)
        except Compacted:
            self._send_snapshot(to, progress)
            return True
        if only_if_news and not entries:
            return False
        message = self._message(to, RaftMessage.TYPE_APPEND)
        message.index, message.log_term = before, term
        message.entries.extend(entries)
        message.commit = self.log.committed
        self._messages.append(message)
        if entries:
            progress.sent(entries[-1].index)
        elif progress.state is ProgressState.PROBE:
            progress.paused = True
        return True

    def _send_snapshot(self, to: int, progress: Progress) -> None:
        if not progress.active:
            return
        message = self._message(to, RaftMessage.TYPE_SNAPSHOT)
        message.snapshot.CopyFrom(self.log.snapshot)
        self._messages.append(message)
        progress.become_snapshot(self.log.snapshot.index)

    def _maybe_commit(self) -> bool:
        index = committed_index(self.conf, lambda id: self.progress[id].match if id in self.progress else 0)
        # Only entries of the current term are committed by counting (3.6.2).
        if index <= self.log.committed or self.log.term(index) != self.term:
            return False
        for entry in self.log.slice(self.log.committed + 1, index):
            self._uncommitted_bytes -= len(entry.data)
        self._uncommitted_bytes = max(self._uncommitted_bytes, 0)
        self.log.committed = index
        self._release_early_reads()
        return True

    def _on_append(self, message: RaftMessage) -> None:
        self._heard_from_leader(message)
        if message.index < self.log.committed:
            self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=self.log.committed)
            return
        if not self.log.matches(message.index, message.log_term):
            hint = self.log.find_conflict_by_term(message.index, message.log_term)
            answer = self._message(self.leader, RaftMessage.TYPE_APPEND_RESPONSE)
            answer.index, answer.reject, answer.reject_hint = message.index, True, hint
            answer.log_term = self.log.term(hint) or 0
            self._messages_after.append(answer)
            return
        new = list(message.entries)[self.log.first_conflict(message.entries) :]
        self.log.append(new)
        last = message.index + len(message.entries)
        self.log.committed = max(self.log.committed, min(message.commit, last))
        self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=last)

    def _on_append_response(self, message: RaftMessage) -> None:
        sender: int = getattr(message, "from")
        progress = self.progress.get(sender)
        if self.role is not Role.LEADER or progress is None:
            return
        progress.active = True
        if message.reject:
            hint = message.reject_hint
            if message.log_term:
                hint = self.log.find_conflict_by_term(hint, message.log_term)
            if progress.refused(message.index, hint):
                if progress.state is ProgressState.REPLICATE:
                    progress.become_probe()
                self._send_append(sender)
            return
        was_blocked = progress.blocked()
        news = progress.acknowledged(message.index)
        if progress.state is ProgressState.PROBE or (
            progress.state is ProgressState.SNAPSHOT and progress.match >= self.log.first_index - 1
        ):
            progress.become_replicate()
        if news and self._maybe_commit():
            self._broadcast_append()
        elif was_blocked or progress.next <= self.log.last_index:
            self._send_append(sender, only_if_news=True)
        while self._send_append(sender, only_if_news=True):
            pass
        if sender == self.transferee and progress.match == self.log.last_index:
            self._send(sender, RaftMessage.TYPE_TIMEOUT_NOW)

    def _on_heartbeat(self, message: RaftMessage) -> None:
        self._heard_from_leader(message)
        self.log.committed = max(self.log.committed, min(message.commit, self.log.last_index))
        answer = self._message(self.leader, RaftMessage.TYPE_HEARTBEAT_RESPONSE)
        answer.context = message.context
        self._messages.append(answer)

    def _on_heartbeat_response(self, message: RaftMessage) -> None:
        sender: int = getattr(message, "from")
        progress = self.progress.get(sender)
        if self.role is not Role.LEADER or progress is None:
            return
        progress.active = True
        progress.paused = False
        if progress.match < self.log.last_index:
            progress.make_room()
            self._send_append(sender)
        if message.context:
            self._confirm_reads(message.context, sender)

    def _on_snapshot(self, message: RaftMessage) -> None:
        self._heard_from_leader(message)
        meta = message.snapshot
        if meta.index > self.log.committed and self.log.matches(meta.index, meta.term):
            # Everything is here already, only not known to be committed.
            self.log.committed = meta.index
            self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=meta.index)
        elif meta.index > self.log.committed:
            # It may be older than our own joining: the entry that added us follows in the log.
            self.log.restore(meta)
            self.conf = membership.copy_of(meta.conf_state)
            self._new_snapshot = meta
            self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=meta.index)
        else:
            self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=self.log.committed)

    def _heard_from_leader(self, message: RaftMessage) -> None:
        sender: int = getattr(message, "from")
        if self.role is not Role.FOLLOWER:
            self._become_follower(message.term, sender)
        self.leader = sender
        self._elapsed = 0

    # Elections (3.4, 9.6).

    def _on_vote_request(self, message: RaftMessage) -> None:
        sender: int = getattr(message, "from")
        pre = message.type == RaftMessage.TYPE_PRE_VOTE
        free = self.voted_for in (NOBODY, sender) and (self.leader == NOBODY or message.context == _TRANSFER)
        grant = (free or (pre and message.term > self.term)) and self.log.is_up_to_date(message.index, message.log_term)
        kind = RaftMessage.TYPE_PRE_VOTE_RESPONSE if pre else RaftMessage.TYPE_VOTE_RESPONSE
        answer = self._message(sender, kind, term=message.term if grant else self.term)
        answer.reject = not grant
        self._messages_after.append(answer)
        if grant and not pre:
            self._elapsed = 0
            self.voted_for = sender

    def _on_vote_response(self, message: RaftMessage) -> None:
        expected = {
            RaftMessage.TYPE_PRE_VOTE_RESPONSE: Role.PRE_CANDIDATE,
            RaftMessage.TYPE_VOTE_RESPONSE: Role.CANDIDATE,
        }
        if message.type == RaftMessage.TYPE_PRE_VOTE_RESPONSE and not message.reject and message.term != self.term + 1:
            return
        if self.role is expected[message.type]:
            self._count_vote(getattr(message, "from"), not message.reject)

    def _on_timeout_now(self, message: RaftMessage) -> None:
        if self._may_campaign() and self.role is Role.FOLLOWER:
            self._campaign(pre=False, forced=True)

    # Reads (6.4).

    def _on_read_index(self, message: RaftMessage) -> None:
        if self.role is not Role.LEADER:
            return
        if self.log.term(self.log.committed) != self.term:
            self._early_reads.append(message)
            return
        requester: int = getattr(message, "from")
        self._read_round += 1
        key = self._read_round.to_bytes(8) + message.context
        self._reads[key] = (self.log.committed, requester, {self.id})
        if has_quorum(self.conf, {self.id}):
            self._confirm_reads(key, self.id)
        else:
            self._broadcast_heartbeat(key)

    def _release_early_reads(self) -> None:
        early, self._early_reads = self._early_reads, []
        for message in early:
            self._on_read_index(message)

    def _confirm_reads(self, key: bytes, id: int) -> None:
        found = self._reads.get(key)
        if found is None:
            return
        found[2].add(id)
        if not has_quorum(self.conf, found[2]):
            return
        # A confirmed round confirms all that were asked before it.
        for earlier in list(self._reads):
            index, requester, _ = self._reads.pop(earlier)
            self._answer_read(requester, index, earlier[8:])
            if earlier == key:
                break

    def _answer_read(self, requester: int, index: int, context: bytes) -> None:
        if requester == self.id:
            self._read_states.append(ReadState(index, context))
            return
        answer = self._message(requester, RaftMessage.TYPE_READ_INDEX_RESPONSE)
        answer.index, answer.context = index, context
        self._messages.append(answer)

    def _on_read_index_response(self, message: RaftMessage) -> None:
        self._read_states.append(ReadState(message.index, message.context))

    # Membership (4).

    def _leave_joint(self) -> None:
        """Propose the second half of a joint change when its first half is applied (4.3)."""
        if self.role is not Role.LEADER or not membership.is_joint(self.conf) or not self.conf.auto_leave:
            return
        if self._conf_change_index <= self.log.applied and self.transferee == NOBODY:
            self._append_proposals([Entry(type=Entry.TYPE_CONF_CHANGE, data=ConfChange().SerializeToString())])

    def _configuration_changed(self) -> None:
        if self.role is not Role.LEADER:
            return
        members = membership.everybody(self.conf)
        for id in members:
            if id not in self.progress:
                first = Progress(next=self.log.last_index + 1, max_inflight=self.config.max_inflight)
                # Counted as present until the next check, or the change itself could depose the leader.
                first.active = True
                self.progress[id] = first
        if self.id in self.progress:
            self.progress[self.id].acknowledged(self.log.stable)
        for id in set(self.progress) - set(members):
            del self.progress[id]
        if not membership.may_vote(self.conf, self.id):
            # Removed (or made a learner): the change is committed, others can go on without us (4.2.2).
            self._become_follower(self.term, NOBODY)
            return
        if self.transferee not in members:
            self.transferee = NOBODY
        if self._maybe_commit():
            self._broadcast_append()
        else:
            for id in members:
                if id != self.id:
                    self._send_append(id)

    # Messages.

    def _message(self, to: int, kind: "RaftMessage.Type.ValueType", term: int | None = None) -> RaftMessage:
        message = RaftMessage(type=kind, to=to, term=self.term if term is None else term)
        setattr(message, "from", self.id)
        return message

    def _send(self, to: int, kind: "RaftMessage.Type.ValueType", index: int = 0, reject: bool = False) -> None:
        message = self._message(to, kind)
        message.index, message.reject = index, reject
        (self._messages_after if kind in _PROMISES else self._messages).append(message)

    _HANDLERS: ClassVar[dict[int, Callable[["Raft", RaftMessage], None]]] = {
        RaftMessage.TYPE_APPEND: _on_append,
        RaftMessage.TYPE_APPEND_RESPONSE: _on_append_response,
        RaftMessage.TYPE_HEARTBEAT: _on_heartbeat,
        RaftMessage.TYPE_HEARTBEAT_RESPONSE: _on_heartbeat_response,
        RaftMessage.TYPE_SNAPSHOT: _on_snapshot,
        RaftMessage.TYPE_PRE_VOTE: _on_vote_request,
        RaftMessage.TYPE_VOTE: _on_vote_request,
        RaftMessage.TYPE_PRE_VOTE_RESPONSE: _on_vote_response,
        RaftMessage.TYPE_VOTE_RESPONSE: _on_vote_response,
        RaftMessage.TYPE_TIMEOUT_NOW: _on_timeout_now,
        RaftMessage.TYPE_READ_INDEX: _on_read_index,
        RaftMessage.TYPE_READ_INDEX_RESPONSE: _on_read_index_response,
    }
