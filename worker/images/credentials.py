"""A person's credentials for a registry, as Docker's API carries them (X-Registry-Auth). Pure."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from flota.rpc.errors import InvalidArgument

_FORM = "base64 of a JSON object with username and password, or identitytoken, is needed"


@dataclass(frozen=True)
class Credentials:
    """Who asks: a name and a password, or a token that others are to be had for."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """As it is sent: base64 of both."""
        return _basic(self.user, self.password)


def credentials(registry_auth: str) -> Credentials | None:
    """What X-Registry-Auth says; None if it is empty, or names nobody. Raises InvalidArgument."""
    if not registry_auth:
        return None
    given = _parse(registry_auth)
    token, user, password = (_text(given, key) for key in ("identitytoken", "username", "password"))
    if token:
        return Credentials(user, "", token)
    if user:
        return Credentials(user, password)
    if coded := _text(given, "auth"):
        return Credentials(*_decoded(coded))
    if given.get("registrytoken"):
        raise InvalidArgument(f"invalid registry_auth: registrytoken is not supported; {_FORM}")
    return None


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


def _decoded(coded: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise InvalidArgument(f"invalid registry_auth: auth is not base64 of NAME:PASSWORD; {_FORM}")
    return user, password


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key) or ""
    if not isinstance(value, str):
        raise InvalidArgument(f"invalid registry_auth: {key} is no text; {_FORM}")
    return value


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()
