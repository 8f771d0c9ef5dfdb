"""Raft as a deterministic state machine: messages, ticks and proposals in; one `Ready` out. No I/O, clock or threads.

Theory of operation, for the driver (state.py says how the core is built). Whoever drives a `Raft` loops: feed it
(`step`, `tick`, `propose`, …), take `ready()`, send `messages`, install `snapshot`, write `hard_state` and `entries` to
disk, then call `advance(ready)`, send `messages_after` and apply `committed`. Rules the driver must keep:

1. `messages_after` leave only when everything that this Ready (and earlier ones) asked to persist is on disk: votes and
   acknowledgements are promises. `messages` may leave at once: a leader writes its own log in parallel with its
   followers (dissertation, 10.2.1).
2. While a Ready is being persisted the core may be fed, and `urgent` messages sent, but the next `ready()` comes after
   `advance`.
3. Committed entries are applied in order, each once; `applied` says how far. A snapshot replaces the state machine
   before `advance`, and counts as applied from then on.
4. A read in `reads` is served when its index is applied.
5. `clock`, in ticks, is set before feeding, if leases are used.

Section numbers in comments are of Ongaro's dissertation, "Consensus: Bridging Theory and Practice" (2014).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flota.manager.raft.elections import TRANSFER, Elections
from flota.manager.raft.progress import ProgressState
from flota.manager.raft.state import (
    FROM_LEADER,
    NOBODY,
    Config,
    NotLeader,
    ProposalRefused,
    ReadState,
    Ready,
    Role,
    TooMuchInFlight,
    sender_of,
)
from flota.v1.raft_pb2 import Entry, RaftMessage

__all__ = [
    "NOBODY", "Config", "NotLeader", "ProposalRefused", "Raft", "ReadState", "Ready", "Role", "TooMuchInFlight",
]  # fmt: skip


class Raft(Elections):
    """One member."""

    def tick(self) -> None:
        """Let one tick pass."""
        self._elapsed += 1
        self._quiet = max(0, self._quiet - 1)
        if self.role is Role.LEADER:
            self._tick_leader()
        elif self._elapsed >= self._timeout and self._may_campaign():
            self._elapsed = 0
            self._campaign(pre=True)

    def propose(self, entries: Sequence[Entry]) -> None:
        """Append entries (data and proposal_id) to the log if this member leads, all or none; they become the log's.

        A follower passes them on, if it is configured to: they may get lost, and are seen only when they are applied.
        Raises NotLeader, ProposalRefused, TooMuchInFlight.
        """
        if self.role is not Role.LEADER and self.config.forward_proposals and self.leader != NOBODY:
            message = self._message(self.leader, RaftMessage.TYPE_PROPOSE)
            message.entries.extend(entries)
            self._messages.append(message)
            return
        self._append_proposals(entries)

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

    def urgent(self) -> list[RaftMessage]:
        """Messages that may leave while a Ready is being persisted: a slow disk need not silence a leader."""
        messages, self._messages = self._messages, []
        return messages

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
        if ready.snapshot is not None:
            # Not before: entries of an earlier Ready may still be on their way to the old state.
            self.log.applied = max(self.log.applied, ready.snapshot.index)
        if ready.entries:
            last = ready.entries[-1]
            if self.log.matches(last.index, last.term):
                self.log.stable = max(self.log.stable, last.index)
                own = self.progress.get(self.id)
                if own is not None and own.acknowledged(last.index) and self._maybe_commit():
                    self._broadcast_append()

    def step(self, message: RaftMessage) -> None:
        """Take a message from another member."""
        sender = sender_of(message)
        if message.term > self.term:
            if message.type in (RaftMessage.TYPE_PRE_VOTE, RaftMessage.TYPE_VOTE):
                forced = message.context == TRANSFER
                # Leader stickiness: who hears from a leader does not help to replace it (4.2.3).
                hears = self.leader != NOBODY and self._elapsed < self.config.election_ticks
                if not forced and (hears or self._quiet):
                    return
            if message.type == RaftMessage.TYPE_PRE_VOTE or (
                message.type == RaftMessage.TYPE_PRE_VOTE_RESPONSE and not message.reject
            ):
                pass
            else:
                self._become_follower(message.term, sender if message.type in FROM_LEADER else NOBODY)
        elif message.term < self.term and message.term != 0:
            if message.type in FROM_LEADER:
                # A deposed leader learns our term, and so does a member that pre-vote kept behind.
                self._send(sender, RaftMessage.TYPE_APPEND_RESPONSE)
            elif message.type == RaftMessage.TYPE_PRE_VOTE:
                self._send(sender, RaftMessage.TYPE_PRE_VOTE_RESPONSE, reject=True)
            return
        handler = self._HANDLERS.get(message.type)
        if handler is not None:
            handler(self, message)

    _HANDLERS: ClassVar[dict[int, Callable[[Any, RaftMessage], None]]] = {
        RaftMessage.TYPE_APPEND: Elections._on_append,
        RaftMessage.TYPE_APPEND_RESPONSE: Elections._on_append_response,
        RaftMessage.TYPE_HEARTBEAT: Elections._on_heartbeat,
        RaftMessage.TYPE_HEARTBEAT_RESPONSE: Elections._on_heartbeat_response,
        RaftMessage.TYPE_SNAPSHOT: Elections._on_snapshot,
        RaftMessage.TYPE_PRE_VOTE: Elections._on_vote_request,
        RaftMessage.TYPE_VOTE: Elections._on_vote_request,
        RaftMessage.TYPE_PRE_VOTE_RESPONSE: Elections._on_vote_response,
        RaftMessage.TYPE_VOTE_RESPONSE: Elections._on_vote_response,
        RaftMessage.TYPE_TIMEOUT_NOW: Elections._on_timeout_now,
        RaftMessage.TYPE_PROPOSE: Elections._on_propose,
        RaftMessage.TYPE_TRANSFER_LEADER: Elections._on_transfer_leader,
        RaftMessage.TYPE_READ_INDEX: Elections._on_read_index,
        RaftMessage.TYPE_READ_INDEX_RESPONSE: Elections._on_read_index_response,
    }
