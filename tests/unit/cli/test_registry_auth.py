"""Registry credentials of the person: found where Docker's tools put them, sent only when one says so."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from flota.cli.failures import CommandFailed
from flota.cli.registry_auth import credentials_for, registry_of
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


def read(auth: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(auth))
    return decoded


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", "https://index.docker.io/v1/"),
        ("team/app:1", "https://index.docker.io/v1/"),
        ("localhost/app", "localhost"),
        ("reg.example.com/app", "reg.example.com"),
        ("reg:5000/team/app@sha256:00", "reg:5000"),
    ],
)
def test_the_registry_is_what_looks_like_a_host(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def test_stored_credentials(config: Path) -> None:
    auths = {"reg:5000": basic("me", "pass:word"), "https://tok.example.com": {"identitytoken": "t"}, "empty:1": {}}
    config.write_text(json.dumps({"auths": auths}))
    assert read(credentials_for("reg:5000/app")) == {
        "username": "me", "password": "pass:word", "serveraddress": "reg:5000",
    }  # fmt: skip
    assert read(credentials_for("tok.example.com/app"))["identitytoken"] == "t"
    assert credentials_for("empty:1/app") == credentials_for("other:1/app") == ""


def test_credential_helpers(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = config.parent / "docker-credential-mine"
    helper.write_text(
        '#!/bin/sh\nread registry\ncase "$registry" in\n'
        'good:1) echo \'{"Username": "me", "Secret": "s"}\';;\n'
        'token:1) echo \'{"Username": "<token>", "Secret": "t"}\';;\n'
        "odd:1) echo hello;;\n"
        "*) echo 'credentials not found'; exit 1;;\nesac\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{config.parent}:{os.environ['PATH']}")
    config.write_text(json.dumps({"credsStore": "mine"}))
    assert read(credentials_for("good:1/app"))["password"] == "s"
    assert read(credentials_for("token:1/app"))["identitytoken"] == "t"
    assert credentials_for("other:1/app") == ""
    with pytest.raises(CommandFailed, match=r"^credential helper docker-credential-mine: its answer is not JSON$"):
        credentials_for("odd:1/app")
    config.write_text(json.dumps({"credHelpers": {"good:1": "nope"}}))
    with pytest.raises(CommandFailed, match=r"^credential helper docker-credential-nope: "):
        credentials_for("good:1/app")


def test_no_file_is_no_credentials_and_a_broken_one_is_told(config: Path) -> None:
    assert credentials_for("reg:5000/app") == ""
    for broken in ("{", "[]", '{"auths": {"reg:5000": {"auth": "abc"}}}', '{"auths": {"reg:5000": "x"}}'):
        config.write_text(broken)
        with pytest.raises(CommandFailed, match=f"^cannot read {config}: "):
            credentials_for("reg:5000/app")


def test_they_are_sent_only_when_one_says_so(swarm: Daemon, flota: Flota, config: Path) -> None:
    config.write_text(json.dumps({"auths": {"reg:5000": basic("me", "x")}}))
    for name, flags in (("without", []), ("with", ["--with-registry-auth"])):
        assert flota("service", "create", "-d", "--name", name, *flags, "reg:5000/app").status == 0
    sent = {service.spec.annotations.name: service.spec.task.container.registry_auth
            for service in swarm.cluster.store.services}  # fmt: skip
    assert sent["without"] == ""
    assert read(sent["with"])["username"] == "me"
    flota("service", "update", "-d", "--env-add", "A=1", "with")
    assert swarm.cluster.service("with").spec.task.container.registry_auth == sent["with"]
    assert sent["with"] not in flota("service", "inspect", "with").out
