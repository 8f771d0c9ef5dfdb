"""The file that `flota backup create` makes: written by a manager, checked by the command line, read by a daemon.

    FLOTA-BACKUP 1\\n, then frames: kind (1 byte), length (4), payload, crc32 of kind, length and payload (4)

First a header (BackupHeader, in clear), then parts of one StoreSnapshot, then an end that holds the sha256 of
everything before it: a file without it is cut short. With autolock the parts are sealed with AES-256-GCM under a random
key, which the unlock key wraps; each is bound to the header, to its number, and to whether it is the last.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError

from flota.rpc.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from flota.v1.store_pb2 import BackupHeader

VERSION = 1
_MAGIC = b"FLOTA-BACKUP 1\n"
_HEAD = struct.Struct(">BI")
_CRC = struct.Struct(">I")
_HEADER, _PART, _END = 1, 2, 3
_PART_BYTES = 1 << 20
# Of a payload; more than that is damage, not a frame.
_LONGEST = _PART_BYTES + 4096
_NONCE = 12


def write_backup(header: BackupHeader, snapshot: Iterable[bytes], unlock_key: bytes = b"") -> Iterator[bytes]:
    """The file's bytes, a few at a time; encrypted when there is an unlock key. Fills in the header's own fields.

    `snapshot` is the StoreSnapshot in pieces, cut anywhere.
    """
    header.version = VERSION
    cipher: AESGCM | None = None
    if unlock_key:
        key = AESGCM.generate_key(256)
        nonce = os.urandom(_NONCE)
        header.wrapped_key = nonce + AESGCM(unlock_key).encrypt(nonce, key, b"backup")
        cipher = AESGCM(key)
    head = header.SerializeToString()
    digest = hashlib.sha256()
    for piece in _pieces(head, snapshot, cipher):
        digest.update(piece)
        yield piece
    yield _frame(_END, digest.digest())


def _pieces(head: bytes, snapshot: Iterable[bytes], cipher: AESGCM | None) -> Iterator[bytes]:
    yield _MAGIC
    yield _frame(_HEADER, head)
    for number, (part, last) in enumerate(_parts(snapshot)):
        if cipher is not None:
            nonce = os.urandom(_NONCE)
            part = nonce + cipher.encrypt(nonce, part, _place(head, number, last))
        yield _frame(_PART, part)


def _parts(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in parts of one size, and whether each is the last."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        # What is behind the last part is known only in the end.
        while len(gathered) > _PART_BYTES:
            yield bytes(gathered[:_PART_BYTES]), False
            del gathered[:_PART_BYTES]
    if gathered:
        yield bytes(gathered), True


def _frame(kind: int, payload: bytes) -> bytes:
    head = _HEAD.pack(kind, len(payload))
    return head + payload + _CRC.pack(zlib.crc32(payload, zlib.crc32(head)))


def _place(head: bytes, number: int, last: bool) -> bytes:
    return hashlib.sha256(head).digest() + number.to_bytes(8) + bytes([last])


@dataclass
class Backup:
    """A whole file whose checksums are right."""

    header: BackupHeader
    _head: bytes
    _parts: list[bytes]
    # Of the file.
    size: int

    @property
    def encrypted(self) -> bool:
        """Whether the unlock key is needed."""
        return bool(self.header.wrapped_key)

    def snapshot(self, unlock_key: bytes = b"") -> bytes:
        """The StoreSnapshot. Raises FailedPrecondition (a key is needed), PermissionDenied (a wrong one)."""
        if not self.encrypted:
            return b"".join(self._parts)
        if not unlock_key:
            raise FailedPrecondition("this backup is encrypted: give the unlock key that the swarm had then")
        wrapped = self.header.wrapped_key
        try:
            cipher = AESGCM(AESGCM(unlock_key).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], b"backup"))
        except InvalidTag:
            raise PermissionDenied("this unlock key does not open the backup: it had another one then") from None
        last = len(self._parts) - 1
        try:
            return b"".join(
                cipher.decrypt(part[:_NONCE], part[_NONCE:], _place(self._head, number, number == last))
                for number, part in enumerate(self._parts)
            )
        except InvalidTag:
            raise InvalidArgument("the backup was altered: what it holds is not what the manager wrote") from None


def read_backup(file: BinaryIO, name: str) -> Backup:
    """Read and check a file. Raises InvalidArgument that names the file, the offset and what is wrong."""

    def damaged(what: str) -> InvalidArgument:
        return InvalidArgument(f"{name}, offset {offset}: {what}; use another backup")

    offset = 0
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise InvalidArgument(f"{name} is no backup of flota: it does not begin with {_MAGIC.decode().strip()}")
    digest = hashlib.sha256(magic)
    offset = len(magic)
    head, parts = b"", []
    while True:
        start = file.read(_HEAD.size)
        if len(start) < _HEAD.size:
            raise damaged("the backup is cut short")
        kind, length = _HEAD.unpack(start)
        if length > _LONGEST:
            raise damaged("the backup is damaged")
        rest = file.read(length + _CRC.size)
        if len(rest) < length + _CRC.size:
            raise damaged("the backup is cut short")
        payload = rest[:length]
        if _CRC.unpack(rest[length:])[0] != zlib.crc32(payload, zlib.crc32(start)):
            raise damaged("the backup is damaged (wrong checksum)")
        if kind == _END:
            if payload != digest.digest():
                raise damaged("the backup is damaged (wrong sha256)")
            break
        if kind == _HEADER and not head:
            head = payload
        elif kind == _PART and head:
            parts.append(payload)
        else:
            raise damaged("the backup is damaged (unknown part)")
        digest.update(start + rest)
        offset += len(start) + len(rest)
    try:
        header = BackupHeader.FromString(head)
    except DecodeError:
        raise damaged("the backup's header cannot be read") from None
    if header.version != VERSION:
        raise InvalidArgument(f"{name} has format {header.version}; this flota reads format {VERSION}")
    return Backup(header, head, parts, offset + _HEAD.size + length + _CRC.size)
