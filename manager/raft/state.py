"""What one member knows, and how it changes its role: the ground that the other parts of the core stand on.

Theory of operation. A member is a follower, a candidate (asking first whether it would win: pre-candidate) or a leader
(dissertation, 3.3). Terms are Raft's clock: whoever learns of a higher one becomes a follower in it, and has not voted
there yet. Everything that belongs to one reign (progress of followers, reads on their way, bytes that wait to be
committed) is forgotten in `_reset`, so no rule can rest on a reign that is over.

The core is a stack of classes, one idea each, and each knows only those below it:

    State            this file: fields, roles, outgoing messages
    Reads            reads.py: heartbeats, what they prove, reads and leases (6.4)
    Replication      replication.py: log, followers, commit index, snapshots (3.5, 3.6, 5)
    Reconfiguration  reconfiguration.py: changes of the membership (4)
    Elections        elections.py: votes, pre-votes, transfer of leadership (3.4, 9.6, 3.10)
    Raft             core.py: what the driver calls

None of them does I/O, reads a clock or starts a thread; randomness comes in through the constructor.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from flota.manager.raft.log import RaftLog
from flota.manager.raft.progress import Progress
from flota.v1.raft_pb2 import ConfState, Entry, HardState, RaftMessage, SnapshotMeta

NOBODY = 0
# What a follower says of itself rests on its disk.
PROMISES = (RaftMessage.TYPE_APPEND_RESPONSE, RaftMessage.TYPE_VOTE_RESPONSE, RaftMessage.TYPE_PRE_VOTE_RESPONSE)
FROM_LEADER = (RaftMessage.TYPE_APPEND, RaftMessage.TYPE_HEARTBEAT, RaftMessage.TYPE_SNAPSHOT)


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
    # A leader answers reads by itself for so long after it sent a heartbeat that a quorum has answered (6.4.1); may be
    # changed later, see State.lease_ticks. Shorter than election_ticks - 1 by more than clocks can drift apart. 0: it
    # always asks.
    lease_ticks: float = 0
    # Members keep what leases rest on, also across restarts, whether or not the leader uses one now. Alike everywhere.
    promises_leases: bool = False
    max_message_bytes: int = 1 << 20
    # Appends, and bytes of entries, on their way to one follower.
    max_inflight: int = 256
    max_inflight_bytes: int = 32 << 20
    max_uncommitted_bytes: int = 256 << 20
    # Committed entries handed out in one Ready.
    max_apply_bytes: int = 4 << 20
    # A follower passes proposals on to the leader instead of refusing them.
    forward_proposals: bool = False


@dataclass(frozen=True)
class WaitingRead:
    """A read that waits for the answers to the heartbeats of `round`."""

    round: int
    index: int
    requester: int
    context: bytes


class State:
    """Fields and roles; see the module's docstring."""

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
        # Time in ticks, set by the driver before it feeds the core; only leases look at it. It must not stand still
        # while this process does.
        self.clock = 0.0
        # The driver may change it at any time: all that others promise a leader is there without it.
        self.lease_ticks = self.config.lease_ticks
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
        # Index of the newest change of the membership in the log, as far as a leader knows.
        self._conf_change_index = 0
        # Index that the configuration in use comes from.
        self._conf_index = log.snapshot.index
        # Heartbeats: number of the newest round, when rounds were sent, the newest round that each member answered.
        self._round = 0
        self._sent_rounds: deque[tuple[int, float]] = deque()
        self._answered: dict[int, int] = {}
        self._reads: deque[WaitingRead] = deque()
        self._early_reads: list[RaftMessage] = []
        # When the newest round was sent that a quorum has answered.
        self._lease_since: float | None = None
        # This reign asked somebody to stand for election at once: others may vote whatever they promised.
        self._lease_over = False
        # Ticks in which nobody gets a vote, whatever terms have come since, but one whom the leader asked to stand: a
        # lease may rest on that. Before a restart a leader may have been heard, too.
        self._quiet = 0
        self._keep_quiet()
        self._messages: list[RaftMessage] = []
        self._messages_after: list[RaftMessage] = []
        self._read_states: list[ReadState] = []
        self._new_snapshot: SnapshotMeta | None = None
        self._persisted = self.hard_state()
        self._become_follower(self.term, NOBODY)

    def hard_state(self) -> HardState:
        """Term, vote and commit index as they are now."""
        return HardState(term=self.term, voted_for=self.voted_for, commit=self.log.committed)

    # Roles.

    def _reset(self, term: int) -> None:
        """Begin anew, in a later term or in the same one; who voted in a term has voted for all of it (3.6)."""
        if term != self.term:
            self.term, self.voted_for = term, NOBODY
        self.leader = NOBODY
        self.transferee = NOBODY
        self._elapsed = self._heartbeat_elapsed = 0
        # Random, so that elections seldom collide (3.4).
        self._timeout = self._random.randint(self.config.election_ticks, 2 * self.config.election_ticks - 1)
        self._votes = {}
        self._uncommitted_bytes = 0
        self._conf_change_index = 0
        self._sent_rounds.clear()
        self._answered.clear()
        self._reads.clear()
        self._early_reads.clear()
        self._lease_since = None
        self._lease_over = False

    def _become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.role = Role.FOLLOWER
        self.leader = leader
        self.progress = {}

    def _heard_from_leader(self, message: RaftMessage) -> None:
        if self.role is not Role.FOLLOWER:
            self._become_follower(message.term, sender_of(message))
        self.leader = sender_of(message)
        self._elapsed = 0
        self._keep_quiet()

    def _keep_quiet(self) -> None:
        if self.config.promises_leases or self.config.lease_ticks:
            self._quiet = self.config.election_ticks

    # Messages.

    def _message(self, to: int, kind: "RaftMessage.Type.ValueType", term: int | None = None) -> RaftMessage:
        message = RaftMessage(type=kind, to=to, term=self.term if term is None else term)
        setattr(message, "from", self.id)
        return message

    def _send(self, to: int, kind: "RaftMessage.Type.ValueType", index: int = 0, reject: bool = False) -> None:
        message = self._message(to, kind)
        message.index, message.reject = index, reject
        (self._messages_after if kind in PROMISES else self._messages).append(message)


def sender_of(message: RaftMessage) -> int:
    """`from` is a word of Python's."""
    sender: int = getattr(message, "from")
    return sender


def size_of(entries: Sequence[Entry]) -> int:
    """Bytes that these entries are counted for."""
    return sum(len(entry.data) for entry in entries)
