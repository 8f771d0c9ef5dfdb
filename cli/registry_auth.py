"""Registry credentials of the person, from ~/.docker/config.json or $DOCKER_CONFIG, for --with-registry-auth."""

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
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    registry = registry_of(image)
    try:
        config = json.loads((folder / "config.json").read_text())
        found = _stored(config, registry)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CommandFailed(f"cannot read {folder / 'config.json'}: {error}") from None
    found = found or _helped(config, registry)
    if not found:
        return ""
    return base64.urlsafe_b64encode(json.dumps(found | {"serveraddress": registry}).encode()).decode()


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
    helper = config.get("credHelpers", {}).get(registry) or config.get("credsStore")
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
