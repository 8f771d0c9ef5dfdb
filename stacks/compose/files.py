"""Reading the files that a deploy is made of. Raises ComposeError, never OSError."""

from __future__ import annotations

from flota.stacks.compose.tree import Spot
from flota.stacks.errors import ComposeError

MAX_BYTES = 16 << 20


def read_bytes(path: str, asked_at: Spot | None = None) -> bytes:
    """A file's content; `asked_at` is the key that names it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if asked_at is not None:
            raise asked_at.error(f"cannot read {path}: {reason}") from None
        raise ComposeError(f"cannot read it: {reason}", path) from None
    if len(data) > MAX_BYTES:
        raise ComposeError(f"the file is larger than {MAX_BYTES >> 20} MiB", path)
    return data


def read_text(path: str, asked_at: Spot | None = None, shown: str = "") -> str:
    """A file's content as text. `shown` is how the file is called in errors about its content."""
    data = read_bytes(path, asked_at)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ComposeError("it is not text in UTF-8", shown or path, line) from None
