"""What a container changed against its image, read from its writable layer (overlayfs's upper directory).

A whiteout there (a character device 0/0) is a deletion, an opaque directory shows nothing of the one below it; both as
the kernel's filesystems/overlayfs.rst has them. Directories are opened by descriptor and no link is followed: the
container may be changing them meanwhile.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flota.v1.containers_pb2 import ContainerChangesResponse

_OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Change = ContainerChangesResponse.Change
MODIFIED = ContainerChangesResponse.KIND_MODIFIED
ADDED = ContainerChangesResponse.KIND_ADDED
DELETED = ContainerChangesResponse.KIND_DELETED


def changes(upper: Path, lower: Path) -> list[Change]:
    """By path; a directory in which something changed is modified. `lower` shows the image. Blocks. Raises OSError."""
    with _opened(str(upper)) as above, _opened(str(lower)) as below:
        found = list(_within(above, below, "")) if above is not None else []
    return sorted(found, key=lambda change: change.path.split("/"))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether it stands for nothing."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _within(above: int, below: int | None, path: str) -> Iterator[Change]:
    """Of a directory. `below` is the image's at the same path, if that is one that shows."""
    names = set(os.listdir(above))
    for name in names:
        try:
            status = os.lstat(name, dir_fd=above)
        except FileNotFoundError:
            continue
        yield from _of(name, status, above, below, f"{path}/{name}")
    if below is not None and _is_opaque(above):
        for name in set(os.listdir(below)) - names:
            yield Change(path=f"{path}/{name}", kind=DELETED)


def _of(name: str, status: os.stat_result, above: int, below: int | None, path: str) -> Iterator[Change]:
    before = _status(name, below)
    if is_whiteout(status):
        if before is not None:
            yield Change(path=path, kind=DELETED)
        return
    inner = list(_inside(name, above, below, path)) if stat.S_ISDIR(status.st_mode) else []
    if before is None:
        yield Change(path=path, kind=ADDED)
    elif inner or not (stat.S_ISDIR(before.st_mode) and _alike(before, status)):
        yield Change(path=path, kind=MODIFIED)
    yield from inner


def _inside(name: str, above: int, below: int | None, path: str) -> Iterator[Change]:
    with _opened(name, above) as here, _opened(name, below) as there:
        if here is not None:
            yield from _within(here, there, path)


def _status(name: str, directory: int | None) -> os.stat_result | None:
    if directory is None:
        return None
    try:
        return os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    """A directory that was only copied up is as it was."""
    return (one.st_mode, one.st_uid, one.st_gid, one.st_mtime_ns) == (
        other.st_mode,
        other.st_uid,
        other.st_gid,
        other.st_mtime_ns,
    )


def _is_opaque(directory: int) -> bool:
    with suppress(OSError):
        return os.getxattr(directory, _OPAQUE) == b"y"
    return False


@contextmanager
def _opened(name: str, directory: int | None = None) -> Iterator[int | None]:
    """A directory's descriptor; None if it is none (any longer), or there is none to look in."""
    if directory is None and not name.startswith("/"):
        yield None
        return
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
