"""What a member keeps on disk: who it is, hard state, log, snapshots. Blocking: the driver calls it in one thread.

`persist` returns when everything given to it is on disk (one record, one fdatasync). After an OSError nothing of that
call counts; calling again with the same (or more) starts a new segment, because after a failed sync the kernel may
have dropped the pages of the old one. What is read at the start is what the disk has (`settle`): this member will vouch
for it. A commit index alone is never written: it is found again from the leader.

    RAFT/member.json   RAFT/keys.json   RAFT/log/NUMBER.log   RAFT/snapshots/INDEX-TERM.snap   RAFT/lock
"""

import fcntl
import json
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flota.manager.raft.files import settle, sync_directory, write_durably
from flota.manager.raft.interface import StorageCorrupt
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.segment import CURE, SegmentEnd, SegmentWriter, key_of, read_segment
from flota.manager.raft.snapshots import SnapshotDraft, SnapshotFiles
from flota.v1.raft_pb2 import Entry, HardState, LogRecord, Member, SnapshotMeta

MEMBER = "member.json"


@dataclass
class Loaded:
    """What was on disk."""

    hard_state: HardState = field(default_factory=HardState)
    # Its state is read from the disk when it is needed: `Storage.state`.
    snapshot: SnapshotMeta = field(default_factory=SnapshotMeta)
    entries: list[Entry] = field(default_factory=list)


@dataclass
class _Segment:
    path: Path
    # Highest index of an entry in it.
    last_index: int = 0


