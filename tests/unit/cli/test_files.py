"""`flota secret` and `flota config`: the same commands for both."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "data"
    path.write_bytes(b"level=debug\n")
    return str(path)


def stored_data(daemon: Daemon, kind: str, name: str) -> bytes:
    table = daemon.cluster.store.secrets if kind == "secret" else daemon.cluster.store.configs
    found = table.by_name(name)
    assert found is not None
    data: bytes = found.spec.data
    return data


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_create_ls_and_rm(swarm: Daemon, flota: Flota, file: str, kind: str) -> None:
    done = flota(kind, "create", "--label", "team=shop", "settings", file)
    assert (done.status, done.err) == (0, "")
    made = done.out.strip()
    assert stored_data(swarm, kind, "settings") == b"level=debug\n"
    driver = "DRIVER    " if kind == "secret" else ""
    assert flota(kind, "ls").out == (
        f"ID                          NAME       {driver}CREATED                  UPDATED\n"
        f"{made}   settings   {' ' * len(driver)}Less than a second ago   Less than a second ago\n"
    )
    assert flota(kind, "ls", "-q", "--filter", "label=team").lines == [made]
    assert flota(kind, "ls", "-q", "--filter", "name=other").out == ""
    assert flota(kind, "ls", "--format", '{{.Name}} {{.Label "team"}} {{.Labels}}').lines == ["settings shop team=shop"]
    done = flota(kind, "rm", "nope", "settings")
    assert (done.status, done.out, done.err) == (1, "settings\n", f"flota: no such {kind}: nope\n")


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_a_name_is_taken_once(swarm: Daemon, flota: Flota, file: str, kind: str) -> None:
    made = flota(kind, "create", "settings", file).out.strip()
    done = flota(kind, "create", "settings", file)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"flota: Error response from daemon: {kind} name 'settings' is taken by {kind} {made}\n"


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_standard_input_is_a_file_too(swarm: Daemon, flota: Flota, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    assert flota(kind, "create", "piped", "-").status == 0
    assert stored_data(swarm, kind, "piped") == b"from a pipe"


@pytest.mark.parametrize(("kind", "limit"), [("secret", "512,000"), ("config", "1,024,000")])
def test_what_cannot_be_read_or_has_no_end(swarm: Daemon, flota: Flota, tmp_path: Path, kind: str, limit: str) -> None:
    done = flota(kind, "create", "x", str(tmp_path / "nope"))
    assert (done.status, done.err) == (1, f"flota: cannot read {tmp_path / 'nope'}: No such file or directory\n")
    done = flota(kind, "create", "x", "/dev/zero")
    assert done.status == 1
    assert done.err == f"flota: /dev/zero is too large for a {kind}: less than {limit} bytes are allowed\n"
    assert flota(kind, "create", "x", "/dev/null").err == (
        f"flota: Error response from daemon: invalid size of {kind} 'x': it has 0 bytes, "
        f"1 to {int(limit.replace(',', '')) - 1:,} are allowed\n"
    )
    assert flota(kind, "create", "x", str(tmp_path)).status == 125


def test_a_configs_data_is_shown_and_a_secrets_is_not(swarm: Daemon, flota: Flota, file: str) -> None:
    for kind in ("secret", "config"):
        flota(kind, "create", "--label", "a", "settings", file)
    secret, config = (json.loads(flota(kind, "inspect", "settings").out)[0] for kind in ("secret", "config"))
    assert secret["Spec"] == {"Name": "settings", "Labels": {"a": ""}}
    assert config["Spec"]["Data"] == "bGV2ZWw9ZGVidWcK"
    pretty = flota("config", "inspect", "--pretty", "settings").lines
    assert pretty[:4] == [
        f"ID:                     {config['ID']}",
        "Name:                   settings",
        "Labels:",
        " - a",
    ]
    assert pretty[-2:] == ["Data:", "level=debug"]
    assert "level" not in flota("secret", "inspect", "--pretty", "settings").out
    done = flota("secret", "inspect", "nope")
    assert (done.status, done.out, done.err) == (1, "[]\n", "flota: no such secret: nope\n")


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_what_a_service_uses_stays(swarm: Daemon, flota: Flota, file: str, kind: str) -> None:
    flota(kind, "create", "settings", file)
    assert flota("service", "create", "-d", "--name", "web", f"--{kind}", "settings", "busybox").status == 0
    done = flota(kind, "rm", "settings")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"flota: Error response from daemon: {kind} settings is in use by service web\n"
