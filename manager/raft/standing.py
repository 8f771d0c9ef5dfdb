"""How a member stands: who leads, who can be reached, whether anything can be decided, and waiting for that.

Knows the core, the transport's view of the others and the state of the disk; changes nothing.

Theory of operation. Members hear something of each other several times a second (heartbeats, or the transport's signs
of life). While a quorum, or the leader, was heard within `silence`, callers wait: for an election, for a slow disk, at
most `patience`. Once neither was, nothing can be decided, and they are told at once who is missing. So an election
costs nobody an error, and the loss of a quorum costs nobody more than `silence`. A process that was not let run for a
while first reads what came meanwhile, and one that has just begun lets the others begin, too.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from random import SystemRandom
from typing import TypeVar

from flota.manager.raft import core, membership
from flota.manager.raft.core import Raft, Role
from flota.manager.raft.interface import MemberStatus, NoQuorum, RaftConfig, RaftError, StateMachine, Stopping
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.quorum import has_quorum
from flota.manager.raft.storage import Storage
from flota.manager.raft.thread import BlockingThread
from flota.manager.raft.transport import RaftTransport
from flota.v1.raft_pb2 import Entry, Member, RaftMessage

_T = TypeVar("_T")
_NEVER = float("-inf")


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
        self._disk = BlockingThread("raft-log")
        self._ids = itertools.count(SystemRandom().getrandbits(62) << 1)
        self._waiting: dict[int, tuple[asyncio.Future[object], float]] = {}
        self._queue: list[Entry] = []
        self._reads: list[asyncio.Future[None]] = []
        self._read_rounds: dict[bytes, list[asyncio.Future[None]]] = {}
        self._ready_reads: list[tuple[int, list[asyncio.Future[None]]]] = []
        # Members whose streams reach us, and that our configuration may be too old to know.
        self._introduced: dict[int, Member] = {}
        # Appends without entries, by receiver, and when they leave at the latest.
        self._held: dict[int, RaftMessage] = {}
        self._held_since = 0.0
        self._release: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._seen: tuple[object, ...] = ()
        # Whom nothing was heard of since we began gets more time than one that falls silent: it may be starting, too.
        self._first_word_until = time.monotonic() + config.patience
        # While this process stood still, nobody could be heard.
        self._stood_still_at = _NEVER
        # Until then, at least, something may be decided.
        self._hope_until = 0.0
        self._disk_trouble = ""
        self._writing_since: float | None = None
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
                reachable=self.takes_part(member.raft_id),
                trouble=self._trouble_of(member.raft_id),
            )
            for member in self.raft.conf.members
        ]

    def takes_part(self, raft_id: int) -> bool:
        """Whether there is a way to this member, and its disk takes what it promises."""
        way = raft_id == self.raft_id or self.transport.reachable(raft_id)
        return way and not self._trouble_of(raft_id)

    def _trouble_of(self, raft_id: int) -> str:
        return self._disk_trouble if raft_id == self.raft_id else self.transport.trouble_of(raft_id)

    def hears(self, address: str) -> bool:
        """Whether the member at this address was heard of within `silence`."""
        since = time.monotonic() - self.config.silence
        return any(
            member.address == address and self._last_heard(member.raft_id) >= since for member in self.raft.conf.members
        )

    def _last_heard(self, raft_id: int) -> float:
        if raft_id == self.raft_id:
            return time.monotonic()
        heard = self.transport.last_heard(raft_id)
        return max(heard, self._stood_still_at if heard > _NEVER else self._first_word_until - self.config.silence)

    def _quorum_heard(self) -> float:
        """The newest moment since which a quorum has been heard of."""
        heard = {id: self._last_heard(id) for id in membership.everybody(self.raft.conf)}
        newest_first = sorted(heard.values(), reverse=True)
        since = (at for at in newest_first if has_quorum(self.raft.conf, [id for id in heard if heard[id] >= at]))
        return next(since, time.monotonic())

    @property
    def is_alone(self) -> bool:
        """Whether neither enough members to decide anything nor the leader were heard of for `silence`."""
        now = time.monotonic()
        if now >= self._hope_until:
            leader = self.raft.leader
            led = self._last_heard(leader) if leader not in (core.NOBODY, self.raft_id) else _NEVER
            self._hope_until = max(self._quorum_heard(), led) + self.config.silence
        return now >= self._hope_until

    async def watch_hope(self) -> AsyncIterator[bool]:
        """Whether anything can be decided, now and again and again. Ends when the node stops."""
        while not self._stopping:
            yield not self._hopeless
            await asyncio.sleep(max(self._hope_until - time.monotonic(), self.config.tick))

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
        """Address of the member that leads; "" once we lead ourselves and are up to date. Raises NoQuorum, Stopping.

        Gives an election that is going on the time it needs, as long as there are enough members to hold one.
        """

        def address() -> str | None:
            if self.is_leader:
                return ""
            return self.leader_address or None if self.raft.role is not Role.LEADER else None

        return await self._until(address)

    @property
    def _hopeless(self) -> bool:
        """Whether there is nothing to wait for: nobody to decide anything with, or a disk that refuses."""
        return self.is_alone or bool(self._disk_trouble and (self.raft.role is Role.LEADER or not self.leader_address))

    @property
    def trouble(self) -> RaftError | None:
        """Why nothing can be decided at the moment; None when there is hope."""
        return self._stuck() if self._hopeless else None

    async def _until(self, look: Callable[[], _T | None]) -> _T:
        """What `look` gives, once that is not None. Raises NoQuorum, Stopping."""
        limit = time.monotonic() + self.config.patience
        while not self._stopping:
            pause = self._patience_left(limit)
            if (found := look()) is not None:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
        raise Stopping("this manager is stopping")

    def _patience_left(self, limit: float) -> float:
        """Seconds after which to ask again whether to wait on; at most until `limit`. Raises NoQuorum: not any more."""
        if self._hopeless or time.monotonic() >= limit:
            raise self._stuck()
        return max(min(limit, self._hope_until) - time.monotonic(), 0.001)

    async def wait_until_voter(self) -> None:
        """Return once this member has caught up and counts in elections."""
        while not membership.may_vote(self.raft.conf, self.raft_id) and not self._stopping:
            await self._changed.wait()

    def _stuck(self) -> RaftError:
        if self._disk_trouble:
            return NoQuorum(f"this manager cannot write to its disk: {self._disk_trouble}")
        # Whoever was just found to be silent is no longer counted, whatever floats make of it.
        since = time.monotonic() - self.config.silence + 0.001
        here = [member for member in self.members if self._last_heard(member.raft_id) > since]
        gone = [member for member in self.members if member not in here]
        reachable = ", ".join(map(self._words, here)) or "none"
        missing = ", ".join(map(self._words, gone)) or "none"
        if has_quorum(self.raft.conf, [member.raft_id for member in here]):
            return NoQuorum(
                f"the managers did not agree within {self.config.patience:g} s: try again. Reachable: {reachable}. "
                f"Missing: {missing}"
            )
        return NoQuorum(
            f"the swarm has lost its quorum: {_voters(here)} of {_voters(self.members)} managers can be reached. "
            f"Reachable: {reachable}. Missing: {missing}. Bring missing managers back, or, if they are gone for good, "
            "run `flota swarm init --force-new-cluster` on one that is left"
        )

    def _words(self, status: MemberStatus) -> str:
        trouble = f", its disk refuses: {status.trouble}" if status.trouble else ""
        return f"{self.name_of(status.node_id)} ({status.address}{trouble})"

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _voters(members: list[MemberStatus]) -> int:
    return sum(member.voter for member in members)
