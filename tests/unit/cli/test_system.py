"""`flota info`, `flota version` and what is said when no daemon answers."""

import json
import socket
from pathlib import Path

import pytest

from flota.v1.local_pb2 import InfoResponse
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


def test_info_of_a_node_outside_of_any_swarm(daemon: Daemon, flota: Flota) -> None:
    done = flota("info")
    assert (done.status, done.err) == (0, "")
    assert " Swarm: inactive\n Root Dir: /var/lib/flota\n" in done.out


def test_info_of_a_manager_has_dockers_words(swarm: Daemon, flota: Flota) -> None:
    swarm.run(swarm.cluster.add_node("w1"))
    out = flota("info").out
    for line in (" Swarm: active", "  Is Manager: true", "  Managers: 1", "  Nodes: 2", "   Heartbeat Period: 1s"):
        assert f"\n{line}\n" in out
    shape = json.loads(flota("info", "--format", "json").out)
    assert (shape["NCPU"], shape["MemTotal"]) == (2, 4 << 30)
    assert (shape["Swarm"]["LocalNodeState"], shape["Swarm"]["Nodes"]) == ("active", 2)
    assert shape["Swarm"]["Cluster"]["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 5}
    assert flota("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}").out == "active true\n"


def test_info_of_a_daemon_that_failed_says_why(daemon: Daemon, flota: Flota) -> None:
    daemon.local.info.state, daemon.local.info.error = InfoResponse.STATE_ERROR, "certificate has expired"
    assert " Swarm: error\n  Error: certificate has expired\n" in flota("info").out


def test_version_tells_both_sides(daemon: Daemon, flota: Flota) -> None:
    shape = json.loads(flota("version", "--format", "json").out)
    assert shape["Client"]["Version"] == shape["Server"]["Version"] == "0.1.0"
    lines = flota("version").lines
    assert lines[0] == "Client:"
    assert "Server:" in lines
    assert flota("version", "-f", "{{.Server.Runtime}}").out == "crun\n"
    assert flota("--version").out == "flota version 0.1.0\n"


def test_without_a_daemon_version_still_tells_its_own(flota: Flota, tmp_path: Path) -> None:
    done = flota("version")
    assert done.lines[0] == "Client:"
    assert "Server:" not in done.out
    assert done.status == 1
    assert done.err.startswith(
        f"flota: Cannot connect to the flota daemon at unix://{tmp_path}/flota.sock: there is no"
    )
    assert done.err.count("\n") == 1


def test_without_a_daemon_a_command_says_which_socket_and_why(flota: Flota, tmp_path: Path) -> None:
    missing = flota("service", "ls")
    assert (missing.status, missing.out) == (1, "")
    assert "/flota.sock: there is no such socket. Is it running?" in missing.err
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "flota.sock"))
    refused = flota("node", "ls")
    assert (refused.status, refused.out) == (1, "")
    assert "/flota.sock: nobody listens on it. Is it running?" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2377", "unix://relative", ""])
def test_a_host_that_is_none(flota: Flota, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("FLOTA_HOST")
    done = flota("-H", host or "nonsense", "node", "ls")
    assert done.status == 125
    assert done.err == (
        f"flota: invalid host {host or 'nonsense'!r}: unix:///path of a daemon's socket is needed (-H, FLOTA_HOST)\n"
    )
