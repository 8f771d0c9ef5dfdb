"""`flota backup`: a file is complete, checked, and says what it holds. `swarm unlock`."""

import io
import json
import stat
from pathlib import Path

import pytest

from flota.v1.local_pb2 import InfoResponse, UnlockRequest
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


def test_a_backup_is_made_looked_at_and_restored(swarm: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = tmp_path / "swarm"
    done = flota("backup", "create", str(file))
    assert done.status == 0, done.err
    assert done.out.startswith(f"Backup of swarm {swarm.local.info.cluster_id} written to {file} (")
    assert "1 node, 0 services, 0 tasks, " in done.out
    assert "warning: the backup is not encrypted (autolock is off)" in done.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("swarm")] == ["swarm"]

    (shape,) = json.loads(flota("backup", "inspect", str(file)).out)
    assert (shape["ClusterID"], shape["Encrypted"], shape["Stale"]) == (swarm.local.info.cluster_id, False, "")
    assert shape["Objects"]["network"] == 2
    assert flota("backup", "inspect", "--format", "{{.Size}}", str(file)).out == f"{file.stat().st_size}\n"

    done = flota("backup", "restore", "--listen-addr", "10.0.0.9", str(file))
    assert "is now its only manager, with 2 services" in done.out
    assert swarm.local.restored == file.read_bytes()
    assert swarm.local.requests[-1].listen_address == "10.0.0.9:2377"


def test_a_locked_swarms_backup_is_encrypted(swarm: Daemon, flota: Flota, tmp_path: Path) -> None:
    flota("swarm", "update", "--autolock")
    key = flota("swarm", "unlock-key", "-q").out.strip()
    file, key_file = tmp_path / "swarm", tmp_path / "key"
    key_file.write_text(f"{key}\n")
    done = flota("backup", "create", str(file))
    assert ", encrypted)." in done.out
    assert done.err == ""
    flota("backup", "restore", "--unlock-key-file", str(key_file), str(file))
    assert swarm.local.requests[-1].unlock_key == key


def test_a_damaged_backup_is_refused_before_anything_is_asked(daemon: Daemon, flota: Flota, tmp_path: Path) -> None:
    file = tmp_path / "swarm"
    file.write_bytes(b"FLOTA-BACKUP 1\n\x01\x00")
    for command in ("inspect", "restore"):
        done = flota("backup", command, str(file))
        assert (done.status, done.err) == (
            1,
            f"flota: {file}, offset 15: the backup is cut short; use another backup\n",
        )
    assert daemon.local.requests == []
    file = tmp_path / "nowhere" / "swarm"
    done = flota("backup", "create", str(file))
    assert (done.status, done.err) == (1, f"flota: cannot write the backup {file}: No such file or directory\n")


def test_a_key_is_given_to_a_locked_manager_only(daemon: Daemon, flota: Flota, monkeypatch: pytest.MonkeyPatch) -> None:
    done = flota("swarm", "unlock")
    assert (done.status, done.err) == (1, "flota: This node is not part of a swarm\n")
    daemon.local.info.state = InfoResponse.STATE_ACTIVE
    assert flota("swarm", "unlock").err == "flota: swarm is not locked\n"
    daemon.local.info.state = InfoResponse.STATE_LOCKED
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert flota("swarm", "unlock").err == "flota: no unlock key was given\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("SWMKEY-1-x\n"))
    assert flota("swarm", "unlock").status == 0
    assert daemon.local.requests == [UnlockRequest(key="SWMKEY-1-x")]
    daemon.local.info.error = "Swarm is encrypted"
    assert " Swarm: locked\n  Error: Swarm is encrypted\n" in flota("info").out
