"""Keys of the Raft directory: records are sealed under data keys, data keys are wrapped by one key-encryption key.

`keys.json` holds the wrapped data keys and, unlocked, the key-encryption key too (mode 0600; one file, so that
changing everything is one step). With autolock that key is withheld and must be given at the start. `renew` takes
another key-encryption key and makes a new data key, which takes effect with the next segment and snapshot; old ones
stay until nothing is sealed with them any more, and then they are forgotten.

The file also holds identity secrets, wrapped alike: what the daemon seals the key of this node's certificate with
while the directory is locked. The newest is last; the one before it stays for a daemon that lost power in between.

AES-256-GCM with random nonces (NIST SP 800-38D): far below 2^32 records are written under one key.
"""

import base64
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flota.manager.raft.files import write_durably
from flota.manager.raft.interface import StorageCorrupt, StorageLocked

_NONCE = 12
_SECRETS_KEPT = 2
_SECRET_LABEL = "identity"
KEYS = "keys.json"


def new_key() -> bytes:
    """A random 256-bit key."""
    return AESGCM.generate_key(256)


def wrap(kek: bytes, label: str, key: bytes) -> str:
    """A key under a key-encryption key; `label` binds it to its use."""
    nonce = os.urandom(_NONCE)
    return base64.b64encode(nonce + AESGCM(kek).encrypt(nonce, key, label.encode())).decode()


def unwrap(kek: bytes, label: str, wrapped: str) -> bytes:
    """The key that was wrapped. Raises InvalidTag."""
    raw = base64.b64decode(wrapped)
    return AESGCM(kek).decrypt(raw[:_NONCE], raw[_NONCE:], label.encode())


class KeyRing:
    """Keys of one directory; blocking calls, for the storage's thread or the start."""

    def __init__(
        self, directory: Path, kek: bytes, keys: dict[str, bytes], current: str, locked: bool, secrets: list[bytes]
    ) -> None:
        self._directory = directory
        self._keys = keys
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.kek = kek
        self.current = current
        self.locked = locked
        self.identity_secrets = secrets

    @classmethod
    def open(cls, directory: Path, keks: Sequence[bytes] = ()) -> "KeyRing":
        """Read or make the keys; of `keks` the one that fits is used. Raises StorageLocked (none fits), StorageCorrupt.

        A new directory is unlocked: whether it is to be locked is known once the cluster's state is in it.
        """
        path = directory / KEYS
        if not path.exists():
            key_id = os.urandom(8).hex()
            ring = cls(directory, new_key(), {key_id: new_key()}, key_id, False, [new_key()])
            ring._save()
            return ring
        try:
            stored = json.loads(path.read_text())
            wrapped: dict[str, str] = stored["keys"]
            current: str = stored["current"]
            secrets: list[str] = stored.get("secrets", [])
            shown = base64.b64decode(stored["kek"])
            tried = ((kek, _open(kek, wrapped, secrets)) for kek in ([shown] if shown else keks))
            opened = [(kek, *found) for kek, found in tried if found is not None]
            if shown and not opened:
                raise ValueError("its key-encryption key does not fit")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageCorrupt(f"{path}: cannot be read ({error}); restore it from a backup") from None
        if not opened:
            needed = "this key does not open it: give the right unlock key" if keks else "give the unlock key"
            raise StorageLocked(f"the Raft directory is locked: {needed}")
        kek, keys, plain = opened[0]
        return cls(directory, kek, keys, current, not shown, plain)

    @staticmethod
    def is_locked(directory: Path) -> bool:
        """Whether a key from outside is needed to read the directory. Damage is left for `open` to tell."""
        try:
            return not json.loads((directory / KEYS).read_text())["kek"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _save(self) -> None:
        stored = {
            "current": self.current,
            "kek": "" if self.locked else base64.b64encode(self.kek).decode(),
            "keys": {key_id: wrap(self.kek, key_id, key) for key_id, key in self._keys.items()},
            "secrets": [wrap(self.kek, _SECRET_LABEL, secret) for secret in self.identity_secrets],
        }
        write_durably(self._directory / KEYS, json.dumps(stored, indent=1).encode(), mode=0o600)

    def renew(self, kek: bytes | None) -> None:
        """A new key-encryption key, kept off the disk (None: a random one, kept on it), and new keys under it.

        Raises OSError, and then nothing has changed.
        """
        key_id, key = os.urandom(8).hex(), new_key()
        ring = KeyRing(
            self._directory,
            kek or new_key(),
            {**self._keys, key_id: key},
            key_id,
            kek is not None,
            [*self.identity_secrets, new_key()][-_SECRETS_KEPT:],
        )
        ring._save()
        self.kek, self.locked, self.identity_secrets = ring.kek, ring.locked, ring.identity_secrets
        # Others seal meanwhile: what is current must be there.
        self._keys, self._ciphers = ring._keys, ring._ciphers
        self.current = key_id

    @property
    def ids(self) -> list[str]:
        """Ids of all data keys."""
        return list(self._keys)

    def forget_all_but(self, used: Collection[str]) -> None:
        """Drop the data keys that nothing is sealed with any more. Raises OSError."""
        before = self._keys
        kept = {key_id: key for key_id, key in before.items() if key_id in used or key_id == self.current}
        if len(kept) == len(before):
            return
        self._keys = kept
        try:
            self._save()
        except OSError:
            self._keys = before
            raise
        self._ciphers = {key_id: self._ciphers[key_id] for key_id in kept}

    def knows(self, key_id: str) -> bool:
        """Whether records under this key can be opened."""
        return key_id in self._ciphers

    def seal(self, key_id: str, plain: bytes, place: bytes) -> bytes:
        """Encrypt; `place` binds the result to where it stands."""
        nonce = os.urandom(_NONCE)
        return nonce + self._ciphers[key_id].encrypt(nonce, plain, place)

    def unseal(self, key_id: str, sealed: bytes, place: bytes) -> bytes:
        """Decrypt. Raises InvalidTag."""
        return self._ciphers[key_id].decrypt(sealed[:_NONCE], sealed[_NONCE:], place)


def _open(kek: bytes, wrapped: dict[str, str], secrets: list[str]) -> tuple[dict[str, bytes], list[bytes]] | None:
    """Everything under `kek`; None when it is another one."""
    try:
        keys = {key_id: unwrap(kek, key_id, text) for key_id, text in wrapped.items()}
        return keys, [unwrap(kek, _SECRET_LABEL, text) for text in secrets]
    except InvalidTag:
        return None
