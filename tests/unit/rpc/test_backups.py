"""Backup files: every damaged byte is found, keys are needed where they should be."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flota.rpc.backups import Backup, read_backup, write_backup
from flota.rpc.errors import FailedPrecondition, FlotaError, InvalidArgument, PermissionDenied
from flota.v1.store_pb2 import BackupHeader

KEY = b"k" * 32
SNAPSHOT = bytes(range(256)) * 9000


def made(snapshot: bytes = SNAPSHOT, key: bytes = b"") -> bytes:
    # In pieces that fit no part.
    pieces = (snapshot[at : at + 70_001] for at in range(0, len(snapshot), 70_001))
    return b"".join(write_backup(BackupHeader(cluster_id="c", index=7, objects={"service": 2}), pieces, key))


def read(data: bytes) -> Backup:
    return read_backup(io.BytesIO(data), "file")


@pytest.mark.parametrize("snapshot", [b"", b"x", SNAPSHOT])
def test_what_was_written_is_read(snapshot: bytes) -> None:
    backup = read(made(snapshot))
    assert (backup.header.cluster_id, backup.header.index, backup.header.objects["service"]) == ("c", 7, 2)
    assert not backup.encrypted
    assert backup.snapshot() == snapshot
    assert backup.size == len(made(snapshot))


def test_an_encrypted_one_needs_its_key() -> None:
    data = made(key=KEY)
    assert SNAPSHOT[:64] not in data
    backup = read(data)
    assert backup.encrypted
    assert backup.header.cluster_id == "c"
    assert backup.snapshot(KEY) == SNAPSHOT
    with pytest.raises(FailedPrecondition, match="give the unlock key that the swarm had then"):
        backup.snapshot()
    with pytest.raises(PermissionDenied, match="does not open the backup"):
        backup.snapshot(b"w" * 32)


def test_what_is_no_backup_is_told() -> None:
    with pytest.raises(InvalidArgument, match=r"^file is no backup of flota"):
        read(b"PK\x03\x04")
    with pytest.raises(InvalidArgument, match=r"^file, offset 15: the backup is cut short"):
        read(made()[:18])


@pytest.mark.parametrize("key", [b"", KEY])
@given(data=st.data())
def test_no_damaged_bit_and_no_cut_goes_unnoticed(key: bytes, data: st.DataObject) -> None:
    whole = made(b"some state" * 20, key)
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = bytearray(whole)
    spoilt[at] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(spoilt), whole[:at]):
        with pytest.raises(FlotaError):
            read(bad)
