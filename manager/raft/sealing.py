"""Keys of the Raft directory: records are sealed under data keys, data keys are wrapped by one key-encryption key.

`keys.json` holds the wrapped data keys and, unlocked, the key-encryption key too (mode 0600; one file, so that
changing both is one step). With autolock that key is withheld and must be given at the start. Rotating it re-wraps
the data keys only; a new data key takes effect with the next segment, and old ones stay for what they sealed.

AES-256-GCM with random nonces (NIST SP 800-38D): far below 2^32 records are written under one key.
"""

import base64
import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flota.manager.raft.files import write_durably
from flota.manager.raft.interface import StorageCorrupt, StorageLocked

_NONCE = 12
KEYS = "keys.json"


def new_key() -> bytes:
    """A random 256-bit key."""
    return AESGCM.generate_key(256)


def _wrap(kek: bytes, key_id: str, key: bytes) -> str:
    nonce = os.urandom(_NONCE)
    return base64.b64encode(nonce + AESGCM(kek).encrypt(nonce, key, key_id.encode())).decode()


def _unwrap(kek: bytes, key_id: str, wrapped: str) -> bytes:
    raw = base64.b64decode(wrapped)
    try:
        return AESGCM(kek).decrypt(raw[:_NONCE], raw[_NONCE:], key_id.encode())
    except InvalidTag:
        raise StorageLocked(
            "the Raft directory is locked and this key does not open it: give the right unlock key"
        ) from None


class KeyRing:
    """Data keys of one directory; blocking calls, for the storage's thread or the start."""

    def __init__(self, directory: Path, kek: bytes, keys: dict[str, bytes], current: str, locked: bool) -> None:
        self._directory = directory
        self._kek = kek
        self._keys = keys
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.current = current
        self.locked = locked

    @classmethod
    def open(cls, directory: Path, kek: bytes | None = None) -> "KeyRing":
        """Read or make the keys. Raises StorageLocked (no or wrong key), StorageCorrupt."""
        path = directory / KEYS
        if not path.exists():
            key_id = os.urandom(8).hex()
            ring = cls(directory, kek or new_key(), {key_id: new_key()}, key_id, locked=kek is not None)
            ring._save()
            return ring
        try:
            stored = json.loads(path.read_text())
            wrapped: dict[str, str] = stored["keys"]
            current: str = stored["current"]
            open_kek = base64.b64decode(stored["kek"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageCorrupt(f"{path}: cannot be read ({error}); restore it from a backup") from None
        locked = not open_kek
        if locked and kek is None:
            raise StorageLocked("the Raft directory is locked: give the unlock key")
        used = kek if locked and kek is not None else open_kek
        keys = {key_id: _unwrap(used, key_id, text) for key_id, text in wrapped.items()}
        return cls(directory, used, keys, current, locked)

    def _save(self) -> None:
        wrapped = {key_id: _wrap(self._kek, key_id, key) for key_id, key in self._keys.items()}
        shown = "" if self.locked else base64.b64encode(self._kek).decode()
        text = json.dumps({"current": self.current, "kek": shown, "keys": wrapped}, indent=1)
        write_durably(self._directory / KEYS, text.encode(), mode=0o600)

    def rewrap(self, kek: bytes, locked: bool) -> None:
        """Take a new key-encryption key; `locked` keeps it off the disk."""
        old_kek, old_locked = self._kek, self.locked
        self._kek, self.locked = kek, locked
        try:
            self._save()
        except OSError:
            self._kek, self.locked = old_kek, old_locked
            raise

    def add_key(self) -> str:
        """Make a new data key the current one; gives back its id."""
        key_id, key = os.urandom(8).hex(), new_key()
        self._keys[key_id] = key
        self._ciphers[key_id] = AESGCM(key)
        self.current = key_id
        self._save()
        return key_id

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
