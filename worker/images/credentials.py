"""A person's credentials for a registry, from how Docker's API carries them (X-Registry-Auth) to how skopeo reads them
(containers-auth.json(5)). Pure."""

import base64
import binascii
import json
from typing import Any

from flota.rpc.errors import InvalidArgument

_FORM = "base64 of a JSON object with username and password, or identitytoken, is needed"
# Who has a token needs no name, but the file needs one.
_NOBODY = "00000000-0000-0000-0000-000000000000"


def auth_file(host: str, registry_auth: str) -> bytes:
    """The file for the registry `host`; without credentials if `registry_auth` is empty. Raises InvalidArgument."""
    entries = {}
    if registry_auth:
        given = _parse(registry_auth)
        token, user, password = (_text(given, key) for key in ("identitytoken", "username", "password"))
        if token:
            entries[host] = {"auth": _basic(user or _NOBODY, ""), "identitytoken": token}
        elif user:
            entries[host] = {"auth": _basic(user, password)}
        elif given.get("auth"):
            entries[host] = {"auth": _text(given, "auth")}
        elif given.get("registrytoken"):
            raise InvalidArgument(f"invalid registry_auth: registrytoken is not supported; {_FORM}")
    return json.dumps({"auths": entries}).encode()


def name_and_password(registry_auth: str) -> tuple[str, str]:
    """What a person typed. Raises InvalidArgument, also for a token."""
    given = _parse(registry_auth)
    user, password = _text(given, "username"), _text(given, "password")
    if not user or not password:
        raise InvalidArgument("invalid registry_auth: username and password are needed")
    return user, password


def _parse(registry_auth: str) -> dict[str, Any]:
    # Both alphabets are in use, with and without padding.
    text = registry_auth.strip().translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        given = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError):
        given = None
    if not isinstance(given, dict):
        # It is a secret: not a word of it.
        raise InvalidArgument(f"invalid registry_auth: {_FORM}")
    return given


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key) or ""
    if not isinstance(value, str):
        raise InvalidArgument(f"invalid registry_auth: {key} is no text; {_FORM}")
    return value


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()
