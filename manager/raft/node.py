"""The driver of one member: gives the pure core its clock, disk, network and state machine.

One task takes each Ready in turn: send what may leave at once, persist in the storage's thread, send what rested on
that, apply. Messages and proposals that arrive during a sync are fed to the core meanwhile and share the next one.
Messages that rest on nothing (heartbeats above all) do not wait for a slow disk, within limits.
When the disk refuses, the loop stops (and with it heartbeats, votes and acknowledgements) and tries again until the
disk takes the record: others elect another leader, and nothing that was promised is lost.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random, SystemRandom
from typing import TypeVar

import structlog

from flota.manager.raft import core, membership
from flota.manager.raft.changes import GroupChanges, MembershipServicer
from flota.manager.raft.core import Config, Raft, Ready, Role
from flota.manager.raft.interface import (
    MemberStatus,
    NoQuorum,
    NotLeader,
    ProposalDropped,
    RaftConfig,
    RaftError,
    StateMachine,
    TooMuchInFlight,
)
from flota.manager.raft.log import RaftLog
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.quorum import has_quorum
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.storage import Loaded, Storage
from flota.manager.raft.transport import RaftTransport
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, HardState, Member, RaftMessage, SnapshotMeta

_log = structlog.get_logger("raft")
T = TypeVar("T")
_DISK_PAUSE = 0.5
# A sync that takes longer, in seconds, is a disk to give up leadership for.
_DISK_PATIENCE = 2.0
_SNAPSHOT_PAUSE = 2.0
# Split votes in a row that a caller waits through.
_ELECTIONS = 3


class RaftNode:
    """See the module's docstring. Make it with `open`, end it with `stop`."""

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
        self._main: asyncio.Task[None] | None = None
        self.changes = GroupChanges(self)
        self.membership = MembershipServicer()
        self.membership.attach(self.changes)

    # Life.

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        node_id: str,
        address: str,
        state_machine: StateMachine,
        transport: RaftTransport,
        join: str | None = None,
        config: RaftConfig | None = None,
        keks: Sequence[bytes] = (),
        first_index: int = 1,
        force_new_cluster: bool = False,
        random: Random | None = None,
        metrics: RaftMetrics | None = None,
    ) -> "RaftNode":
        """Start the member whose files are in `directory`.

        A new directory begins a group of one, or joins the one of the manager at `join`; the transport's servicer must
        be served by then, because that group calls back. `address` is where others reach us. `keks` may open a
        locked directory. A group of one begins with what the state machine holds, at `first_index`.
        Raises StorageCorrupt, StorageLocked, OSError, and what joining raises (a FlotaError).
        """
        config = config or RaftConfig()
        random = random or SystemRandom()
        storage, loaded = await asyncio.to_thread(Storage.open, directory, keks, config.segment_bytes)
        try:
            member = storage.member()
            if member is None:
                member = Member(raft_id=random.getrandbits(63) | 1, node_id=node_id, address=address)
                if join is None:
                    _bootstrap(storage, member, state_machine, loaded, first_index)
                else:
                    answer = await transport.join(join, address)
                    member.raft_id = answer.raft_id
                    loaded.snapshot.conf_state.members.extend(answer.members)
                await asyncio.to_thread(storage.save_member, member)
            elif member.address != address:
                member.address = address
                await asyncio.to_thread(storage.save_member, member)
            if force_new_cluster:
                await asyncio.to_thread(_force_new_cluster, storage, member, state_machine, loaded)
            log = RaftLog(loaded.snapshot, loaded.entries, loaded.hard_state.commit)
            if loaded.snapshot.index:
                state_machine.restore(loaded.snapshot_data, loaded.snapshot.index)
            conf = ConfState()
            conf.CopyFrom(loaded.snapshot.conf_state)
            ticks = max(2, round(config.election / config.tick))
            core_config = Config(
                election_ticks=ticks,
                heartbeat_ticks=max(1, round(config.heartbeat / config.tick)),
                lease_ticks=min(int(config.lease / config.tick), ticks - 1),
                max_message_bytes=config.max_message_bytes,
                max_uncommitted_bytes=config.max_uncommitted_bytes,
            )
            raft = Raft(member.raft_id, conf, log, loaded.hard_state, random, core_config)
        except BaseException:
            storage.close()
            raise
        node = cls(storage, member, raft, state_machine, transport, config, metrics or RaftMetrics())
        transport.attach(node)
        transport.set_peers(conf.members)
        if list(conf.voters) == [member.raft_id] and not conf.voters_outgoing:
            raft.campaign()
        node._main = asyncio.create_task(node._run(), name=f"raft {member.raft_id:x}")
        return node

    async def stop(self) -> None:
        """Hand leadership on if we have it, then stop. Nothing that was acknowledged is lost."""
        if self.is_leader and len(self.raft.conf.voters) > 1:
            try:
                await self.transfer_leadership()
            except RaftError as error:
                _log.info("stopping without handing leadership on", reason=str(error))
        await self.crash()

    async def crash(self) -> None:
        """Stop at once, as kill -9 would, but let go of tasks, threads and files."""
        self._stopping = True
        self.transport.detach()
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        self._fail_waiting(ProposalDropped("this manager is stopping"))
        await asyncio.to_thread(self._disk.shutdown)
        await asyncio.to_thread(self._writer.shutdown)
        self._storage.close()
        self._notify()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self.transport.run())
                self._tasks.create_task(self._tick())
                self._tasks.create_task(self._loop())
                self._tasks.create_task(self.changes.run())
        except Exception:
            _log.exception("the Raft driver failed")
            raise
        finally:
            self._tasks = None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.config.tick)
            # One tick, also after a stall: what arrived meanwhile has not been read yet.
            if not self.removed.is_set():
                self._set_clock()
                self.raft.tick()
                self._send_urgent()
            self._wake.set()

    # What others ask.

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
                    raise RaftError("this manager is stopping")
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

    async def propose(self, data: bytes) -> object:
        """Commit `data`; gives back what the state machine's `apply` returned for it here.

        Raises NotLeader, ProposalDropped (it may still be committed later), NoQuorum, TooMuchInFlight.
        """
        return await self._commit(Entry(type=Entry.TYPE_NORMAL, data=data), None)

    async def propose_conf_change(self, change: ConfChange) -> ConfState:
        """Commit a change of the group; gives back the new configuration. Raises MembershipRefused too."""
        result = await self._commit(Entry(type=Entry.TYPE_CONF_CHANGE), change)
        assert isinstance(result, ConfState)
        return result

    async def _commit(self, entry: Entry, change: ConfChange | None) -> object:
        await self._until_leader_known()
        if self.raft.role is not Role.LEADER or self._disk_trouble:
            raise NotLeader("" if self.raft.role is Role.LEADER else self.leader_address)
        entry.proposal_id = next(self._ids) & (2**64 - 1)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[entry.proposal_id] = (future, time.monotonic())
        try:
            if change is not None:
                self._propose_change(change, entry.proposal_id)
            else:
                self._queue.append(entry)
            self._wake.set()
            async with asyncio.timeout(self.config.patience):
                return await future
        except TimeoutError:
            raise self._stuck() from None
        finally:
            self._waiting.pop(entry.proposal_id, None)

    def _propose_change(self, change: ConfChange, proposal_id: int) -> None:
        try:
            self.raft.propose_conf_change(change, proposal_id)
        except (core.ProposalRefused, membership.MembershipError) as error:
            raise self.changes.refusal(error) from None

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

    async def read_barrier(self) -> None:
        """Return when the state here is at least as new as everything committed before the call (6.4).

        Raises NoQuorum.
        """
        try:
            async with asyncio.timeout(self.config.patience):
                while True:
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._reads.append(future)
                    self._wake.set()
                    # A round lost with a message or a leader is asked again.
                    done, _ = await asyncio.wait({future}, timeout=self.config.heartbeat * 2)
                    if done:
                        return future.result()
                    future.cancel()
        except TimeoutError:
            raise self._stuck() from None

    async def transfer_leadership(self, node_id: str | None = None) -> None:
        """Hand leadership to `node_id`, or to the voter that is furthest along. Returns when we no longer lead.

        Raises NotLeader; RaftError when it did not work in time.
        """
        if self.raft.role is not Role.LEADER:
            raise NotLeader(self.leader_address)
        target = self.changes.transferee(node_id)
        term = self.raft.term
        try:
            self.raft.transfer_leadership(target)
        except core.ProposalRefused as error:
            raise RaftError(str(error)) from None
        self._wake.set()
        try:
            async with asyncio.timeout(self.config.election * 2):
                while self.raft.role is Role.LEADER and self.raft.term == term:
                    await self._changed.wait()
        except TimeoutError:
            raise RaftError("leadership could not be handed on in time") from None

    async def remove_member(self, node_id: str) -> None:
        """Take a node out of the group (a node that is no member is fine). Raises MembershipRefused, RaftError."""
        await self.changes.remove(node_id)

    async def leave(self) -> None:
        """Take ourselves out of the group, whoever leads. Raises MembershipRefused, RaftError."""
        if self.raft.role is Role.LEADER and len(self.raft.conf.voters) > 1:
            await self.transfer_leadership()
        await self._until_leader_known()
        if self.raft.role is Role.LEADER:
            await self.changes.remove(self.member.node_id)
        else:
            await self.transport.leave(self.leader_address, self.member.node_id)

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

    async def _on_disk(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)

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
            except core.ProposalRefused as error:
                self._refuse(entries, RaftError(str(error)))
        self._reads = [future for future in self._reads if not future.done()]
        if self._reads and self.raft.leader != core.NOBODY:
            self._set_clock()
            context = next(self._ids).to_bytes(9)
            self._read_rounds[context], self._reads = self._reads, []
            self.raft.read_index(context)

    def _set_clock(self) -> None:
        """Leases need a clock that runs while this process, or the whole machine, sleeps."""
        self.raft.clock = time.clock_gettime(time.CLOCK_BOOTTIME) / self.config.tick

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
            await self._persist(state, ready.entries, ready.snapshot.index if ready.snapshot is not None else 0)
        self.raft.advance(ready)
        self._send(ready.messages_after)
        self._apply(ready.committed)
        for read in ready.reads:
            self._ready_reads.append((read.index, self._read_rounds.pop(read.context, [])))
        self._answer_reads()
        self._maybe_snapshot()

    _promised = HardState()

    async def _persist(self, state: HardState | None, entries: list[Entry], restored: int) -> None:
        while True:
            start = self._writing_since = time.monotonic()
            try:
                await self._on_disk(lambda: self._storage.persist(state, entries, restored))
            except OSError as error:
                self._writing_since = None
                self._metrics.sync_failures.inc()
                if not self._disk_trouble:
                    _log.error("the log cannot be written: not taking part until it can", reason=str(error))
                self._disk_trouble = str(error)
                self._fail_waiting(NoQuorum(f"this manager cannot write to its disk: {error}"))
                self._notify()
                await asyncio.sleep(_DISK_PAUSE)
                continue
            self._writing_since = None
            self._metrics.sync_seconds.observe(time.monotonic() - start)
            if self._disk_trouble:
                _log.info("the log can be written again")
                self._disk_trouble = ""
                self._notify()
            if state is not None:
                self._promised = state
            return

    def _send_urgent(self) -> None:
        """While the disk is at work; one that takes for ever, or refuses, must not keep us in office."""
        since = self._writing_since
        if since is None or self._disk_trouble:
            return
        if self.raft.role is not Role.LEADER or time.monotonic() - since < _DISK_PATIENCE:
            self._send(self.raft.urgent())

    def _send(self, messages: list[RaftMessage]) -> None:
        for message in messages:
            if message.type != RaftMessage.TYPE_SNAPSHOT:
                self.transport.send(message)
            elif self._tasks is not None:
                self._tasks.create_task(self._send_snapshot(message))

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
        self._writing_since = time.monotonic()
        while True:
            try:
                await self._on_disk(lambda: self._storage.save_snapshot(meta, data, keep))
                break
            except OSError as error:
                _log.error("a snapshot cannot be saved", reason=str(error))
                await asyncio.sleep(_DISK_PAUSE)
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
            self._fail_waiting(dropped if self.has_quorum else self._stuck())
        if self.raft.leader != core.NOBODY or (self._seen and self._seen[2] != core.NOBODY):
            self._led_until = time.monotonic()
        self._seen = now
        self._read_rounds.clear()
        self._metrics.term.set(self.raft.term)
        self._metrics.leader.set(self.is_leader)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

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
        self._metrics.commit_index.set(log.committed)
        self._metrics.applied_index.set(log.applied)
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


