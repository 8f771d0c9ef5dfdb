"""Mounting through the system calls: overlay roots, tmpfs, binds; and what is mounted below a directory.

An overlay's options must fit into one page however many layers there are, so layers are named relative to their
directory and the one mounting thread has a working directory of its own (unshare(CLONE_FS)). Nothing here belongs
on the event loop's thread.
"""

import asyncio
import ctypes
import errno
import os
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_SYS_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_CLONE_FS = 0x200
_MNT_DETACH = 2
_ESCAPE = re.compile(r"\\([0-7]{3})")

P = ParamSpec("P")
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def mount(source: str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    _check(_libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode() or None), target)


def unmount(target: Path) -> None:
    """Take away everything mounted at `target`, lazily. No error if nothing is."""
    while True:
        if _libc.umount2(os.fsencode(target), _MNT_DETACH) != 0:
            number = ctypes.get_errno()
            if number in (errno.EINVAL, errno.ENOENT):
                return
            raise OSError(number, os.strerror(number), str(target))


def secret_tmpfs(target: Path, size: int) -> None:
    """A file system in memory that no swap ever sees, where the kernel can promise that. Raises OSError."""
    data = f"mode=0700,size={size}"
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        mount("tmpfs", target, "tmpfs", flags, f"{data},noswap")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount("tmpfs", target, "tmpfs", flags, data)


def open_inside(root: Path, path: str, flags: int) -> int:
    """open(2) of a path below `root`, which others may change meanwhile: no symlink leads out of it. Raises OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
        found: int = _libc.syscall(_SYS_OPENAT2, top, os.fsencode(path), how, len(how))
        _check(min(found, 0), Path(path))
        return found
    finally:
        os.close(top)


def bind_inside(root: Path, path: str, target: Path) -> None:
    """Bind `path` of a directory that others may change meanwhile: no symlink leads out of it. Raises OSError.

    `target` is made, as a file or a directory as `path` is one.
    """
    found = open_inside(root, path, os.O_PATH)
    try:
        if os.path.isdir(f"/proc/self/fd/{found}"):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mount(f"/proc/self/fd/{found}", target, "", _MS_BIND | _MS_REC)
        mount("", target, "", _MS_PRIVATE | _MS_REC)
    finally:
        os.close(found)


def unmount_below(directory: Path) -> None:
    """Unmount everything at and below `directory`. Raises OSError."""
    # Looked at again until nothing is left: what were still mounted would be deleted with the rest.
    while found := below(directory):
        for target in found:
            unmount(target)


def delete(directory: Path) -> None:
    """Delete a directory in which nothing is mounted. No error if it is not there. Raises OSError."""
    for last in (False, False, True):
        try:
            shutil.rmtree(directory)
            return
        except RecursionError:
            # Containers can make directories deeper than Python's stack.
            subprocess.run(["rm", "-rf", "--one-file-system", "--", str(directory)], check=False)
        except OSError as error:
            # A monitor that ends puts a last file there, or renames one.
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or last:
                raise
        if not directory.exists():
            return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(directory))


def below(directory: Path) -> list[Path]:
    """Mount points at or below `directory` in this mount namespace, deepest first."""
    prefix = f"{directory}/"
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            target = line.split(" ", 5)[4]
            if "\\" in target:
                target = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), target)
            if target == str(directory) or target.startswith(prefix):
                found.append(Path(target))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at `path` itself, a bind of the same file system too."""
    return path in below(path)


def shared(path: Path) -> bool:
    """Whether mounts below `path` reach other mount namespaces (the mount it is on is a shared one)."""
    longest, result = "", False
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split(" ")
            target = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            if len(target) >= len(longest) and path.is_relative_to(target):
                longest, result = target, any(field.startswith("shared:") for field in fields[6 : fields.index("-", 6)])
    return result


class Mounter:
    """The mounting thread. `layers` is the directory that layers are named in."""

    def __init__(self, layers: Path) -> None:
        self._layers = layers
        self._thread = ThreadPoolExecutor(1, "mounter", initializer=self._own_directory)
        self._volatile = True

    def _own_directory(self) -> None:
        _check(_libc.unshare(_CLONE_FS), self._layers)
        self._layers.mkdir(parents=True, exist_ok=True)
        os.chdir(self._layers)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on the thread, one after the other."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *args, **kwargs))

    def overlay(
        self, target: Path, base: Path, layers: Sequence[str], upper: Path, work: Path, *, again: bool = False
    ) -> None:
        """On the thread: mount `base` and layers (names, lowest first) below a writable `upper`. Raises OSError.

        `again`: the same `upper` will be mounted again.
        """
        # The directory on top gives the root its owner and mode.
        top = os.stat(layers[-1] if layers else base)
        os.chown(upper, top.st_uid, top.st_gid)
        os.chmod(upper, stat.S_IMODE(top.st_mode))
        lower = ":".join([*reversed(layers), _escape(base)])
        data = f"lowerdir={lower},upperdir={_escape(upper)},workdir={_escape(work)}"
        if self._volatile and not again:
            # A root file system that is never used again after a crash: so nothing in it need be synced when it goes.
            try:
                mount("overlay", target, "overlay", 0, data + ",volatile")
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._volatile = False
        mount("overlay", target, "overlay", 0, data)

    def lowers(self, target: Path, base: Path, layers: Sequence[str]) -> None:
        """On the thread: mount `base` and layers as `overlay` does, for looking only. Raises OSError."""
        lower = ":".join([*reversed(layers), _escape(base)])
        mount("overlay", target, "overlay", MS_RDONLY, f"lowerdir={lower}")

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)


def _escape(path: Path) -> str:
    return re.sub(r"([\\:,])", r"\\\1", str(path))
