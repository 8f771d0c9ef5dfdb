"""What the command line keeps about a stack in the cluster: its revisions, and whose turn it is to deploy.

Both are configs with the stack's label and the label of flota.v1.stack_records.
A revision's content is a StackRevision, compressed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.stack_pb2 import StackRevision

REVISION, TURN = "revision", "turn"
# What came of a revision: converged, or why not.
OUTCOME = "flota.stack.outcome"
# A config's limit; less than this.
MOST_BYTES = 1000 << 10
# What a damaged or malicious record may unpack to.
_MOST_UNPACKED = 64 << 20
_LONGEST_STACK = 40


def record_name(stack: str, ending: str) -> str:
    """The name of a record; long stack names are shortened and told apart by a hash."""
    if len(stack) > _LONGEST_STACK:
        stack = f"{stack[:_LONGEST_STACK]}-{hashlib.sha256(stack.encode()).hexdigest()[:8]}"
    return f"{stack}.{ending}"


def pack(revision: StackRevision) -> bytes:
    """A revision as a config's content."""
    return zlib.compress(revision.SerializeToString(deterministic=True), 9)


def unpack(data: bytes) -> StackRevision | None:
    """The revision in a config's content; None when it is none."""
    unpacker = zlib.decompressobj()
    try:
        whole = unpacker.decompress(data, _MOST_UNPACKED)
        return StackRevision.FromString(whole) if not unpacker.unconsumed_tail else None
    except (zlib.error, DecodeError):
        return None


def without_credentials(specs: Iterable[ServiceSpec]) -> list[ServiceSpec]:
    """Copies of specs as they may be kept."""
    kept = []
    for spec in specs:
        copy = ServiceSpec()
        copy.CopyFrom(spec)
        copy.task.container.registry_auth = ""
        kept.append(copy)
    return kept


def referenced(revisions: Iterable[StackRevision]) -> tuple[set[str], set[str]]:
    """The names of the secrets and of the configs that revisions need."""
    secrets: set[str] = set()
    configs: set[str] = set()
    for revision in revisions:
        for spec in revision.services:
            secrets |= {each.secret_name for each in spec.task.container.secrets}
            configs |= {each.config_name for each in spec.task.container.configs}
    return secrets, configs
