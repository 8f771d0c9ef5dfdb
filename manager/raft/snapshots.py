"""Snapshot files: the state machine as it was at one index, sealed and checksummed in chunks.

A file appears under its name only when it is complete and synced, so a name is a promise. Blocking calls.
"""

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag

from flota.manager.raft.files import sync_directory, write_all
from flota.manager.raft.interface import StorageCorrupt
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.segment import CURE, VERSION, decode_record, encode_record
from flota.v1.raft_pb2 import LogFileHeader, SnapshotMeta

_CHUNK = 1 << 20
_SUFFIX = ".snap"


def _name(meta: SnapshotMeta) -> str:
    return f"{meta.index:016x}-{meta.term:016x}{_SUFFIX}"


def _place(name: str, number: int, last: bool) -> bytes:
    return f"{name} {number} {'last' if last else ''}".encode()


class SnapshotFiles:
    """The snapshots of one directory."""

    def __init__(self, directory: Path, keys: KeyRing) -> None:
        self.directory = directory
        self._keys = keys
        directory.mkdir(mode=0o700, exist_ok=True)
        for draft in directory.glob("*.tmp"):
            draft.unlink()

    def paths(self) -> list[Path]:
        """Complete snapshots, oldest first."""
        return sorted(self.directory.glob(f"*{_SUFFIX}"))

    def save(self, meta: SnapshotMeta, data: bytes) -> Path:
        """Write a snapshot durably. Raises OSError."""
        path = self.directory / _name(meta)
        draft = path.with_name(path.name + ".tmp")
        key_id = self._keys.current
        parts = [meta.SerializeToString(), *(data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK))]
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            header = LogFileHeader(version=VERSION, key_id=key_id)
            write_all(descriptor, encode_record(0, header.SerializeToString()))
            for number, part in enumerate(parts, 1):
                place = _place(path.name, number, last=number == len(parts))
                write_all(descriptor, encode_record(number, self._keys.seal(key_id, part, place)))
            os.fsync(descriptor)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        draft.replace(path)
        sync_directory(self.directory)
        return path

    def load(self, path: Path) -> tuple[SnapshotMeta, bytes]:
        """Read a snapshot. Raises StorageCorrupt."""
        raw = memoryview(path.read_bytes())
        offset, number, key_id = 0, 0, ""
        parts: list[bytes] = []
        while offset < len(raw):
            found = decode_record(raw, offset)
            if found is None or found[0] != number:
                raise StorageCorrupt(f"{path}, offset {offset}: the snapshot is damaged; {CURE}")
            payload, end = bytes(found[1]), found[2]
            if number == 0:
                header = LogFileHeader.FromString(payload)
                if header.version != VERSION or not self._keys.knows(header.key_id):
                    raise StorageCorrupt(
                        f"{path}: format {header.version} under key {header.key_id!r} is not known here"
                    )
                key_id = header.key_id
            else:
                place = _place(path.name, number, last=end >= len(raw))
                try:
                    parts.append(self._keys.unseal(key_id, payload, place))
                except InvalidTag:
                    raise StorageCorrupt(f"{path}, offset {offset}: the snapshot was altered; {CURE}") from None
            number += 1
            offset = end
        if not parts:
            raise StorageCorrupt(f"{path}: the snapshot is empty; {CURE}")
        return SnapshotMeta.FromString(parts[0]), b"".join(parts[1:])

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` (at least one)."""
        for path in self.paths()[: -max(keep, 1)]:
            path.unlink()
