"""The loop that drives the core: gives it its clock, disk, network and state machine.

One task takes each Ready in turn: send what may leave at once, persist in the storage's thread, send what rested on
that, apply. Messages and proposals that arrive during a sync are fed to the core meanwhile and share the next one.
Messages that rest on nothing (heartbeats above all) do not wait for a slow disk, within limits.
What is decided is applied while the disk is at work. That it is decided the followers learn with the next entries, or
a few milliseconds later if there are none: messages are what a small commit's time goes into.
When the disk refuses, the loop stops (and with it heartbeats, votes and acknowledgements) and tries again until the
disk takes the record (persistence.py): others elect another leader, and nothing that was promised is lost.
"""

import asyncio
import time
from collections.abc import Iterable

import structlog

from flota.manager.raft import core
from flota.manager.raft.arrival import Arrival
from flota.manager.raft.core import Ready, Role
from flota.manager.raft.interface import LONGEST_LEASE, NotLeader, ProposalDropped, TooMuchInFlight
from flota.manager.raft.snapshotting import Snapshotting
from flota.v1.raft_pb2 import Entry, Member, RaftMessage

_log = structlog.get_logger("raft")
# A sync that takes longer, in seconds, is a disk to give up leadership for.
_DISK_PATIENCE = 2.0
# Seconds that news of the commit index wait for entries to travel with.
_NEWS_PAUSE = 0.005