def _bootstrap(storage: Storage, member: Member, state_machine: StateMachine, loaded: Loaded, first_index: int) -> None:
    """Begin a group of one: a snapshot that holds the first configuration, so that joiners start from it too."""
    conf = ConfState(voters=[member.raft_id], members=[member])
    loaded.snapshot = SnapshotMeta(index=first_index, term=1, conf_state=conf)
    loaded.snapshot_data = state_machine.snapshot()()
    loaded.hard_state = HardState(term=1, commit=first_index)
    storage.save_snapshot(loaded.snapshot, loaded.snapshot_data)
    storage.persist(loaded.hard_state, [])


def _force_new_cluster(storage: Storage, member: Member, state_machine: StateMachine, loaded: Loaded) -> None:
    """Make this member the only one, keeping every entry it has: more than was acknowledged, never less."""
    if loaded.snapshot.index:
        state_machine.restore(loaded.snapshot_data, loaded.snapshot.index)
    conf = membership.copy_of(loaded.snapshot.conf_state)
    index, term = loaded.snapshot.index, loaded.snapshot.term
    for entry in loaded.entries:
        if entry.index <= loaded.snapshot.index:
            continue
        index, term = entry.index, entry.term
        if entry.type == Entry.TYPE_CONF_CHANGE:
            conf = membership.apply_if_possible(conf, ConfChange.FromString(entry.data))
        elif entry.data:
            state_machine.apply(entry.index, entry.data)
    others = [id for id in membership.everybody(conf) if id != member.raft_id]
    alone = ConfState(voters=[member.raft_id], members=[member], removed=[*conf.removed, *others])
    loaded.hard_state = HardState(term=max(loaded.hard_state.term, term) + 1, commit=index)
    loaded.snapshot = SnapshotMeta(index=index, term=term, conf_state=alone)
    loaded.snapshot_data = state_machine.snapshot()()
    loaded.entries = []
    storage.save_snapshot(loaded.snapshot, loaded.snapshot_data)
    storage.persist(loaded.hard_state, [], restored=index)
