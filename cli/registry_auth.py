"""Registry credentials of the person, in ~/.docker/config.json or $DOCKER_CONFIG and its credential helpers: read for
--with-registry-auth, pull and push, written by login and logout. The file is Docker's, and so is the helpers' protocol.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from flota.cli.failures import CommandFailed

_HUB = "https://index.docker.io/v1/"


def registry_of(image: str) -> str:
    """The registry an image comes from: what stands before the first slash, if it looks like a host."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _HUB


def credentials_for(image: str) -> str:
    """Docker's X-Registry-Auth for the registry of `image`; empty when there are none. Raises CommandFailed."""
    registry, config = registry_of(image), _read()
    try:
        found = _stored(config, registry) or _helped(config, registry)
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandFailed(f"cannot read {_file()}: {error}") from None
    return encoded(found, registry) if found else ""


def encoded(credentials: dict[str, str], registry: str) -> str:
    """Docker's X-Registry-Auth."""
    return base64.urlsafe_b64encode(json.dumps(credentials | {"serveraddress": registry}).encode()).decode()


def key_of(host: str) -> str:
    """What a registry is called in the file."""
    return _HUB if host in ("docker.io", "index.docker.io", "registry-1.docker.io", "") else host


def store(host: str, user: str, password: str) -> bool:
    """Remember credentials; True when a helper keeps them, not the file. Raises CommandFailed."""
    registry, config = key_of(host), _read()
    helper = _helper(config, registry)
    if helper:
        _run_helper(helper, "store", json.dumps({"ServerURL": registry, "Username": user, "Secret": password}))
        entry: dict[str, str] = {}
    else:
        entry = {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
    config.setdefault("auths", {})[registry] = entry
    _write(config)
    return bool(helper)


def erase(host: str) -> bool:
    """Forget credentials; whether there were some. Raises CommandFailed."""
    registry, config = key_of(host), _read()
    known = False
    for key in (registry, f"https://{registry}"):
        known = config.get("auths", {}).pop(key, None) is not None or known
    helper = _helper(config, registry)
    if helper and known:
        _run_helper(helper, "erase", registry)
    if known:
        _write(config)
    return known


def _file() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def _read() -> dict[str, Any]:
    try:
        config = json.loads(_file().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot read {_file()}: {error}") from None
    if not isinstance(config, dict):
        raise CommandFailed(f"cannot read {_file()}: it is no JSON object")
    return config


def _write(config: dict[str, Any]) -> None:
    """The whole file or none of it, for its owner alone."""
    path = _file()
    new = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(config, file, indent="\t")
        # It may be a link to where a person keeps such things.
        new.replace(path.resolve())
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from None


def _helper(config: dict[str, Any], registry: str) -> str:
    return str(config.get("credHelpers", {}).get(registry) or config.get("credsStore") or "")


def _run_helper(helper: str, word: str, told: str) -> None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, word], input=told, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"credential helper {program}: {error}") from None
    if done.returncode:
        raise CommandFailed(f"credential helper {program}: {done.stdout.strip() or f'exit code {done.returncode}'}")


def _stored(config: dict[str, Any], registry: str) -> dict[str, str]:
    for key in (registry, f"https://{registry}"):
        entry = config.get("auths", {}).get(key, {})
        if entry.get("identitytoken"):
            return {"identitytoken": entry["identitytoken"]}
        if entry.get("auth"):
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            return {"username": user, "password": password}
    return {}


def _helped(config: dict[str, Any], registry: str) -> dict[str, str]:
    """Ask the credential helper that the configuration names (docker-credential-NAME get)."""
    helper = _helper(config, registry)
    if not helper:
        return {}
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=registry, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"credential helper docker-credential-{helper}: {error}") from None
    if done.returncode:
        return {}
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise CommandFailed(f"credential helper docker-credential-{helper}: its answer is not JSON") from None
    if answer.get("Username") == "<token>":
        return {"identitytoken": answer["Secret"]}
    return {"username": answer.get("Username", ""), "password": answer.get("Secret", "")}
