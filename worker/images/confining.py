"""A thread that sees nothing but one directory: file system root and umask are its alone, after unshare(CLONE_FS)."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_CLONE_FS = 0x200
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def confined(directory: Path, lowers: Sequence[Path] = ()) -> Iterator[list[int]]:
    """Make `directory` the root of this thread for good. Gives descriptors of `lowers`, the last first."""
    below: list[int] = []
    try:
        for lower in reversed(lowers):
            below.append(os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        if _libc.unshare(_CLONE_FS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "unshare")
        os.chroot(directory)
        os.chdir("/")
        os.umask(0)
        yield below
    finally:
        for descriptor in below:
            os.close(descriptor)
