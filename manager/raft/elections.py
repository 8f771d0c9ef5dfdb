"""Elections: who may lead, without disturbing who does; and handing leadership on.

Theory of operation.

* A follower that hears of no leader for a random while (3.4) first asks whether it would win (pre-vote, 9.6): nothing
  changes by that, so a member that was cut off comes back without raising anybody's term.
* A vote goes to one candidate a term (3.4), whose log is at least as up to date as the voter's (3.6.1), and leaves only
  when it is on disk (3.8); the candidate's own one as well.
* Who heard of a leader within election_ticks ignores those who want to replace it (4.2.3), unless that leader itself
  asked one to (3.10). Leases rest on this (reads.py).
* A leader that has not heard from a quorum for election_ticks steps down (check-quorum, 6.2): its clients find the
  leader of the others.
* A new leader appends an empty entry of its own term: it makes what came before committable (3.6.2) and reads possible
  (6.4).
* Leadership is handed on by bringing the successor's log up to date, with no new proposals meanwhile, and telling it to
  stand at once (3.10). If it does not win within election_ticks, things go on as they were.
"""

import contextlib

from flota.manager.raft import membership
from flota.manager.raft.quorum import Vote, has_quorum, vote_result
from flota.manager.raft.reconfiguration import Reconfiguration
from flota.manager.raft.state import NOBODY, NotLeader, ProposalRefused, Role, sender_of
from flota.v1.raft_pb2 import Entry, RaftMessage

TRANSFER = b"transfer"


class Elections(Reconfiguration):
    """See the module's docstring."""

    def campaign(self) -> None:
        """Stand for election now (a single member does so at its start)."""
        if self.role is not Role.LEADER and self._may_campaign():
            self._campaign(pre=True)

    def transfer_leadership(self, to: int) -> None:
        """Hand leadership to a voter (3.10); a follower may ask for it for itself.

        Raises NotLeader; ProposalRefused for somebody who cannot lead.
        """
        if self.role is not Role.LEADER:
            if to != self.id or self.leader == NOBODY:
                raise NotLeader
            self._messages.append(self._message(self.leader, RaftMessage.TYPE_TRANSFER_LEADER))
            return
        if to == self.id:
            return
        if to not in self.conf.voters:
            raise ProposalRefused(f"{to} is not a voter")
        self.transferee = to
        self._elapsed = 0
        if not self._hand_on_if_ready(to):
            self._send_append(to)

    def _on_transfer_leader(self, message: RaftMessage) -> None:
        """A follower asks for leadership."""
        with contextlib.suppress(ProposalRefused):
            if self.role is Role.LEADER:
                self.transfer_leadership(sender_of(message))

    def _may_campaign(self) -> bool:
        if not membership.may_vote(self.conf, self.id) or self._new_snapshot is not None:
            return False
        # A committed change that is not applied yet may alter who decides: apply it first.
        unapplied = self.log.slice(self.log.applied + 1, self.log.committed)
        return not any(entry.type == Entry.TYPE_CONF_CHANGE for entry in unapplied)

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
                    message.context = TRANSFER
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

    def _on_vote_request(self, message: RaftMessage) -> None:
        if self._quiet and message.context != TRANSFER:
            # Some leader may serve reads by itself, because of what was answered it (6.4.1).
            return
        sender = sender_of(message)
        pre = message.type == RaftMessage.TYPE_PRE_VOTE
        free = self.voted_for in (NOBODY, sender) and (self.leader == NOBODY or message.context == TRANSFER)
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
            self._count_vote(sender_of(message), not message.reject)

    def _on_timeout_now(self, message: RaftMessage) -> None:
        if self._may_campaign() and self.role is Role.FOLLOWER:
            self._campaign(pre=False, forced=True)
