"""The loop that drives the core: gives it its clock, disk, network and state machine.

One task takes each Ready in turn: send what may leave at once, persist in the storage's thread, send what rested on
that, apply. Messages and proposals that arrive during a sync are fed to the core meanwhile and share the next one.
Messages that rest on nothing (heartbeats above all) do not wait for a slow disk, within limits.
What is decided is applied while the disk is at work. That it is decided the followers learn with the next entries, or
a few milliseconds later if there are none: messages are what a small commit's time goes into.
When the disk refuses, the loop stops (and with it heartbeats, votes and acknowledgements) and tries again until the
disk takes the record: others elect another leader, and nothing that was promised is lost.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from flota.manager.raft import core
from flota.manager.raft.core import Ready, Role
from flota.manager.raft.interface import LONGEST_LEASE, NotLeader, ProposalDropped, TooMuchInFlight
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.standing import Standing
from flota.v1.raft_pb2 import Entry, HardState, Member, RaftMessage, SnapshotMeta

_log = structlog.get_logger("raft")
T = TypeVar("T")
_DISK_PAUSE = 0.5
# A sync that takes longer, in seconds, is a disk to give up leadership for.
_DISK_PATIENCE = 2.0
_SNAPSHOT_PAUSE = 2.0
# Seconds that news of the commit index wait for entries to travel with.
_NEWS_PAUSE = 0.005


class Driver(Standing):
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

    def receive_snapshot(self, message: RaftMessage, data: bytes) -> None:
        """Keep the bytes until the core says that it wants them."""
        self._snapshot_data[message.snapshot.index, message.snapshot.term] = data
        self.receive([message])

    def introduced(self, member: Member) -> None:
        """Somebody who sends to us has said who it is."""
        if self._introduced.get(member.raft_id) != member:
            self._introduced[member.raft_id] = member
            self._set_peers()

    def _set_peers(self) -> None:
        conf = self.raft.conf
        known = {member.raft_id for member in conf.members} | set(conf.removed)
        strangers = [member for id, member in self._introduced.items() if id not in known]
        self.transport.set_peers([*conf.members, *strangers])

    def unreachable(self, raft_id: int) -> None:
        """Messages to a member were lost."""
        self.raft.report_unreachable(raft_id)

    def snapshot_sent(self, raft_id: int, ok: bool) -> None:
        """A snapshot was delivered, or not."""
        self.raft.report_snapshot(raft_id, ok)
        self._wake.set()

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

    def _on_disk(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        return self._disk.call(call)

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
            self._snapshot_data.clear()
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

    _promised = HardState()

    async def _persist(
        self, state: HardState | None, entries: list[Entry], restored: int, meanwhile: Callable[[], None]
    ) -> None:
        while True:
            start = self._writing_since = time.monotonic()
            try:
                written = self._on_disk(lambda: self._storage.persist(state, entries, restored))
                meanwhile()
                meanwhile = _nothing
                await written
            except OSError as error:
                await self._disk_refuses(error)
                continue
            self._disk_takes()
            self._metrics.sync_seconds.observe(time.monotonic() - start)
            if state is not None:
                self._promised = state
            return

    async def _disk_refuses(self, error: OSError) -> None:
        """Say so, fail whoever waits, and let some time pass before the next attempt."""
        self._writing_since = None
        self._metrics.sync_failures.inc()
        if not self._disk_trouble:
            _log.error("the disk cannot be written: not taking part until it can", reason=str(error))
        self._disk_trouble = str(error)
        self._fail_waiting(self._stuck())
        self._notify()
        await asyncio.sleep(_DISK_PAUSE)

    def _disk_takes(self) -> None:
        self._writing_since = None
        if self._disk_trouble:
            _log.info("the disk can be written again")
            self._disk_trouble = ""
            self._notify()

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

    async def _send_snapshot(self, message: RaftMessage) -> None:
        loop = asyncio.get_running_loop()
        try:
            paths = self._storage.snapshots.paths()
            meta, data = await loop.run_in_executor(self._writer, self._storage.snapshots.load, paths[-1])
        except (OSError, IndexError) as error:
            _log.warning("no snapshot to send", reason=str(error))
            self.snapshot_sent(message.to, ok=False)
            return
        message.snapshot.CopyFrom(meta)
        _log.info("sending a snapshot", to=f"{message.to:x}", index=meta.index, bytes=len(data))
        self.transport.send_snapshot(message, data)

    async def _install(self, meta: SnapshotMeta) -> None:
        data = self._snapshot_data.pop((meta.index, meta.term))
        keep = self.config.max_snapshots
        while True:
            self._writing_since = time.monotonic()
            try:
                await self._on_disk(lambda: self._storage.save_snapshot(meta, data, keep))
                break
            except OSError as error:
                await self._disk_refuses(error)
        self._disk_takes()
        self._writing_since = time.monotonic()
        # Reading it takes a second for 50,000 tasks, and others wait for our heartbeats.
        replace = await self._on_disk(lambda: self._state_machine.reader(data, meta.index))
        replace()
        self._bytes_since_snapshot = 0
        self._set_peers()
        _log.info("restored a snapshot", index=meta.index, bytes=len(data))

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

    def _fail_waiting(self, error: Exception) -> None:
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    # Keys and snapshots.

    @property
    def keys(self) -> KeyRing:
        """The directory's keys."""
        return self._storage.keys

    async def renew_keys(self, kek: bytes | None) -> None:
        """Seal everything anew: what is written from now on at once, what is there by a snapshot that replaces it.

        `kek` stays off the disk (autolock); None: the directory opens without a key from outside. Raises OSError.
        """
        await self._on_disk(lambda: self._storage.renew_keys(kek))
        self._resealing = self.raft.log.last_index
        self._maybe_snapshot()

    def _maybe_snapshot(self) -> None:
        log = self.raft.log
        reseals = self._resealing is not None and log.applied >= self._resealing
        due = (
            reseals
            or log.applied - log.snapshot.index >= self.config.snapshot_entries
            or self._bytes_since_snapshot >= self.config.snapshot_bytes
        )
        # A snapshot from the leader may be on its way in: then the state here is not the log's.
        whole = log.applied >= log.snapshot.index
        if due and whole and not self._snapshotting and self._tasks is not None:
            self._snapshotting = True
            self._bytes_since_snapshot = 0
            term = log.term(log.applied)
            assert term is not None
            meta = SnapshotMeta(index=log.applied, term=term, conf_state=self.raft.conf)
            self._tasks.create_task(self._take_snapshot(meta, self._state_machine.snapshot(), reseals))

    async def _take_snapshot(self, meta: SnapshotMeta, write: Callable[[], bytes], reseals: bool) -> None:
        keep = 1 if reseals else self.config.max_snapshots
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._writer, lambda: self._storage.save_snapshot(meta, write(), keep)
            )
        except OSError as error:
            _log.error("a snapshot cannot be saved", reason=str(error))
            await asyncio.sleep(_SNAPSHOT_PAUSE)
            return
        finally:
            self._snapshotting = False
        if reseals:
            await self._reseal(meta.index)
            self._maybe_snapshot()
        if meta.index <= self.raft.log.snapshot.index:
            return
        self.raft.log.took_snapshot(meta)
        behind = meta.index - self.config.keep_entries
        if behind >= self.raft.log.first_index:
            self.raft.log.compact(behind)
            await self._on_disk(lambda: self._storage.release(behind))
        self._metrics.snapshots.inc()

    async def _reseal(self, index: int) -> None:
        """Let go of what was sealed with older keys, and of those. Tried again with the next snapshot if it fails."""

        def finish() -> tuple[bool, bool]:
            self._storage.release(index)
            return self._storage.forget_old_keys(), self._storage.newest_snapshot_is_current()

        try:
            finished, current = await self._on_disk(finish)
        except OSError as error:
            _log.error("old keys cannot be forgotten yet", reason=str(error))
            finished, current = False, True
        if finished:
            self._resealing = None
        elif current:
            # Not again and again: with the next entry.
            self._resealing = max(index + 1, self._resealing or 0)


def _before(committed: list[Entry], entries: list[Entry]) -> int:
    """How many of `committed` stand before `entries` in the log."""
    if not entries or not committed or committed[-1].index < entries[0].index:
        return len(committed)
    return max(entries[0].index - committed[0].index, 0)


def _nothing() -> None:
    pass
