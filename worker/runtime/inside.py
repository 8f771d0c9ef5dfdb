"""Paths inside a root file system, resolved so that no symlink of an image leads out of it.

For roots in which nothing runs yet: between the look and the use nobody else changes them.
"""

import os
import stat
from pathlib import Path

_MAX_LINKS = 40


def resolve(root: Path, path: str) -> Path:
    """The host's path of `path` in `root`, with all symlinks followed as chroot would. It need not exist.

    Raises OSError (ELOOP) for a loop of symlinks.
    """
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    at: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del at[-1:]
            continue
        here = root.joinpath(*at, part)
        try:
            is_link = stat.S_ISLNK(here.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_link = False
        if not is_link:
            at.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(40, os.strerror(40), path)
        target = os.readlink(here)
        if target.startswith("/"):
            at.clear()
        pending.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
    return root.joinpath(*at)


def read_text(root: Path, path: str) -> str:
    """Text of a file of the image; empty when it is not there or no regular file."""
    file = resolve(root, path)
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return ""
        return file.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
