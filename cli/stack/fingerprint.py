"""Tells whether a secret's content has changed, although nobody may read it back.

A secret that a stack makes carries a label with a salted scrypt hash of its content: slow to guess from, and no help
to anybody who may not use the secret anyway.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flota.v1.objects_pb2 import Secret
    from flota.v1.specs_pb2 import SecretSpec

LABEL = "flota.stack.fingerprint"

_SALT_BYTES = 16
_COST, _BLOCK, _PARALLEL = 1 << 14, 8, 1


def fingerprint(data: bytes) -> str:
    """A new fingerprint of `data`."""
    salt = os.urandom(_SALT_BYTES)
    return f"{salt.hex()}:{_hash(data, salt)}"


def matches(mark: str, data: bytes) -> bool:
    """Whether `mark` is a fingerprint of `data`."""
    salt, _, digest = mark.partition(":")
    try:
        return hmac.compare_digest(_hash(data, bytes.fromhex(salt)), digest)
    except ValueError:
        return False


def same_secret(secret: Secret, spec: SecretSpec) -> bool:
    """Whether a secret's content is that of `spec`; one without a fingerprint is taken at its name. Slow."""
    mark = secret.spec.annotations.labels.get(LABEL, "")
    return not mark or matches(mark, spec.data)


def _hash(data: bytes, salt: bytes) -> str:
    return hashlib.scrypt(data, salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, dklen=32).hex()
