"""`flota login` and `logout`: what is tried, and what is written where."""

import base64
import io
import json
import os
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon

HELPER = """#!/bin/sh
cat >"$0.$1"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker/config.json"


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_what_the_registry_takes_is_remembered_and_forgotten(
    daemon: Daemon, flota: Flota, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "secret\n")
    done = flota("login", "--username", "me", "--password-stdin", "registry:5000")
    assert (done.status, done.out) == (0, "Login Succeeded\n")
    assert "stored unencrypted" in done.err
    assert daemon.agent.checked.registry == "registry:5000"
    stored = json.loads(config.read_text())
    assert stored == {"auths": {"registry:5000": {"auth": base64.b64encode(b"me:secret").decode()}}}
    assert (config.stat().st_mode & 0o777, os.listdir(config.parent)) == (0o600, ["config.json"])
    assert flota("logout", "registry:5000").out == "Removing login credentials for registry:5000\n"
    assert json.loads(config.read_text()) == {"auths": {}}
    assert flota("logout", "registry:5000").out == "Not logged in to registry:5000\n"


def test_what_the_registry_does_not_take_is_not_remembered(
    daemon: Daemon, flota: Flota, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "wrong")
    done = flota("login", "-u", "me", "--password-stdin", "registry:5000")
    assert (done.status, "does not take these credentials" in done.err) == (1, True)
    assert not config.exists()


def test_a_helper_keeps_it(
    daemon: Daemon, flota: Flota, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-safe"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config.parent.mkdir()
    config.write_text(json.dumps({"credHelpers": {"registry:5000": "safe"}, "proxies": {}}))
    typed(monkeypatch, "secret")
    done = flota("login", "-u", "me", "--password-stdin", "registry:5000")
    assert (done.status, done.err) == (0, "")
    told = json.loads((tmp_path / "docker-credential-safe.store").read_text())
    assert told == {"ServerURL": "registry:5000", "Username": "me", "Secret": "secret"}
    assert json.loads(config.read_text())["auths"] == {"registry:5000": {}}
    assert "secret" not in config.read_text()
    flota("logout", "registry:5000")
    assert (tmp_path / "docker-credential-safe.erase").read_text() == "registry:5000"
    assert json.loads(config.read_text()) == {"auths": {}, "credHelpers": {"registry:5000": "safe"}, "proxies": {}}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--password-stdin"], "--password-stdin needs --username"),
        (["-u", "me", "-p", "x", "--password-stdin"], "--password and --password-stdin exclude each other"),
        (["-u", "me"], "there is no terminal to ask on: use --username and --password-stdin"),
        (["-u", "me", "-p", "x", "https://registry"], "invalid registry 'https://registry': HOST[:PORT] is needed"),
    ],
)
def test_what_is_wrong_is_said(daemon: Daemon, flota: Flota, words: list[str], why: str) -> None:
    done = flota("login", *words)
    assert (done.status, done.err) == (125, f"flota: {why}\n")