class Driver(Snapshotting):
    """See the module's docstring; node.py starts it."""

    async def _tick(self) -> None:
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(self.config.tick)
            if time.monotonic() - asleep > self.config.tick + self.config.heartbeat:
                self._stood_still_at = time.monotonic()
            # One tick, also after a stall: what arrived meanwhile has not been read yet.
            if not self.removed.is_set():
                self._set_clock()
                self.raft.tick()
                self._send_urgent()
            self._lose_patience()
            self._metrics.commit_index.set(self.raft.log.committed)
            self._metrics.applied_index.set(self.raft.log.applied)
            self._wake.set()

    # What the transport brings (transport.Receiver).

    def receive(self, messages: Iterable[RaftMessage]) -> None:
        """Feed the core. One that was removed takes no part any longer, whatever those who do not know it yet send."""
        if self.removed.is_set():
            return
        self._set_clock()
        for message in messages:
            self.raft.step(message)
        self._send_urgent()
        self._wake.set()

    def introduced(self, member: Member) -> None:
        """Somebody who sends to us has said who it is."""
        if self._introduced.get(member.raft_id) != member:
            self._introduced[member.raft_id] = member
            self._set_peers()

    def receive_snapshot(self, message: RaftMessage, arrival: Arrival) -> None:
        """A snapshot is here as a whole."""
        self._arrives(message.snapshot, arrival)
        self.receive([message])

    def _set_peers(self) -> None:
        conf = self.raft.conf
        known = {member.raft_id for member in conf.members} | set(conf.removed)
        strangers = [member for id, member in self._introduced.items() if id not in known]
        self.transport.set_peers([*conf.members, *strangers])

    def unreachable(self, raft_id: int) -> None:
        """Messages to a member were lost."""
        self.raft.report_unreachable(raft_id)

    def was_removed(self, raft_id: int) -> bool:
        """Whether a member was taken out of the group."""
        return raft_id in self.raft.conf.removed

    def told_removed(self, reason: str) -> None:
        """Others do not talk to us any more."""
        if not self.removed.is_set():
            _log.warning("this manager is no longer a member", reason=reason)
            self.removed.set()
            self._notify()

    # The loop.

    async def _loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._feed()
            while ready := self.raft.ready():
                await self._handle(ready)
                self._feed()
                self._notice()
                await asyncio.sleep(0)
            self._discard_unwanted()
            self._notice()

    def _feed(self) -> None:
        """Give the core what gathered since the last Ready, as one batch."""
        if self._queue:
            entries, self._queue = self._queue, []
            try:
                self.raft.propose(entries)
            except core.TooMuchInFlight as error:
                self._refuse(entries, TooMuchInFlight(f"too much at once: {error}; try again in a moment"))
            except core.NotLeader:
                self._refuse(entries, NotLeader(self.leader_address))
            except core.ProposalRefused:
                # Leadership is being handed on.
                self._refuse(entries, NotLeader())
        self._reads = [future for future in self._reads if not future.done()]
        if self._reads and self.raft.leader != core.NOBODY:
            self._set_clock()
            context = next(self._ids).to_bytes(9)
            self._read_rounds[context], self._reads = self._reads, []
            self.raft.read_index(context)

    def _set_clock(self) -> None:
        """Leases need a clock that runs while this process, or the whole machine, sleeps."""
        self.raft.clock = time.clock_gettime(time.CLOCK_BOOTTIME) / self.config.tick
        self.raft.lease_ticks = min(self.config.lease, LONGEST_LEASE) / self.config.tick

    def _refuse(self, entries: list[Entry], error: Exception) -> None:
        for entry in entries:
            future, _ = self._waiting.get(entry.proposal_id, (None, 0.0))
            if future is not None and not future.done():
                future.set_exception(error)

    async def _handle(self, ready: Ready) -> None:
        self._send(ready.messages)
        if ready.snapshot is not None:
            await self._install(ready.snapshot)
            self._set_peers()
        state = ready.hard_state
        promised = state is not None and (
            state.term != self._promised.term or state.voted_for != self._promised.voted_for
        )
        # Who decides must be known again after a restart, so commits of changes of the group are written too.
        regrouped = any(entry.type == Entry.TYPE_CONF_CHANGE for entry in ready.committed)
        if ready.entries or promised or regrouped or ready.snapshot is not None:
            if regrouped:
                state = self.raft.hard_state()
                # Who is taken out is to learn of it, and will be no peer any more.
                self._let_go()
            # What is decided, and on this disk since earlier, is applied while the disk is at work.
            early = 0 if regrouped or ready.snapshot is not None else _before(ready.committed, ready.entries)

            def apply_early() -> None:
                self._apply(ready.committed[:early])

            restored = ready.snapshot.index if ready.snapshot is not None else 0
            await self._persist(state, ready.entries, restored, apply_early)
            del ready.committed[:early]
        self.raft.advance(ready)
        self._send(ready.messages_after)
        self._apply(ready.committed)
        for read in ready.reads:
            self._ready_reads.append((read.index, self._read_rounds.pop(read.context, [])))
        self._answer_reads()
        self._maybe_snapshot()

    def _send_urgent(self) -> None:
        """While the disk is at work; one that takes for ever, or refuses, must not keep us in office."""
        since = self._writing_since
        if since is None or self._disk_trouble:
            return
        if self.raft.role is not Role.LEADER or time.monotonic() - since < _DISK_PATIENCE:
            self._send(self.raft.urgent())

    def _send(self, messages: list[RaftMessage]) -> None:
        for message in messages:
            if message.type == RaftMessage.TYPE_APPEND and not message.entries:
                self._hold(message)
                continue
            held = self._held.pop(message.to, None)
            # An append says all that the one before it said. Anything else keeps its place.
            if held is not None and message.type != RaftMessage.TYPE_APPEND:
                self.transport.send(held)
            if message.type != RaftMessage.TYPE_SNAPSHOT:
                self.transport.send(message)
            elif self._tasks is not None:
                self._tasks.create_task(self._send_snapshot(message))

    def _hold(self, news: RaftMessage) -> None:
        """An append without entries (news of the commit index, or a probe) waits a moment for one that has some."""
        if self._stopping:
            return
        if not self._held:
            self._held_since = time.monotonic()
        self._held[news.to] = news
        if self._release is None:
            self._release = asyncio.get_running_loop().call_later(_NEWS_PAUSE, self._held_long)

    def _held_long(self) -> None:
        """Others may have taken the place of what this timer was set for."""
        self._release = None
        left = self._held_since + _NEWS_PAUSE - time.monotonic()
        if self._held and left > 0:
            self._release = asyncio.get_running_loop().call_later(left, self._held_long)
        else:
            self._let_go()

    def _let_go(self) -> None:
        for message in self._hold_nothing():
            self.transport.send(message)

    def _hold_nothing(self) -> list[RaftMessage]:
        if self._release is not None:
            self._release.cancel()
            self._release = None
        held, self._held = self._held, {}
        return list(held.values())

    def _apply(self, entries: list[Entry]) -> None:
        for entry in entries:
            result: object = None
            if entry.type == Entry.TYPE_CONF_CHANGE:
                result = self.raft.apply_conf_change(entry)
                self._notify()
                self._set_peers()
                if self.was_removed(self.raft_id):
                    self.told_removed("removed by a change of the membership")
            elif entry.data:
                result = self._state_machine.apply(entry.index, entry.data)
                self._bytes_since_snapshot += len(entry.data)
            future, since = self._waiting.get(entry.proposal_id, (None, 0.0))
            if entry.proposal_id and future is not None and not future.done():
                future.set_result(result)
                self._metrics.commit_seconds.observe(time.monotonic() - since)
        if entries:
            self.raft.applied(entries[-1].index)

    def _answer_reads(self) -> None:
        waiting, self._ready_reads = self._ready_reads, []
        for index, futures in waiting:
            if index > self.raft.log.applied:
                self._ready_reads.append((index, futures))
                continue
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def _notice(self) -> None:
        """Tell watchers what changed, and proposers when their entries have lost their leader."""
        now = (self.raft.term, self.raft.role, self.raft.leader, self.is_leader)
        if now == self._seen:
            return
        was_leader = len(self._seen) > 1 and self._seen[1] is Role.LEADER
        same_reign = was_leader and self.raft.role is Role.LEADER and self._seen[0] == self.raft.term
        if was_leader and not same_reign:
            dropped = ProposalDropped("leadership was lost before the change was known to be committed")
            self._fail_waiting(self._stuck() if self.is_alone else dropped)
        self._seen = now
        self._read_rounds.clear()
        self._metrics.term.set(self.raft.term)
        self._metrics.leader.set(self.is_leader)
        self._notify()

    def _lose_patience(self) -> None:
        """Let go of proposers who have waited for long enough, or in vain."""
        if not self._waiting:
            return
        hopeless, since = self._hopeless, time.monotonic() - self.config.patience
        for future, proposed in self._waiting.values():
            if (hopeless or proposed <= since) and not future.done():
                future.set_exception(self._stuck())


def _before(committed: list[Entry], entries: list[Entry]) -> int:
    """How many of `committed` stand before `entries` in the log."""
    if not entries or not committed or committed[-1].index < entries[0].index:
        return len(committed)
    return max(entries[0].index - committed[0].index, 0)
