"""Seeded bugs: each is a mistake somebody has made in Raft. The checks must find every one of them."""

from typing import Any, ClassVar

from flota.manager.raft import core, membership
from flota.manager.raft.core import Raft, Ready
from flota.manager.raft.quorum import Vote, committed_index, majority_vote
from flota.v1.raft_pb2 import ConfChange, Entry, RaftMessage


class VotesTwice(Raft):
    """Forgets whom it voted for."""

    def _on_vote_request(self, message: RaftMessage) -> None:
        if message.type == RaftMessage.TYPE_VOTE:
            self.voted_for, self.leader = core.NOBODY, core.NOBODY
        super()._on_vote_request(message)

    _HANDLERS: ClassVar[dict[int, Any]] = {**Raft._HANDLERS, RaftMessage.TYPE_VOTE: _on_vote_request}


class CommitsOldTerms(Raft):
    """Commits entries of earlier terms by counting (3.6.2 forbids it)."""

    def _maybe_commit(self) -> bool:
        index = committed_index(self.conf, lambda id: self.progress[id].match if id in self.progress else 0)
        if index <= self.log.committed:
            return False
        self.log.committed = index
        return True


class AcknowledgesBeforeItWrites(Raft):
    """Sends promises before they are on disk."""

    def ready(self) -> Ready:
        ready = super().ready()
        ready.messages += ready.messages_after
        ready.messages_after = []
        return ready


class ForgetsToWrite(Raft):
    """Skips the write of new entries now and then, and acknowledges them all the same."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.entries and self._random.random() < 0.3:
            self.advance(Ready(entries=ready.entries))
            ready.entries = []
        return ready


class SkipsTheSync(Raft):
    """Says that it is on disk when it was only written: the kernel has it, and power goes (see Machine._write)."""

    skips_the_sync = True


class ForgetsItsPromise(Raft):
    """Votes right after a restart, although a leader's lease may rest on it (6.4.1)."""

    def _keep_quiet(self) -> None:
        self._quiet = 0


class TrustsClocksTooFar(Raft):
    """Serves reads by a lease that is longer than what others promise."""

    @property
    def has_lease(self) -> bool:
        since = self._lease_since
        return self.role is core.Role.LEADER and since is not None and self.clock < since + 5 * self.lease_ticks


class CountsItselfEarly(Raft):
    """A leader counts its own disk before the disk has it (10.2.1)."""

    def _append_entry(self, entry: Entry) -> None:
        super()._append_entry(entry)
        if self.id in self.progress:
            self.progress[self.id].acknowledged(entry.index)


class NeverGivesUp(Raft):
    """A leader takes everybody for present (6.2)."""

    def _tick_leader(self) -> None:
        for progress in self.progress.values():
            progress.active = True
        super()._tick_leader()


class ForgetsTheOutgoingHalf(Raft):
    """Decides by the incoming half of a joint configuration alone."""

    def _maybe_commit(self) -> bool:
        outgoing = list(self.conf.voters_outgoing)
        del self.conf.voters_outgoing[:]
        try:
            return super()._maybe_commit()
        finally:
            self.conf.voters_outgoing.extend(outgoing)

    def _count_vote(self, id: int, granted: bool) -> None:
        self._votes.setdefault(id, granted)
        result = majority_vote(self.conf.voters, self._votes)
        if result is Vote.WON:
            if self.role is core.Role.PRE_CANDIDATE:
                self._campaign(pre=False)
            elif self.role is core.Role.CANDIDATE:
                self._become_leader()


class ReadsWithoutAsking(Raft):
    """A leader answers reads without making sure that it still leads (6.4)."""

    def _on_read_index(self, message: RaftMessage) -> None:
        if self.role is core.Role.LEADER:
            self._answer_read(getattr(message, "from"), self.log.committed, message.context)


class ChangesTwoAtOnce(Raft):
    """Takes a change of the membership while another one is on its way."""

    def propose_conf_change(self, change: ConfChange, proposal_id: int = 0) -> None:
        if self.role is not core.Role.LEADER or membership.is_joint(self.conf):
            raise core.NotLeader
        membership.apply_change(self.conf, change)
        data = change.SerializeToString()
        self._append_proposals([Entry(type=Entry.TYPE_CONF_CHANGE, data=data, proposal_id=proposal_id)])


BUGS: dict[str, type[Raft]] = {
    kind.__name__: kind
    for kind in (
        VotesTwice,
        CommitsOldTerms,
        AcknowledgesBeforeItWrites,
        ForgetsToWrite,
        SkipsTheSync,
        CountsItselfEarly,
        NeverGivesUp,
        ForgetsItsPromise,
        TrustsClocksTooFar,
        ForgetsTheOutgoingHalf,
        ReadsWithoutAsking,
        ChangesTwoAtOnce,
    )
}
