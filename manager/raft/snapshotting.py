"""Snapshots and keys of a running member: taking, sending, receiving and installing the first, renewing the others.

Theory of operation. A state is never in memory as bytes: it goes from the state machine into a file, from that file to
another member, from there into a file again (a draft, synced before anybody is told), and from the file into that
member's state machine, some at a time. What is received waits as a draft until the core has said whether it wants it.

Keys are renewed by beginning a new segment at once, and by a snapshot that replaces all that the old ones seal.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from flota.manager.raft.arrival import Arrival
from flota.manager.raft.interface import StorageCorrupt
from flota.manager.raft.persistence import Persistence
from flota.manager.raft.progress import ProgressState
from flota.manager.raft.sealing import KeyRing
from flota.rpc.errors import FlotaError
from flota.v1.raft_pb2 import RaftMessage, SnapshotMeta

_log = structlog.get_logger("raft")
T = TypeVar("T")
# Seconds before something about a snapshot that failed is tried again.
_PAUSE = 2.0
_PAUSE_IN_SENDING = 0.5


class Snapshotting(Persistence):
    """See the module's docstring."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        # Snapshots of our own are written beside those that come and go.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="raft-snapshot")
        self._carrier = ThreadPoolExecutor(1, thread_name_prefix="raft-carrier")
        # Snapshots by index and term that the core has not said yet whether it wants.
        self._arrived: dict[tuple[int, int], Arrival] = {}
        self._bytes_since_snapshot = 0
        self._snapshotting = False
        # One is to be taken, whatever the log's length.
        self._snapshot_wanted = False
        # Files up to this index are to be written anew, under the newest keys; None: nothing is.
        keys, log = self._storage.keys, self.raft.log
        self._resealing: int | None = log.last_index if len(keys.ids) > 1 else None

    # Receiving.

    def begin_snapshot(self, message: RaftMessage) -> Arrival:
        """Another member begins to send a snapshot."""
        return Arrival(message.snapshot, self._storage.snapshots, self._carrier, self._say_that_the_disk_refuses)

    def _arrives(self, meta: SnapshotMeta, arrival: Arrival) -> None:
        """All of it is here, and on the disk: keep it until the core says whether it wants it."""
        if (other := self._arrived.get((meta.index, meta.term))) is not None:
            other.discard()
        self._arrived[meta.index, meta.term] = arrival

    def _discard_unwanted(self) -> None:
        for arrival in self._arrived.values():
            arrival.discard()
        self._arrived.clear()

    async def _install(self, meta: SnapshotMeta) -> None:
        arrival = self._arrived.pop((meta.index, meta.term))
        keep = self.config.max_snapshots
        while True:
            self._writing_since = time.monotonic()
            try:
                await self._on_disk(lambda: self._storage.keep_snapshot(arrival.draft, keep))
                break
            except OSError as error:
                await self._disk_refuses(error)
        self._disk_takes()
        # Reading it takes a second for 50,000 tasks, and others wait for our heartbeats.
        self._writing_since = time.monotonic()
        replace = await self._on_disk(lambda: self._state_machine.reader(self._storage.state(), meta.index))
        replace()
        self._bytes_since_snapshot = 0
        _log.info("restored a snapshot", index=meta.index, bytes=arrival.size)

    # Sending.

    async def _send_snapshot(self, message: RaftMessage) -> None:
        ok = False
        try:
            meta, pieces = await self._carry(self._storage.newest_snapshot)
            message.snapshot.CopyFrom(meta)
            _log.info("sending a snapshot", to=f"{message.to:x}", index=meta.index)
            await self.transport.deliver_snapshot(message, self._read(pieces))
            ok = True
        except FlotaError as error:
            _log.warning("a snapshot was not delivered", to=f"{message.to:x}", reason=str(error))
        except (OSError, StorageCorrupt) as error:
            # What it holds is in memory, too.
            _log.error("the snapshot cannot be read: taking another one", reason=str(error))
            self._snapshot_wanted = True
            self._maybe_snapshot()
        if not ok:
            await asyncio.sleep(_PAUSE_IN_SENDING)
        self.raft.report_snapshot(message.to, ok)
        self._wake.set()

    async def _read(self, pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
        while (piece := await self._carry(lambda: next(pieces, None))) is not None:
            yield piece

    def _carry(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._carrier, call)

    # Taking.

    def _maybe_snapshot(self) -> None:
        log = self.raft.log
        reseals = self._resealing is not None and log.applied >= self._resealing
        due = (
            reseals
            or self._snapshot_wanted
            or log.applied - log.snapshot.index >= self.config.snapshot_entries
            or self._bytes_since_snapshot >= self.config.snapshot_bytes
        )
        # A snapshot from the leader may be on its way in: then the state here is not the log's.
        whole = log.applied >= log.snapshot.index
        if due and whole and not self._snapshotting and self._tasks is not None:
            self._snapshotting, self._snapshot_wanted = True, False
            self._bytes_since_snapshot = 0
            term = log.term(log.applied)
            assert term is not None
            meta = SnapshotMeta(index=log.applied, term=term, conf_state=self.raft.conf)
            self._tasks.create_task(self._take_snapshot(meta, self._state_machine.snapshot(), reseals))

    async def _take_snapshot(self, meta: SnapshotMeta, write: Callable[[], Iterable[bytes]], reseals: bool) -> None:
        keep = 1 if reseals else self.config.max_snapshots
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._writer, lambda: self._storage.save_snapshot(meta, write(), keep)
            )
        except OSError as error:
            _log.error("a snapshot cannot be saved", reason=str(error))
            await asyncio.sleep(_PAUSE)
            return
        finally:
            self._snapshotting = False
        if reseals:
            await self._reseal(meta.index)
            self._maybe_snapshot()
        if meta.index <= self.raft.log.snapshot.index:
            return
        self.raft.log.took_snapshot(meta)
        behind = min(meta.index - self.config.keep_entries, *self._needed_next())
        if behind >= self.raft.log.first_index:
            self.raft.log.compact(behind)
            await self._on_disk(lambda: self._storage.release(behind))
        self._metrics.snapshots.inc()

    def _needed_next(self) -> list[int]:
        """Of snapshots that are on their way: what follows is asked for next, and must not be gone by then."""
        sending = (one for one in self.raft.progress.values() if one.state is ProgressState.SNAPSHOT)
        return [self.raft.log.applied, *(one.snapshot_index for one in sending)]

    # Keys.

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
