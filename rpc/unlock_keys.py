"""The unlock key as people keep it: SWMKEY-1- and the base64 of 32 bytes without padding (Docker's form)."""

import base64
import binascii
import os

from flota.rpc.errors import InvalidArgument

_PREFIX = "SWMKEY-1-"
_BYTES = 32


def new_unlock_key() -> bytes:
    """A random one."""
    return os.urandom(_BYTES)


def unlock_key_text(key: bytes) -> str:
    """As it is shown to people."""
    return _PREFIX + base64.b64encode(key).decode().rstrip("=")


def parse_unlock_key(text: str) -> bytes:
    """What a person typed. Raises InvalidArgument, which never repeats the key."""
    text = text.strip()
    if not text.startswith(_PREFIX):
        raise InvalidArgument(f"invalid unlock key: it begins with {_PREFIX}")
    encoded = text.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _BYTES:
        raise InvalidArgument(f"invalid unlock key: {_PREFIX} and 43 letters, digits, + or / are needed")
    return key
