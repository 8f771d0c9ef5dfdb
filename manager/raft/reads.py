"""Heartbeats, what their answers prove, and reads that rest on it (dissertation, 6.4).

Theory of operation. Heartbeats go out in numbered rounds, and answers name the round. Once a quorum has answered a
round, this member certainly led when that round was sent: whoever leads a later term was elected by a quorum that
shares a member with this one, and that member answers no heartbeats of an older term afterwards (3.8). So

* a read that was asked before a round was sent may be served, at the commit index of the moment it was asked, as soon
  as a quorum has answered the round, and the state machine has applied that index (6.4, steps 1 to 4; rounds are
  shared by all reads that wait). Any member may serve it: it asks the leader for the index.
* a leader must first have committed an entry of its own term, or its commit index may be too old (6.4, step 1): reads
  that come earlier wait for that.
* with leases (6.4.1): who answered a heartbeat helps nobody else to be elected for election_ticks after it (4.2.3,
  elections.py), so for the shorter lease_ticks after the round was *sent* reads are served without asking. A member
  that was restarted cannot know what it had answered, so it helps nobody for that long either. A leader that asks a
  successor to stand (3.10) makes others forget that promise: it has no lease in the rest of its reign. Nor does one
  whose membership changed since, until the next round is answered: quorums must overlap.

Leases trust that clocks run about equally fast; without them nothing here does. The bound: a promise is kept for at
least election_ticks - 1 of the follower's ticks (the first may come at once), a lease lasts lease_ticks of the
leader's. A follower's clock may thus be quicker than the leader's by the factor (election_ticks - 1) / lease_ticks
before a read can be stale, and the leader's must not stand still while the world goes on.
"""

from flota.manager.raft.quorum import committed_index, has_quorum
from flota.manager.raft.state import ReadState, Role, State, WaitingRead, sender_of
from flota.v1.raft_pb2 import RaftMessage


class Reads(State):
    """See the module's docstring."""

    def _broadcast_heartbeat(self) -> None:
        self._round += 1
        self._sent_rounds.append((self._round, self.clock))
        context = self._round.to_bytes(8)
        for id, progress in self.progress.items():
            if id != self.id:
                message = self._message(id, RaftMessage.TYPE_HEARTBEAT)
                # Never more than it is known to have: the rest of its log may not be ours (3.5).
                message.commit = min(progress.match, self.log.committed)
                message.context = context
                self._messages.append(message)
        # Who leads alone gets no answers, and needs none.
        self._rounds_confirmed()

    def _round_answered(self, id: int, context: bytes) -> None:
        """A member answered a round of this reign."""
        if len(context) == 8:
            self._answered[id] = max(self._answered.get(id, 0), int.from_bytes(context))
            self._rounds_confirmed()

    def _confirmed_round(self) -> int:
        """The newest round that a quorum has answered; a leader alone needs nobody."""
        return committed_index(self.conf, lambda id: self._round if id == self.id else self._answered.get(id, 0))

    def _rounds_confirmed(self) -> None:
        confirmed = self._confirmed_round()
        while self._sent_rounds and self._sent_rounds[0][0] <= confirmed:
            self._lease_since = self._sent_rounds.popleft()[1]
        while self._reads and self._reads[0].round <= confirmed:
            read = self._reads.popleft()
            self._answer_read(read.requester, read.index, read.context)

    @property
    def has_lease(self) -> bool:
        """Whether nobody else can lead at this moment, if clocks run about equally fast (6.4.1)."""
        if self.role is not Role.LEADER or not self.lease_ticks or self._lease_over:
            return False
        return self._lease_since is not None and self.clock < self._lease_since + self.lease_ticks

    def _on_read_index(self, message: RaftMessage) -> None:
        if self.role is not Role.LEADER:
            return
        if self.log.term(self.log.committed) != self.term:
            self._early_reads.append(message)
            return
        requester = sender_of(message)
        if self.has_lease or has_quorum(self.conf, {self.id}):
            self._answer_read(requester, self.log.committed, message.context)
            return
        # A round that is sent after the read was asked.
        self._broadcast_heartbeat()
        self._reads.append(WaitingRead(self._round, self.log.committed, requester, message.context))

    def _release_early_reads(self) -> None:
        early, self._early_reads = self._early_reads, []
        for message in early:
            self._on_read_index(message)

    def _answer_read(self, requester: int, index: int, context: bytes) -> None:
        if requester == self.id:
            self._read_states.append(ReadState(index, context))
            return
        answer = self._message(requester, RaftMessage.TYPE_READ_INDEX_RESPONSE)
        answer.index, answer.context = index, context
        self._messages.append(answer)

    def _on_read_index_response(self, message: RaftMessage) -> None:
        self._read_states.append(ReadState(message.index, message.context))
