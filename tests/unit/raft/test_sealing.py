"""Keys of a Raft directory: what opens it, how they change while records are written, what is forgotten."""

import json
import re
import threading
from pathlib import Path

import pytest

from flota.manager.raft import sealing
from flota.manager.raft.interface import StorageCorrupt, StorageLocked
from flota.manager.raft.sealing import KeyRing
from flota.manager.raft.snapshots import CHUNK
from flota.manager.raft.storage import Storage
from flota.v1.raft_pb2 import ConfState, Entry, HardState, SnapshotMeta

FIRST, SECOND = b"1" * 32, b"2" * 32


def entries(*indices: int) -> list[Entry]:
    return [Entry(term=1, index=index, data=b"entry %d" % index) for index in indices]


def meta(index: int) -> SnapshotMeta:
    return SnapshotMeta(index=index, term=1, conf_state=ConfState(voters=[1]))


def begun(directory: Path) -> Storage:
    storage, _ = Storage.open(directory)
    storage.save_snapshot(meta(1), [b"state"])
    storage.persist(HardState(term=1, commit=1), [])
    storage.persist(HardState(term=1, commit=2), entries(2, 3))
    return storage


def test_a_locked_directory_opens_with_its_key_only(tmp_path: Path) -> None:
    storage = begun(tmp_path)
    assert not KeyRing.is_locked(tmp_path)
    storage.renew_keys(FIRST)
    storage.persist(None, entries(4))
    storage.close()
    assert KeyRing.is_locked(tmp_path)
    for keys, words in (((), "give the unlock key"), ((SECOND,), "give the right unlock key")):
        with pytest.raises(StorageLocked, match=words):
            Storage.open(tmp_path, keys)
    # Of several the one that fits: a manager may have ended between two.
    storage, loaded = Storage.open(tmp_path, (SECOND, FIRST))
    assert [entry.data for entry in loaded.entries] == [b"entry 2", b"entry 3", b"entry 4"]
    assert storage.keys.kek == FIRST
    storage.renew_keys(None)
    storage.close()
    Storage.open(tmp_path)[0].close()


def test_after_a_snapshot_nothing_is_left_that_an_old_key_opens(tmp_path: Path) -> None:
    storage = begun(tmp_path)
    old = (tmp_path / "keys.json").read_text()
    storage.renew_keys(FIRST)
    assert len(storage.keys.ids) == 2
    assert not storage.forget_old_keys()
    storage.save_snapshot(meta(3), [b"newer state"])
    storage.release(3)
    assert storage.forget_old_keys()
    storage.persist(None, entries(4))
    storage.close()
    # With what was on the disk before, also when somebody kept it.
    (tmp_path / "keys.json").write_text(old)
    with pytest.raises(StorageCorrupt, match="is not known here"):
        Storage.open(tmp_path)


def test_a_snapshot_that_arrives_while_keys_are_changed_can_be_read_afterwards(tmp_path: Path) -> None:
    storage = begun(tmp_path)
    draft = storage.snapshots.draft(meta(9))
    draft.write(b"first ")
    storage.renew_keys(FIRST)
    storage.save_snapshot(meta(3), [b"newer state"])
    storage.release(3)
    assert not storage.forget_old_keys()
    draft.write(b"second")
    draft.finish()
    storage.keep_snapshot(draft)
    storage.close()
    storage, loaded = Storage.open(tmp_path, (FIRST,))
    assert (loaded.snapshot.index, b"".join(storage.state())) == (9, b"first second")
    storage.save_snapshot(meta(10), [b"newest state"])
    storage.persist(None, [], restored=10)
    storage.release(9)
    assert not (storage.snapshots.keys_of_drafts)
    storage.close()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_snapshot_is_read_as_it_was_written_and_no_end_of_it_is_missed(tmp_path: Path, size: int) -> None:
    storage, _ = Storage.open(tmp_path)
    state = bytes(size)
    storage.save_snapshot(meta(1), (state[at : at + 300_007] for at in range(0, size, 300_007)))
    found, pieces = storage.newest_snapshot()
    assert (found, b"".join(pieces)) == (meta(1), state)
    path = storage.snapshots.paths()[0]
    whole = path.read_bytes()
    # Cut in the middle, and between any two records.
    for length in (len(whole) // 2, *(found.start() for found in re.finditer(b"FLRG", whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageCorrupt, match="the snapshot"):
            b"".join(storage.newest_snapshot()[1])
    storage.close()


def test_the_name_of_a_segment_whose_sync_failed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = begun(tmp_path)
    before = set((tmp_path / "log").iterdir())

    def fails(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("flota.manager.raft.segment.sync_directory", fails)
        with pytest.raises(OSError, match="Input/output"):
            storage.renew_keys(None)
    assert set((tmp_path / "log").iterdir()) == before
    storage.persist(None, entries(4))
    storage.close()
    storage, loaded = Storage.open(tmp_path)
    assert [entry.index for entry in loaded.entries] == [2, 3, 4]
    storage.close()


def test_keys_that_cannot_be_saved_have_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = begun(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sealing, "write_durably", full)
        with pytest.raises(OSError, match="No space left"):
            storage.renew_keys(FIRST)
    assert not storage.keys.locked
    assert len(storage.keys.ids) == 1
    storage.persist(None, entries(4))
    storage.close()
    _, loaded = Storage.open(tmp_path)
    assert loaded.entries[-1].index == 4


def test_what_is_sealed_while_keys_change_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing.open(tmp_path)
    save = sealing.write_durably
    seen: list[bytes] = []

    def slowly(*args: object, **options: object) -> None:
        # What another thread does at the moment when the new keys are on their way to the disk.
        other = threading.Thread(target=lambda: seen.append(ring.seal(ring.current, b"x", b"place")))
        other.start()
        other.join()
        save(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing, "write_durably", slowly)
    before = ring.current
    ring.renew(FIRST)
    assert ring.current != before
    assert ring.unseal(before, seen[0], b"place") == b"x"


def test_secrets_of_the_identity_outlive_one_change(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path)
    (oldest,) = ring.identity_secrets
    ring.renew(FIRST)
    assert ring.identity_secrets[0] == oldest
    ring.renew(SECOND)
    assert oldest not in ring.identity_secrets
    assert KeyRing.open(tmp_path, [SECOND]).identity_secrets == ring.identity_secrets


def test_a_damaged_file_of_keys_is_no_locked_one(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path)
    path = tmp_path / "keys.json"
    stored = json.loads(path.read_text())
    stored["keys"][ring.current] = stored["keys"][ring.current][::-1]
    path.write_text(json.dumps(stored))
    with pytest.raises(StorageCorrupt, match=r"keys\.json: cannot be read .*restore it from a backup"):
        KeyRing.open(tmp_path)
    path.write_text("{")
    assert not KeyRing.is_locked(tmp_path)
    with pytest.raises(StorageCorrupt, match=r"keys\.json"):
        KeyRing.open(tmp_path)
