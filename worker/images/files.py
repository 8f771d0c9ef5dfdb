"""Small files that survive a crash, whole or not at all; and small files called by their digests."""

import hashlib
import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` in the place of what is there; after a crash one of both is there. Raises OSError."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Blobs:
    """Manifests and configurations: DIRECTORY/sha256/HEX."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "sha256"

    def put(self, digest: str, data: bytes) -> None:
        """Keep `data`, whose digest it is. Raises OSError."""
        path = self._path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, data)

    def get(self, digest: str) -> bytes | None:
        """None when it is not there, or damaged."""
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None
        return data if f"sha256:{hashlib.sha256(data).hexdigest()}" == digest else None

    def keep_only(self, digests: set[str]) -> None:
        """Remove all others. Raises OSError."""
        wanted = {digest.removeprefix("sha256:") for digest in digests}
        if self._directory.is_dir():
            for name in os.listdir(self._directory):
                if name not in wanted:
                    (self._directory / name).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix("sha256:")
