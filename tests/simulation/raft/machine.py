"""One simulated manager: the real core and the real storage, driven as raft/driver.py drives them, on virtual time.

Everything that takes time in reality (a sync of the disk) is an event of the world here, and a crash may come before
it is over: then what was being written is torn at a random byte, or there, or not there at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flota.manager.raft import core
from flota.manager.raft.core import Config, Raft, Ready, Role
from flota.manager.raft.log import RaftLog
from flota.manager.raft.membership import MembershipError
from flota.manager.raft.storage import Storage
from flota.v1.raft_pb2 import ConfChange, ConfState, Entry, HardState, Member, RaftMessage, SnapshotMeta

if TYPE_CHECKING:
    from tests.simulation.raft.world import World

ELECTION_TICKS, HEARTBEAT_TICKS, LEASE_TICKS = 12, 3, 9
SNAPSHOT_EVERY, KEEP_ENTRIES = 25, 5
# The one before the newest stays, so that a crash can undo the newest.
KEEP_SNAPSHOTS = 2


class Registers:
    """The state machine: named registers with write and compare-and-swap."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def apply(self, data: bytes) -> Any:
        operation = json.loads(data)
        key = operation["key"]
        if operation["kind"] == "write":
            self.values[key] = operation["value"]
            return None
        if self.values.get(key, 0) != operation["expected"]:
            return False
        self.values[key] = operation["value"]
        return True

    def dump(self) -> bytes:
        return json.dumps(self.values, sort_keys=True).encode()

    def load(self, data: bytes) -> None:
        self.values = json.loads(data) if data else {}


