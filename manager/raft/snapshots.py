"""Snapshot files: the state machine as it was at one index, sealed and checksummed in chunks.

A file appears under its name only when it is complete and synced, so a name is a promise. Files are written and read a
chunk at a time: however large a state is, one chunk of it is in memory. Blocking calls.
"""

import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from cryptography.exceptions import InvalidTag

from flota.manager.raft.files import sync_directory, write_all
from flota.manager.raft.interface import StorageCorrupt
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.segment import CURE, VERSION, encode_record, read_record
from flota.v1.raft_pb2 import LogFileHeader, SnapshotMeta

# Bytes of the state in one record.
CHUNK = 1 << 20
_SUFFIX, _DRAFT = ".snap", ".tmp"


def _name(meta: SnapshotMeta) -> str:
    return f"{meta.index:016x}-{meta.term:016x}{_SUFFIX}"


def _place(name: str, number: int, last: bool) -> bytes:
    return f"{name} {number} {'last' if last else ''}".encode()


class SnapshotDraft:
    """A snapshot that is being written: `write` pieces, then `finish`, then `keep` it. `discard` it otherwise."""

    def __init__(
        self, path: Path, draft: Path, meta: SnapshotMeta, keys: KeyRing, drafts: "set[SnapshotDraft]"
    ) -> None:
        """It is in `drafts` while it is one. Raises OSError."""
        self._path, self._draft, self._keys = path, draft, keys
        self.key_id = keys.current
        self._drafts = drafts
        drafts.add(self)
        self._number = 0
        # What is to be written next, once it is known whether it is the last: that is sealed with it.
        self._next = meta.SerializeToString()
        self._gathered = bytearray()
        self._descriptor: int | None = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            header = LogFileHeader(version=VERSION, key_id=self.key_id)
            write_all(self._descriptor, encode_record(0, header.SerializeToString()))
        except OSError:
            self.discard()
            raise

    def write(self, piece: bytes) -> None:
        """Add to the state. Raises OSError."""
        self._gathered += piece
        while len(self._gathered) >= CHUNK:
            self._write_next(bytes(self._gathered[:CHUNK]))
            del self._gathered[:CHUNK]

    def _write_next(self, following: bytes) -> None:
        self._write_record(last=False)
        self._next = following

    def _write_record(self, last: bool) -> None:
        assert self._descriptor is not None
        self._number += 1
        sealed = self._keys.seal(self.key_id, self._next, _place(self._path.name, self._number, last))
        write_all(self._descriptor, encode_record(self._number, sealed))

    def finish(self) -> None:
        """All of it was written: have it on the disk. Raises OSError."""
        assert self._descriptor is not None
        if self._gathered:
            self._write_next(bytes(self._gathered))
        self._write_record(last=True)
        os.fsync(self._descriptor)
        self._close()

    def keep(self) -> Path:
        """Give it its name; may be called again when it failed. Raises OSError, and then there is no such name."""
        self._draft.replace(self._path)
        try:
            sync_directory(self._path.parent)
        except OSError:
            # A sync that failed is not tried again on the same names: the kernel may take them for clean.
            with suppress(OSError):
                self._path.replace(self._draft)
            raise
        self._drafts.discard(self)
        return self._path

    def discard(self) -> None:
        """It is not wanted. Once it was kept, this does nothing."""
        self._close()
        self._draft.unlink(missing_ok=True)
        self._drafts.discard(self)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class SnapshotFiles:
    """The snapshots of one directory."""

    def __init__(self, directory: Path, keys: KeyRing) -> None:
        self.directory = directory
        self._keys = keys
        self._numbers = count()
        self._drafts: set[SnapshotDraft] = set()
        directory.mkdir(mode=0o700, exist_ok=True)
        for draft in directory.glob(f"*{_DRAFT}"):
            draft.unlink()

    def paths(self) -> list[Path]:
        """Complete snapshots, oldest first."""
        return sorted(self.directory.glob(f"*{_SUFFIX}"))

    def draft(self, meta: SnapshotMeta) -> SnapshotDraft:
        """Begin one; several may be written at once. Raises OSError."""
        path = self.directory / _name(meta)
        draft = path.with_name(f"{path.name}.{next(self._numbers)}{_DRAFT}")
        return SnapshotDraft(path, draft, meta, self._keys, self._drafts)

    @property
    def keys_of_drafts(self) -> set[str]:
        """Data keys that files which have no name yet are sealed with."""
        return {draft.key_id for draft in list(self._drafts)}

    def save(self, meta: SnapshotMeta, pieces: Iterable[bytes]) -> Path:
        """Write a snapshot durably. Raises OSError."""
        draft = self.draft(meta)
        try:
            for piece in pieces:
                draft.write(piece)
            draft.finish()
            return draft.keep()
        except BaseException:
            draft.discard()
            raise

    def read(self, path: Path) -> tuple[SnapshotMeta, Generator[bytes, None, None]]:
        """What a snapshot is of, and its state, a chunk at a time: it was whole if all of them could be taken.

        The file may be removed meanwhile. Raises OSError and StorageCorrupt, now and with each chunk.
        """
        parts = self._parts(path)
        return SnapshotMeta.FromString(next(parts)), parts

    def _parts(self, path: Path) -> Generator[bytes, None, None]:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            offset, number, key_id = 0, 0, ""
            while offset < size:
                found = read_record(file, size - offset)
                if found is None or found[0] != number:
                    raise StorageCorrupt(f"{path}, offset {offset}: the snapshot is damaged; {CURE}")
                _, payload, length = found
                if number == 0:
                    key_id = self._key_of(path, payload)
                else:
                    place = _place(path.name, number, last=offset + length >= size)
                    try:
                        part = self._keys.unseal(key_id, payload, place)
                    except InvalidTag:
                        raise StorageCorrupt(f"{path}, offset {offset}: the snapshot was altered; {CURE}") from None
                    yield part
                number += 1
                offset += length
            if number < 2:
                raise StorageCorrupt(f"{path}: the snapshot is empty; {CURE}")

    def _key_of(self, path: Path, head: bytes) -> str:
        header = LogFileHeader.FromString(head)
        if header.version != VERSION or not self._keys.knows(header.key_id):
            raise StorageCorrupt(f"{path}: format {header.version} under key {header.key_id!r} is not known here")
        return header.key_id

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` (at least one)."""
        for path in self.paths()[: -max(keep, 1)]:
            path.unlink()
