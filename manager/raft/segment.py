"""One segment of the durable log: numbered, checksummed, sealed records in an append-only file.

A record is a 24-byte head (magic, length, sequence number, crc32 of length, number and payload) and its payload,
padded to 8 bytes. Numbers run on through all segments. The first record is a LogFileHeader in clear.

Every record is synced before the next one is written, so losing power can only spoil the last record. `read_segment`
therefore takes a bad record for a torn tail only when no later record can be found behind it; anything else is damage
that must not be papered over, because acknowledged entries may be in it.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag

from flota.manager.raft.files import sync_directory, write_all
from flota.manager.raft.interface import StorageCorrupt
from flota.manager.raft.sealing import KeyRing
from flota.v1.raft_pb2 import LogFileHeader

VERSION = 1
_MAGIC = b"FLRG"
_HEAD = struct.Struct("<4sIQII")
_ALIGN = 8
# Of a file's first record.
_LONGEST_HEAD = 4096
CURE = (
    "the log is damaged and entries this manager promised to keep may be lost; remove this manager from the swarm, "
    "delete its Raft directory and join again, or restore a backup"
)


def segment_name(number: int) -> str:
    """File name of the segment whose first record has this number."""
    return f"{number:016x}.log"


def _place(number: int) -> bytes:
    return b"log" + number.to_bytes(8)


def encode_record(number: int, payload: bytes) -> bytes:
    """A record as it stands in the file."""
    crc = zlib.crc32(payload, zlib.crc32(struct.pack("<IQ", len(payload), number)))
    record = _HEAD.pack(_MAGIC, len(payload), number, crc, 0) + payload
    return record + bytes(-len(record) % _ALIGN)


def decode_record(data: memoryview, offset: int) -> tuple[int, memoryview, int] | None:
    """Number, payload and end of the valid record at `offset`, or None."""
    if offset + _HEAD.size > len(data):
        return None
    magic, length, number, crc, _ = _HEAD.unpack_from(data, offset)
    end = offset + _HEAD.size + length
    if magic != _MAGIC or end > len(data):
        return None
    payload = data[offset + _HEAD.size : end]
    if zlib.crc32(payload, zlib.crc32(struct.pack("<IQ", length, number))) != crc:
        return None
    return number, payload, end + -end % _ALIGN


def read_record(file: BinaryIO, left: int) -> tuple[int, bytes, int] | None:
    """Number, payload and length of the valid record where `file` stands, or None; `left` is how much there is yet."""
    head = file.read(_HEAD.size)
    length = _HEAD.unpack(head)[1] if len(head) == _HEAD.size else left
    if _HEAD.size + length > left:
        return None
    found = decode_record(memoryview(head + file.read(length + -(_HEAD.size + length) % _ALIGN)), 0)
    return None if found is None else (found[0], bytes(found[1]), found[2])


def key_of(path: Path) -> str:
    """Id of the data key that a segment or snapshot is sealed with; empty when not even its head is whole."""
    with path.open("rb") as file:
        found = decode_record(memoryview(file.read(_LONGEST_HEAD)), 0)
    return LogFileHeader.FromString(bytes(found[1])).key_id if found is not None else ""


class SegmentWriter:
    """The segment being written. After an OSError only `close` may be called: what the file holds is unknown."""

    def __init__(self, directory: Path, number: int, keys: KeyRing) -> None:
        self._keys = keys
        self._key_id = keys.current
        self.path = directory / segment_name(number)
        self.number = number
        self.size = 0
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            header = LogFileHeader(version=VERSION, key_id=self._key_id)
            self._write(header.SerializeToString())
            sync_directory(directory)
        except OSError:
            os.close(self._descriptor)
            # The next attempt is to make the name anew: one that a failed sync lost is not written by a later one.
            with suppress(OSError):
                self.path.unlink()
            raise

    def _write(self, payload: bytes) -> None:
        record = encode_record(self.number, payload)
        write_all(self._descriptor, record)
        os.fdatasync(self._descriptor)
        self.number += 1
        self.size += len(record)

    def append(self, plain: bytes) -> None:
        """Seal, write and sync one record. Raises OSError."""
        self._write(self._keys.seal(self._key_id, plain, _place(self.number)))

    def cut_back(self) -> None:
        """After a failed append: drop what may have been written of it. Raises OSError."""
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


@dataclass
class SegmentEnd:
    """How a segment ended: number of the record that should come next, and how many bytes are good."""

    next_number: int
    good_bytes: int
    torn: bool


def read_segment(path: Path, number: int, limit: int | None, keys: KeyRing) -> Iterator[bytes | SegmentEnd]:
    """The plain records of a segment that begins with record `number`, then its SegmentEnd. Raises StorageCorrupt.

    Record `limit` is in the next segment: whatever stands here from that number on is what a failed write left.
    """
    data = memoryview(path.read_bytes())
    offset, key_id, first = 0, "", True
    while offset < len(data) and number != limit:
        found = decode_record(data, offset)
        if found is None or found[0] != number:
            later = _later_record(data, offset, number)
            if found is not None or later is not None:
                raise StorageCorrupt(f"{path}, offset {offset}: record {number} is not readable; {CURE}")
            yield SegmentEnd(number, offset, torn=True)
            return
        _, payload, end = found
        if first:
            header = LogFileHeader.FromString(bytes(payload))
            if header.version != VERSION or not keys.knows(header.key_id):
                raise StorageCorrupt(f"{path}: format {header.version} under key {header.key_id!r} is not known here")
            key_id, first = header.key_id, False
        else:
            try:
                yield keys.unseal(key_id, bytes(payload), _place(number))
            except InvalidTag:
                raise StorageCorrupt(f"{path}, offset {offset}: record {number} was altered; {CURE}") from None
        number += 1
        offset = end
    yield SegmentEnd(number, len(data), torn=first)


def _later_record(data: memoryview, offset: int, number: int) -> int | None:
    """Offset of a valid record after `number` somewhere behind `offset`: a sign that this is no torn tail."""
    raw = data.obj
    assert isinstance(raw, bytes)
    at = raw.find(_MAGIC, offset + 1)
    while at != -1:
        found = decode_record(data, at)
        if found is not None and found[0] > number:
            return at
        at = raw.find(_MAGIC, at + 1)
    return None
