"""How a member stands: who leads, who can be reached, whether anything can be decided, and waiting for that.

Knows the core, the transport's view of the others and the state of the disk; changes nothing.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from random import SystemRandom

from flota.manager.raft import core, membership
from flota.manager.raft.core import Raft, Role
from flota.manager.raft.interface import MemberStatus, NoQuorum, RaftConfig, RaftError, StateMachine, Stopping
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.quorum import has_quorum
from flota.manager.raft.storage import Storage
from flota.manager.raft.transport import RaftTransport
from flota.v1.raft_pb2 import Entry, Member

# Split votes in a row that a caller waits through.
_ELECTIONS = 3


class Standing:
    """What of a member others look at; see the module's docstring."""

    def __init__(
        self,
        storage: Storage,
        member: Member,
        raft: Raft,
        state_machine: StateMachine,
        transport: RaftTransport,
        config: RaftConfig,
        metrics: RaftMetrics,
    ) -> None:
        self.raft = raft
        self.transport = transport
        self.config = config
        self.member = member
        self.removed = asyncio.Event()
        # What people call a node, for messages.
        self.name_of: Callable[[str], str] = lambda node_id: node_id
        self._storage = storage
        self._state_machine = state_machine
        self._metrics = metrics
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="raft-log")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="raft-snapshot")
        self._ids = itertools.count(SystemRandom().getrandbits(62) << 1)
        self._waiting: dict[int, tuple[asyncio.Future[object], float]] = {}
        self._queue: list[Entry] = []
        self._reads: list[asyncio.Future[None]] = []
        self._read_rounds: dict[bytes, list[asyncio.Future[None]]] = {}
        self._ready_reads: list[tuple[int, list[asyncio.Future[None]]]] = []
        # Members whose streams reach us, and that our configuration may be too old to know.
        self._introduced: dict[int, Member] = {}
        self._snapshot_data: dict[tuple[int, int], bytes] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._seen: tuple[object, ...] = ()
        # When the newest leader came or was lost.
        self._led_until = time.monotonic()
        self._disk_trouble = ""
        self._writing_since: float | None = None
        self._bytes_since_snapshot = 0
        self._snapshotting = False
        # Files up to this index are to be written anew, under the newest keys; None: nothing is.
        self._resealing: int | None = raft.log.last_index if len(storage.keys.ids) > 1 else None
        self._stopping = False
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def raft_id(self) -> int:
        """Our id in the group."""
        return self.raft.id

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, has applied everything before its term, and can write to its disk."""
        return self.raft.leads and not self._disk_trouble and not self._stopping and not self.removed.is_set()

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as we know."""
        return next((member for member in self.raft.conf.members if member.raft_id == self.raft.leader), None)

    @property
    def leader_address(self) -> str:
        """Where the leader is; empty when nobody leads."""
        leader = self.leader
        return leader.address if leader is not None else ""

    @property
    def applied_index(self) -> int:
        """Index of the newest entry applied here."""
        return self.raft.log.applied

    @property
    def members(self) -> list[MemberStatus]:
        """The group as we see it."""
        return [
            MemberStatus(
                raft_id=member.raft_id,
                node_id=member.node_id,
                address=member.address,
                voter=membership.may_vote(self.raft.conf, member.raft_id),
                leader=member.raft_id == self.raft.leader,
                reachable=member.raft_id == self.raft_id or self.transport.reachable(member.raft_id),
            )
            for member in self.raft.conf.members
        ]

    @property
    def has_quorum(self) -> bool:
        """Whether enough members can be reached to decide anything."""
        return has_quorum(self.raft.conf, [status.raft_id for status in self.members if status.reachable])

    async def leadership(self) -> AsyncIterator[bool]:
        """Whether we lead: now, and whenever that changes. Ends when the node stops.

        A leadership lost and won again between two looks is reported as False, True.
        """
        led_term: int | None = None
        first = True
        while not self._stopping:
            changed = self._changed
            term = self.raft.term if self.is_leader else None
            if first or term != led_term:
                if led_term is not None and term is not None:
                    yield False
                first, led_term = False, term
                yield term is not None
                continue
            await changed.wait()

    async def leaders(self) -> AsyncIterator[str]:
        """Address of whoever leads ("" for nobody): now, and whenever that changes. Ends when the node stops."""
        seen: str | None = None
        while not self._stopping:
            changed, address = self._changed, self.leader_address
            if address != seen:
                seen = address
                yield address
                continue
            await changed.wait()

    @property
    def disk_trouble(self) -> str:
        """Why this member cannot write, and so takes no part; empty when it can."""
        return self._disk_trouble

    async def troubles(self) -> AsyncIterator[str]:
        """`disk_trouble`, now and whenever it changes. Ends when the node stops."""
        seen: str | None = None
        while not self._stopping:
            changed = self._changed
            if self._disk_trouble != seen:
                seen = self._disk_trouble
                yield seen
                continue
            await changed.wait()

    async def wait_for_leader(self) -> str:
        """Address of the member that leads; "" once we lead ourselves and are up to date. Raises NoQuorum.

        Gives an election that is going on the time it needs, as long as there are enough members to hold one.
        """
        for _ in range(_ELECTIONS):
            if self._hopeless:
                break
            try:
                async with asyncio.timeout(self.config.patience):
                    while not self._stopping:
                        if self.is_leader:
                            return ""
                        if self.raft.role is not Role.LEADER and self.leader_address:
                            return self.leader_address
                        await self._changed.wait()
                    raise Stopping("this manager is stopping")
            except TimeoutError:
                if not self.has_quorum:
                    break
        raise self._stuck()

    @property
    def _hopeless(self) -> bool:
        """Whether there is nothing to wait for: long without a leader and without enough members, or a dead disk."""
        if self._disk_trouble:
            return self.raft.role is Role.LEADER or not self.leader_address
        alone_for = time.monotonic() - self._led_until if self.raft.leader == core.NOBODY else 0.0
        return alone_for > self.config.patience and not self.has_quorum

    async def wait_until_voter(self) -> None:
        """Return once this member has caught up and counts in elections."""
        while not membership.may_vote(self.raft.conf, self.raft_id) and not self._stopping:
            await self._changed.wait()

    async def _until_leader_known(self) -> None:
        """Give an election that is going on the time it needs."""
        if self._hopeless:
            raise self._stuck()
        try:
            async with asyncio.timeout(self.config.patience):
                while self.raft.leader == core.NOBODY and not self._stopping:
                    await self._changed.wait()
        except TimeoutError:
            raise self._stuck() from None

    def _stuck(self) -> RaftError:
        if self._disk_trouble:
            return NoQuorum(f"this manager cannot write to its disk: {self._disk_trouble}")
        here = [status for status in self.members if status.reachable]
        gone = [status for status in self.members if not status.reachable]
        reachable = ", ".join(map(self._words, here)) or "none"
        if self.has_quorum:
            return NoQuorum(f"the managers did not agree within {self.config.patience:g} s; reachable: {reachable}")
        missing = ", ".join(map(self._words, gone))
        return NoQuorum(
            f"the swarm has lost its quorum: {len(here)} of {len(self.members)} managers can be reached. "
            f"Reachable: {reachable}. Missing: {missing}. Bring missing managers back, or, if they are gone for good, "
            "run `flota swarm init --force-new-cluster` on one that is left"
        )

    def _words(self, status: MemberStatus) -> str:
        return f"{self.name_of(status.node_id)} ({status.address})"

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
