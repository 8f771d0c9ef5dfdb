"""Content that a person gives as a file or on standard input (-)."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from flota.cli.failures import BadFlag, CommandFailed


def open_file(path: str) -> BinaryIO:
    """A file to read, - for standard input. Raises CommandFailed."""
    if path == "-":
        if sys.stdin.isatty():
            raise BadFlag("standard input is a terminal: name a file, or pipe something in")
        return sys.stdin.buffer
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory")
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from None
    return file


def read_content(path: str, what: str, limit: int) -> bytes:
    """All of a file, - for standard input; `limit` bytes are too many already. Raises CommandFailed."""
    file = open_file(path)
    try:
        data = file.read(limit)
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from None
    finally:
        if path != "-":
            file.close()
    if len(data) == limit:
        raise CommandFailed(f"{path} is too large for a {what}: less than {limit:,} bytes are allowed")
    return data
