"""What others see of consensus: the state machine it drives, its errors, its configuration. No behaviour lives here.

`RaftNode` (node.py) in short:

    transport = RaftTransport(node_id, channel_for)          # transport.py; channel_for(address) -> grpc.aio.Channel
    add_RaftTransportServicer_to_server(transport.servicer, server); await server.start()
    node = await RaftNode.open(directory, node_id=…, address="host:port", state_machine=store, transport=transport,
                               join=None | "host:port")      # a directory that knows its group ignores `join`
    add_RaftMembershipServicer_to_server(node.membership, server)   # before the start: MembershipServicer() and .attach
    await node.propose(data)            # what state_machine.apply returned here
    node.is_leader, node.leader, node.members, node.removed
    await node.read_barrier()
    async for leads in node.leadership(): …        # True only once everything before our own term is applied
    await node.remove_member(node_id); await node.transfer_leadership(); await node.stop()
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from flota.rpc.errors import FailedPrecondition, NoLeader, ResourceExhausted, TurnedAway, Unavailable


class StateMachine(Protocol):
    """What the log is applied to; calls come from the event loop's thread unless they say otherwise."""

    def apply(self, index: int, data: bytes) -> object:
        """Apply one committed entry. Deterministic, and quick; what it gives back goes to the proposer."""
        ...

    def snapshot(self) -> Callable[[], Iterable[bytes]]:
        """Freeze the state now, quickly; the function that comes back writes it out in pieces, and runs in a thread."""
        ...

    def restore(self, pieces: Iterable[bytes], index: int) -> None:
        """Replace the state by a snapshot taken at `index`, whose bytes may be cut otherwise than they were written."""
        ...

    def reader(self, pieces: Iterable[bytes], index: int) -> Callable[[], None]:
        """The same in two steps: this reads, in a thread; the function that comes back replaces, quickly."""
        ...


class RaftError(Unavailable):
    """Consensus cannot do this now; trying again may help."""


class Stopping(RaftError, TurnedAway):
    """This manager takes no calls any more."""


class NotLeader(RaftError, TurnedAway):
    """Another member leads, or nobody does (`leader_address` is empty)."""

    moves = True

    def __init__(self, leader_address: str = "") -> None:
        self.leader_address = leader_address
        where = f"the leader is at {leader_address}" if leader_address else "there is no leader at the moment"
        super().__init__(f"this manager is not the leader; {where}")


class ProposalDropped(RaftError):
    """Leadership was lost while the entry was on its way: it may or may not be committed later."""


class NoQuorum(RaftError, NoLeader):
    """Too few managers can be reached to decide anything, or this one cannot take part."""


class TooMuchInFlight(ResourceExhausted):
    """Uncommitted entries are over their limit: slow down."""


class MembershipRefused(FailedPrecondition):
    """This change of the group cannot be made; the message says why."""


class StorageCorrupt(Exception):
    """A file in the Raft directory is damaged in a way that losing power does not explain."""


class StorageLocked(Exception):
    """The key that unlocks the Raft directory is not here (autolock), or is a wrong one."""


# Of RaftConfig, the same on all managers, in seconds: leases rest on them.
TICK, ELECTION = 0.05, 0.6
# Others promise a leader ELECTION less one tick. Clocks may differ in pace by 10 % before a read can be stale: NTP
# turns them by 0.05 % at most, and quartz is better.
LONGEST_LEASE = 0.5


@dataclass(frozen=True)
class RaftConfig:
    """Times in seconds, sizes in bytes."""

    tick: float = TICK
    heartbeat: float = 0.15
    # An election begins after one to two of these without a leader.
    election: float = ELECTION
    # For so long after a heartbeat that a quorum answered a leader serves reads without asking again, at most
    # LONGEST_LEASE. 0: it always asks, and trusts no clock.
    lease: float = 0.0
    # A proposal or read that got nowhere for so long fails with NoQuorum: some elections, or a slow disk.
    patience: float = 3.0
    # It fails as soon as neither a quorum nor the leader was heard of for so long. Longer than a majority of healthy
    # managers is silent on a busy machine.
    silence: float = 0.8
    snapshot_entries: int = 10_000
    snapshot_bytes: int = 64 << 20
    # Entries kept behind a snapshot, so that slow followers need no snapshot.
    keep_entries: int = 500
    max_snapshots: int = 1
    segment_bytes: int = 64 << 20
    max_message_bytes: int = 1 << 20
    max_uncommitted_bytes: int = 64 << 20


@dataclass(frozen=True)
class MemberStatus:
    """A member as this manager sees it. `reachable` is the transport's view, of members that take part."""

    raft_id: int
    node_id: str
    address: str
    voter: bool
    leader: bool
    reachable: bool
    # Why it takes no part although it answers.
    trouble: str = ""
