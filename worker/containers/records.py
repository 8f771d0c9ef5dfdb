"""What a node must not forget: messages of one kind, each in a file of its own, replaced as a whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message

_log = structlog.get_logger("containers")
M = TypeVar("M", bound=Message)


class Records(Generic[M]):
    """The files of `directory`, each called what the message in it is called."""

    def __init__(self, directory: Path, kind: type[M]) -> None:
        """Raises OSError."""
        self._directory = directory
        self._kind = kind
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def all(self) -> Iterator[M]:
        """Every message that can be read."""
        for file in sorted(self._directory.iterdir()):
            if file.suffix:
                continue
            try:
                yield self._kind.FromString(file.read_bytes())
            except (DecodeError, OSError) as error:
                _log.warning("a record cannot be read", path=str(file), reason=str(error))

    def save(self, id: str, message: M) -> None:
        """Keep the message in the place of what was there. Raises OSError."""
        scratch = self._directory / f"{id}.new"
        scratch.write_bytes(message.SerializeToString())
        scratch.replace(self._directory / id)

    def delete(self, id: str) -> None:
        """Forget it. Raises OSError."""
        (self._directory / id).unlink(missing_ok=True)