class Storage:
    """See the module's docstring. One process at a time: a lock file sees to it."""

    def __init__(self, directory: Path, keys: KeyRing, lock: int, segment_bytes: int) -> None:
        self._directory = directory
        self._log_directory = directory / "log"
        self._segment_bytes = segment_bytes
        self._lock = lock
        self.keys = keys
        self.snapshots = SnapshotFiles(directory / "snapshots", keys)
        self._log_directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory)
        self._segments: list[_Segment] = []
        self._writer: SegmentWriter | None = None
        self._next_number = 0
        self._hard_state = HardState()

    @classmethod
    def open(
        cls, directory: Path, keks: Sequence[bytes] = (), segment_bytes: int = 64 << 20
    ) -> "tuple[Storage, Loaded]":
        """Open (or make) a Raft directory and read it; `keks` may open a locked one.

        Raises StorageCorrupt, StorageLocked, OSError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"{directory} is in use by another manager process") from None
            storage = cls(directory, KeyRing.open(directory, keks), lock, segment_bytes)
            return storage, storage._load()
        except BaseException:
            os.close(lock)
            raise

    # Who we are.

    @staticmethod
    def is_of_a_member(directory: Path) -> bool:
        """Whether a group has taken in the member that this directory belongs to."""
        return (directory / MEMBER).exists()

    def member(self) -> Member | None:
        """The member this directory belongs to, if it has joined a group."""
        path = self._directory / MEMBER
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text())
            return Member(raft_id=int(stored["raft_id"]), node_id=stored["node_id"], address=stored["address"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageCorrupt(f"{path}: cannot be read ({error}); {CURE}") from None

    def save_member(self, member: Member) -> None:
        """Remember who we are."""
        text = json.dumps({"raft_id": str(member.raft_id), "node_id": member.node_id, "address": member.address})
        write_durably(self._directory / MEMBER, text.encode())

    # Reading.

    def _load(self) -> Loaded:
        loaded = Loaded()
        for folder in (self._log_directory, self.snapshots.directory):
            sync_directory(folder)
        found = self.snapshots.paths()
        if found:
            loaded.snapshot, state = self.snapshots.read(found[-1])
            state.close()
        paths = sorted(self._log_directory.glob("*.log"))
        numbers = [int(path.stem, 16) for path in paths]
        for path in reversed(paths):
            settle(path)
            if key_of(path):
                # It has a head: all that is in older ones was on the disk before this one was begun.
                break
        for position, path in enumerate(paths):
            limit = numbers[position + 1] if position + 1 < len(paths) else None
            self._load_segment(path, numbers[position], limit, loaded)
        self._hard_state = loaded.hard_state
        self._join(loaded)
        return loaded

    def _load_segment(self, path: Path, number: int, limit: int | None, loaded: Loaded) -> None:
        segment = _Segment(path)
        for record in read_segment(path, number, limit, self.keys):
            if isinstance(record, SegmentEnd):
                self._end_segment(segment, record, number, limit)
            else:
                _replay(LogRecord.FromString(record), loaded, segment)

    def _end_segment(self, segment: _Segment, end: SegmentEnd, number: int, limit: int | None) -> None:
        if limit is not None and end.next_number != limit:
            raise StorageCorrupt(
                f"{segment.path}, offset {end.good_bytes}: record {end.next_number} is missing; {CURE}"
            )
        if limit is None:
            self._next_number = end.next_number
            if end.next_number == number:
                # Not even its head was written: the segment was being made when power went.
                segment.path.unlink()
                return
            if end.torn:
                os.truncate(segment.path, end.good_bytes)
                descriptor = os.open(segment.path, os.O_WRONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._segments.append(segment)

    def _join(self, loaded: Loaded) -> None:
        """Make snapshot, entries and hard state agree, whatever was written last before a crash."""
        meta, entries = loaded.snapshot, loaded.entries
        if entries and entries[0].index > meta.index + 1:
            raise StorageCorrupt(
                f"{self._log_directory}: entries {meta.index + 1} to {entries[0].index - 1} are missing; {CURE}"
            )
        if entries and meta.index:
            position = meta.index - entries[0].index
            behind = position >= len(entries)
            if behind or (position >= 0 and entries[position].term != meta.term):
                entries.clear()
        if loaded.hard_state.term < meta.term:
            # The snapshot was saved, the term that came with it was not yet.
            loaded.hard_state = HardState(term=meta.term, commit=meta.index)
        last = entries[-1].index if entries else meta.index
        loaded.hard_state.commit = min(max(loaded.hard_state.commit, meta.index), last)

    # Writing.

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], restored: int = 0) -> None:
        """Put these on disk; `restored` says that a snapshot at this index has replaced the log. Raises OSError."""
        if hard_state is not None:
            self._hard_state = hard_state
        record = LogRecord(hard_state=hard_state, entries=entries, restored=restored)
        if self._writer is not None and self._writer.size >= self._segment_bytes:
            self._writer.close()
            self._writer = None
        try:
            if self._writer is None:
                self._writer = SegmentWriter(self._log_directory, self._next_number, self.keys)
                self._segments.append(_Segment(self._writer.path))
                # Each segment can stand at the beginning of the log.
                record.hard_state.CopyFrom(self._hard_state)
            self._writer.append(record.SerializeToString())
        except OSError:
            self._abandon_writer()
            raise
        self._next_number = self._writer.number
        if entries:
            self._segments[-1].last_index = max(self._segments[-1].last_index, entries[-1].index)

    def _abandon_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._next_number = writer.number
        try:
            writer.cut_back()
        except OSError:
            # Readers know where the next segment begins, and ignore what stands here from that number on.
            pass
        finally:
            writer.close()

    def save_snapshot(self, meta: SnapshotMeta, pieces: Iterable[bytes], keep: int = 1) -> None:
        """Save a snapshot and drop older ones. Raises OSError."""
        self.snapshots.save(meta, pieces)
        self.snapshots.prune(keep)

    def keep_snapshot(self, draft: SnapshotDraft, keep: int = 1) -> None:
        """Take a finished draft for a snapshot, and drop older ones. May be called again after an OSError."""
        draft.keep()
        self.snapshots.prune(keep)

    def newest_snapshot(self) -> tuple[SnapshotMeta, Generator[bytes, None, None]]:
        """What the newest snapshot is of, and its state (see SnapshotFiles.read). Raises OSError, StorageCorrupt."""
        return self.snapshots.read(self.snapshots.paths()[-1])

    def state(self) -> Iterator[bytes]:
        """What the newest snapshot holds, some at a time. Raises OSError, StorageCorrupt."""
        return self.newest_snapshot()[1]

    def renew_keys(self, kek: bytes | None) -> None:
        """Other keys from the next record and snapshot on; `kek` None keeps the directory unlocked. Raises OSError."""
        self.keys.renew(kek)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        # Begins a segment under the new key, so that the old ones can go.
        self.persist(None, [])

    def newest_snapshot_is_current(self) -> bool:
        """Whether the newest snapshot is sealed with the current data key."""
        return key_of(self.snapshots.paths()[-1]) == self.keys.current

    def forget_old_keys(self) -> bool:
        """Drop the data keys that no file needs any more; True when only the current one is left. Raises OSError."""
        files = [*(segment.path for segment in self._segments), *self.snapshots.paths()]
        self.keys.forget_all_but({*self.snapshots.keys_of_drafts, *map(key_of, files)})
        return len(self.keys.ids) == 1

    def release(self, index: int) -> None:
        """Remove segments that only hold entries up to `index` (which a snapshot covers)."""
        current = self._writer.path if self._writer is not None else None
        while len(self._segments) > 1 and self._segments[0].last_index <= index:
            if self._segments[0].path == current:
                return
            self._segments.pop(0).path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the directory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        os.close(self._lock)


def _replay(record: LogRecord, loaded: Loaded, segment: _Segment) -> None:
    if record.HasField("hard_state"):
        loaded.hard_state = record.hard_state
    if record.restored:
        loaded.entries.clear()
    if not record.entries:
        return
    first = record.entries[0].index
    kept = loaded.entries
    if kept and first <= kept[-1].index:
        del kept[max(first - kept[0].index, 0) :]
    elif kept and first > kept[-1].index + 1:
        raise StorageCorrupt(f"{segment.path}: entries {kept[-1].index + 1} to {first - 1} are missing; {CURE}")
    kept.extend(record.entries)
    segment.last_index = max(segment.last_index, record.entries[-1].index)
