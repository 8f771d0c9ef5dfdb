"""Replication: one log everywhere, how far it is committed, and snapshots for those who are far behind.

Theory of operation.

* The leader sends each follower what follows the entry they agree on; a follower takes it only if it has that entry
  (3.5), so equal index and term mean equal logs up to there. Who refuses says where its log could agree, a term at a
  time, so that long conflicts take few rounds (3.5, end).
* An entry is committed when a quorum has it on disk, but only entries of the leader's own term are counted; earlier
  ones follow with them (3.6.2, figure 3.7). The leader's own disk counts like any other (10.2.1).
* What is committed never goes: `RaftLog.append` refuses to cut below the commit index (3.6.3).
* progress.py says how fast a follower may be sent to: one probe at a time, or a window of appends and bytes, or
  nothing while a snapshot is on its way (5; flow control after etcd's raft). Appends carry as many entries as fit.
* Proposals are refused while too many bytes wait to be committed: a leader that lost its followers must not fill its
  memory.
"""

import contextlib
from collections.abc import Sequence

from flota.manager.raft import membership
from flota.manager.raft.log import Compacted
from flota.manager.raft.progress import Progress, ProgressState
from flota.manager.raft.quorum import committed_index
from flota.manager.raft.reads import Reads
from flota.manager.raft.state import NOBODY, NotLeader, ProposalRefused, Role, TooMuchInFlight, sender_of, size_of
from flota.v1.raft_pb2 import Entry, RaftMessage


class Replication(Reads):
    """See the module's docstring."""

    def _append_proposals(self, entries: Sequence[Entry]) -> None:
        """Append to the leader's log, all or none. Raises NotLeader, ProposalRefused, TooMuchInFlight."""
        if self.role is not Role.LEADER or self.id not in self.progress:
            raise NotLeader
        if self.transferee != NOBODY:
            raise ProposalRefused("leadership is being handed on")
        size = size_of(entries)
        if self._uncommitted_bytes and self._uncommitted_bytes + size > self.config.max_uncommitted_bytes:
            raise TooMuchInFlight(
                f"{self._uncommitted_bytes:,} bytes wait to be committed, {size:,} more would be over the limit of "
                f"{self.config.max_uncommitted_bytes:,}"
            )
        self._uncommitted_bytes += size
        for entry in entries:
            self._append_entry(entry)
            if entry.type == Entry.TYPE_CONF_CHANGE:
                self._conf_change_index = entry.index
        self._broadcast_append()

    def _on_propose(self, message: RaftMessage) -> None:
        """A follower passes proposals on. One that cannot be taken is lost, as its message might have been."""
        with contextlib.suppress(ProposalRefused):
            self._append_proposals([entry for entry in message.entries if entry.type == Entry.TYPE_NORMAL])

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
            progress.sent(entries[-1].index, size_of(entries))
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
        size = size_of(self.log.slice(self.log.committed + 1, index))
        # What was inherited was never counted.
        self._uncommitted_bytes = max(self._uncommitted_bytes - size, 0)
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
        sender = sender_of(message)
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
        if sender == self.transferee:
            self._hand_on_if_ready(sender)

    def _hand_on_if_ready(self, to: int) -> bool:
        """Tell the successor to stand for election, once it has the whole log (3.10)."""
        if self.progress[to].match < self.log.last_index:
            return False
        self._lease_over = True
        self._send(to, RaftMessage.TYPE_TIMEOUT_NOW)
        return True

    def _on_heartbeat(self, message: RaftMessage) -> None:
        self._heard_from_leader(message)
        self.log.committed = max(self.log.committed, min(message.commit, self.log.last_index))
        answer = self._message(self.leader, RaftMessage.TYPE_HEARTBEAT_RESPONSE)
        answer.context = message.context
        self._messages.append(answer)

    def _on_heartbeat_response(self, message: RaftMessage) -> None:
        sender = sender_of(message)
        progress = self.progress.get(sender)
        if self.role is not Role.LEADER or progress is None:
            return
        progress.active = True
        progress.paused = False
        if progress.match < self.log.last_index:
            progress.make_room()
            self._send_append(sender)
        self._round_answered(sender, message.context)

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
            self.conf, self._conf_index = membership.copy_of(meta.conf_state), meta.index
            self._new_snapshot = meta
            self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=meta.index)
        else:
            self._send(self.leader, RaftMessage.TYPE_APPEND_RESPONSE, index=self.log.committed)