class Machine:
    """Up or down; what is on its disk outlives it."""

    def __init__(self, id: int, directory: Path, world: World) -> None:
        self.id, self.directory, self.world = id, directory, world
        self.up = False
        self.removed = False
        # How fast its clock runs, and until when it does not get to run at all.
        self.pace = 1.0
        self.stalled_until = 0.0
        # Counts starts: events of an earlier life are void.
        self.life = 0
        self.durable_term = 0
        # How far its clock has jumped, in ticks; it never goes back (CLOCK_BOOTTIME).
        self._clock_ahead = 0

    # Life.

    def bootstrap(self, voters: list[int]) -> None:
        """Make the disk of a founding member."""
        conf = ConfState(voters=voters, members=[Member(raft_id=id) for id in voters])
        storage, _ = Storage.open(self.directory)
        storage.save_snapshot(SnapshotMeta(index=1, term=1, conf_state=conf), [Registers().dump()])
        storage.persist(HardState(term=1, commit=1), [])
        storage.close()

    def start(self) -> None:
        self.storage, loaded = Storage.open(self.directory)
        assert loaded.hard_state.term >= self.durable_term, f"{self.id} forgot a term it had promised"
        log = RaftLog(loaded.snapshot, loaded.entries, loaded.hard_state.commit)
        conf = ConfState()
        conf.CopyFrom(loaded.snapshot.conf_state)
        config = Config(
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
            max_inflight=8,
            max_message_bytes=self.world.message_bytes,
            lease_ticks=LEASE_TICKS if self.world.leases else 0,
            promises_leases=self.world.leases,
            forward_proposals=self.world.forwarding,
        )
        make = self.world.core_class
        self.core: Raft = make(self.id, conf, log, loaded.hard_state, self.world.random_for(self.id), config)
        self.registers = Registers()
        self.registers.load(b"".join(self.storage.state()) if loaded.snapshot.index else b"")
        self.snapshot_data: dict[tuple[int, int], bytes] = {}
        self.waiting: dict[int, Callable[[Any], None]] = {}
        self.reads: dict[bytes, Callable[[dict[str, int]], None]] = {}
        self.ready_reads: list[tuple[int, bytes]] = []
        self.promised = loaded.hard_state
        # Newest entry on the disk, and the newest term.
        self.durable_index = log.last_index
        self.durable_term = max(self.durable_term, loaded.hard_state.term)
        self.busy = self.snapshotting = False
        self.writing: Callable[[], None] | None = None
        # Sizes of the files when they were last synced; `unsynced` for cores that only say that they sync.
        self.synced: dict[Path, int] = {}
        self.unsynced: dict[Path, int] | None = None
        self.up = True
        self.life += 1
        self.world.trace(f"{self.id} starts in term {self.core.term}, log {log.first_index}…{log.last_index}")
        self._tick_later()

    def crash(self) -> None:
        """Lose power: what is being written may be there, in part, or not at all."""
        self.up = False
        self.life += 1
        self.storage.close()
        if self.writing is not None:
            self.writing()
        elif self.unsynced is not None:
            self._tear(self.unsynced)
        self.writing = None
        self.world.trace(f"{self.id} crashes")

    def _later(self, delay: float, what: Callable[[], None]) -> None:
        life = self.life
        self.world.after(delay, lambda: what() if self.life == life else None)

    def _tick_later(self) -> None:
        self._later(self.world.tick * self.pace, self._tick)

    def _tick(self) -> None:
        if self.world.now >= self.stalled_until:
            self._set_clock()
            self.core.tick()
            self.pump()
        self._tick_later()

    # What others bring.

    def receive(self, message: RaftMessage, snapshot: bytes | None) -> None:
        if snapshot is not None:
            self.snapshot_data[message.snapshot.index, message.snapshot.term] = snapshot
        self._set_clock()
        self.core.step(message)
        self.pump()

    def jump(self, ticks: int) -> None:
        """Its clock jumps ahead. Without leases so many ticks pass at once, too.

        With them ticks do not jump, as the driver's do not: a promise would be forgotten before its time.
        """
        self._clock_ahead += ticks
        self._set_clock()
        for _ in range(0 if self.world.leases else ticks):
            self.core.tick()
        self.pump()

    def _set_clock(self) -> None:
        self.core.clock = self.world.now / self.world.tick + self._clock_ahead

    def propose(self, proposal_id: int, data: bytes, done: Callable[[Any], None]) -> bool:
        """False when it was not taken."""
        try:
            self.core.propose([Entry(data=data, proposal_id=proposal_id)])
        except core.ProposalRefused:
            return False
        self.waiting[proposal_id] = done
        self.pump()
        return True

    def change(self, change: ConfChange) -> bool:
        try:
            self.core.propose_conf_change(change, 0)
        except (core.ProposalRefused, MembershipError):
            return False
        self.pump()
        return True

    def read(self, context: bytes, done: Callable[[dict[str, int]], None]) -> bool:
        self._set_clock()
        try:
            self.core.read_index(context)
        except core.ProposalRefused:
            return False
        self.reads[context] = done
        self.pump()
        return True

    # The driver's loop, as in raft/driver.py.

    def pump(self) -> None:
        """Take what there is to do, unless the disk is at work: then send what need not wait for it."""
        if self.up and self.busy:
            self.world.invariants.check(self)
            self._send(self.core.urgent())
        while self.up and not self.busy:
            self.world.invariants.check(self)
            ready = self.core.ready()
            if not ready:
                self.snapshot_data.clear()
                return
            self._handle(ready)

    def _handle(self, ready: Ready) -> None:
        self.world.invariants.note_entries(self, ready.entries)
        self._send(ready.messages)
        if ready.snapshot is not None:
            meta = ready.snapshot
            data = self.snapshot_data.pop((meta.index, meta.term))
            self._write(
                lambda: self.storage.save_snapshot(meta, [data], KEEP_SNAPSHOTS), lambda: self._installed(ready, data)
            )
        else:
            self._persist(ready)

    def _installed(self, ready: Ready, data: bytes) -> None:
        assert ready.snapshot is not None
        self.registers.load(data)
        self.world.invariants.note_restored(self, ready.snapshot)
        self._persist(ready)

    def _persist(self, ready: Ready) -> None:
        state = ready.hard_state
        promised = state is not None and (state.term, state.voted_for) != (self.promised.term, self.promised.voted_for)
        regrouped = any(entry.type == Entry.TYPE_CONF_CHANGE for entry in ready.committed)
        if not (ready.entries or promised or regrouped or ready.snapshot is not None):
            self._finish(ready)
            return
        if regrouped:
            state = self.core.hard_state()
        restored = ready.snapshot.index if ready.snapshot is not None else 0
        self._write(lambda: self.storage.persist(state, ready.entries, restored), lambda: self._persisted(ready, state))

    def _persisted(self, ready: Ready, state: HardState | None) -> None:
        if state is not None:
            self.promised = state
            self.durable_term = max(self.durable_term, state.term)
        if ready.snapshot is not None:
            self.durable_index = ready.snapshot.index
        if ready.entries:
            self.durable_index = ready.entries[-1].index
        self._finish(ready)

    def _finish(self, ready: Ready) -> None:
        self.core.advance(ready)
        self.world.invariants.check(self)
        self._send(ready.messages_after)
        for entry in ready.committed:
            self._apply(entry)
        if ready.committed:
            self.core.applied(ready.committed[-1].index)
        self.ready_reads += [(read.index, read.context) for read in ready.reads]
        self._answer_reads()
        self._maybe_snapshot()
        self.world.invariants.check(self)

    def _apply(self, entry: Entry) -> None:
        self.world.invariants.note_applied(self, entry)
        result: Any = None
        if entry.type == Entry.TYPE_CONF_CHANGE:
            self.core.apply_conf_change(entry)
            if self.id in self.core.conf.removed:
                self.removed = True
        elif entry.data:
            result = self.registers.apply(entry.data)
        done = self.waiting.pop(entry.proposal_id, None)
        if done is not None:
            done(result)

    def _answer_reads(self) -> None:
        waiting, self.ready_reads = self.ready_reads, []
        for index, context in waiting:
            if index > self.core.log.applied:
                self.ready_reads.append((index, context))
            elif (done := self.reads.pop(context, None)) is not None:
                done(dict(self.registers.values))

    def _maybe_snapshot(self) -> None:
        log = self.core.log
        if self.snapshotting or log.applied - log.snapshot.index < SNAPSHOT_EVERY:
            return
        term = log.term(log.applied)
        assert term is not None
        meta = SnapshotMeta(index=log.applied, term=term, conf_state=self.core.conf)
        data = self.registers.dump()
        self.snapshotting = True
        # Written beside everything else; a crash before that leaves nothing of it.
        self._later(self.world.disk_delay(self.id) * 3, lambda: self._save_snapshot(meta, data))

    def _save_snapshot(self, meta: SnapshotMeta, data: bytes) -> None:
        log = self.core.log
        self.snapshotting = False
        self.storage.save_snapshot(meta, [data], KEEP_SNAPSHOTS)
        # It is synced by itself, whatever else is being written.
        newest = self.storage.snapshots.paths()[-1]
        self.synced[newest] = newest.stat().st_size
        if meta.index <= log.snapshot.index:
            return
        log.took_snapshot(meta)
        behind = meta.index - KEEP_ENTRIES
        if behind >= log.first_index:
            log.compact(behind)
            self.storage.release(behind)

    # The edges.

    def _write(self, write: Callable[[], None], done: Callable[[], None]) -> None:
        """Write now; it is on the disk, and `done` is called, some time later."""
        before = self.synced = self._sizes()
        write()
        if getattr(self.core, "skips_the_sync", False):
            # The kernel writes it some time, and the disk is never waited for.
            self.unsynced = before if self.unsynced is None or self.world.random.random() < 0.1 else self.unsynced
            self.world.after(0, lambda: None)
            done()
            return
        self.busy = True
        self.writing = lambda: self._tear(before)

        def finished() -> None:
            self.busy, self.writing = False, None
            done()
            self.pump()

        self._later(self.world.disk_delay(self.id), finished)

    def _sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.directory.rglob("*") if path.is_file()}

    def _tear(self, before: dict[Path, int]) -> None:
        random = self.world.random
        for path in sorted(path for path in self.directory.rglob("*") if path.is_file()):
            old, new = before.get(path, 0), path.stat().st_size
            if new <= old or random.random() < 0.3:
                continue
            if path.suffix == ".snap":
                # Written under another name and renamed when whole.
                path.unlink()
            else:
                keep = random.choice((old, random.randint(old, new)))
                with path.open("r+b") as file:
                    file.truncate(keep)

    def _send(self, messages: list[RaftMessage]) -> None:
        for message in messages:
            data = None
            if message.type == RaftMessage.TYPE_SNAPSHOT:
                meta, pieces = self.storage.newest_snapshot()
                data = b"".join(pieces)
                message.snapshot.CopyFrom(meta)
            self.world.invariants.note_promise(self, message)
            self.world.send(self, message, data)

    @property
    def leads(self) -> bool:
        return self.up and self.core.role is Role.LEADER
