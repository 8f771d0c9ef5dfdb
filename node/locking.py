"""Autolock, as the daemon sees it: what of this node must not lie on its disk in clear, and how it is opened again.

The manager process locks its Raft directory by itself and tells us (ManagerHere). What is ours is the key of the
node's certificate: while the directory is locked it is sealed on the disk (PKCS#8, under an identity secret that the
locked `keys.json` holds), and in clear only below the run directory, which is memory, where our processes read it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flota.manager.raft.interface import StorageCorrupt, StorageLocked
from flota.manager.raft.sealing import KEYS, KeyRing
from flota.v1.local_pb2 import ManagerReport

# Docker's words.
LOCKED = (
    'Swarm is encrypted and needs to be unlocked before it can be used. Please use "flota swarm unlock" to unlock it.'
)


@dataclass(frozen=True)
class Keys:
    """What the daemon keeps in memory for its manager; never written anywhere."""

    # May open the Raft directory; the newest last.
    unlock_keys: tuple[bytes, ...] = ()
    # Whether a key from outside is needed for that.
    locked: bool = False
    # The last one seals the certificate's key next time.
    secrets: tuple[bytes, ...] = ()

    @classmethod
    def of_report(cls, report: ManagerReport) -> "Keys":
        """What the manager process says."""
        return cls(tuple(report.unlock_keys), report.locked, tuple(report.identity_secrets))

    @classmethod
    def of_directory(cls, raft: Path, unlock_keys: Sequence[bytes] = ()) -> "Keys":
        """What the Raft directory says; blocking. Raises StorageLocked (no or wrong key), StorageCorrupt."""
        if not (raft / KEYS).exists():
            return cls()
        ring = KeyRing.open(raft, unlock_keys)
        return cls((ring.kek,) if ring.locked else (), ring.locked, tuple(ring.identity_secrets))

    def on_disk(self, key_pem: bytes, is_manager: bool) -> bytes:
        """The certificate's key as it may be written to the disk."""
        return seal(key_pem, self.secrets[-1]) if self.locked and is_manager and self.secrets else key_pem

    def opened(self, key_pem: bytes) -> bytes:
        """The certificate's key in clear. Raises ValueError when no secret fits."""
        if not is_sealed(key_pem):
            return key_pem
        for secret in reversed(self.secrets):
            try:
                return _pem(key_pem, secret)
            except ValueError:
                continue
        raise ValueError("key.pem is sealed, and nothing here opens it")

    def is_right(self, key_pem: bytes, is_manager: bool) -> bool:
        """Whether what is on the disk is as it should be."""
        if not (self.locked and is_manager and self.secrets):
            return not is_sealed(key_pem)
        try:
            return is_sealed(key_pem) and bool(_pem(key_pem, self.secrets[-1]))
        except ValueError:
            return False


def is_sealed(key_pem: bytes) -> bool:
    """Whether a private key needs a secret to be read."""
    return b"BEGIN ENCRYPTED PRIVATE KEY" in key_pem


def seal(key_pem: bytes, secret: bytes) -> bytes:
    """A private key that is worth nothing without `secret`."""
    key = load_pem_private_key(key_pem, None)
    encryption = BestAvailableEncryption(secret.hex().encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _pem(key_pem: bytes, secret: bytes) -> bytes:
    key = load_pem_private_key(key_pem, secret.hex().encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def needs_key(raft: Path, unlock_keys: Sequence[bytes]) -> bool:
    """Whether the Raft directory does not open with these keys."""
    try:
        await asyncio.to_thread(Keys.of_directory, raft, unlock_keys)
    except StorageLocked:
        return True
    except (StorageCorrupt, OSError):
        pass
    return False
