"""Mounting through the system calls: overlay roots, tmpfs, binds; and what is mounted below a directory.

An overlay's options must fit into one page however many layers there are, so layers are named relative to their
directory and the one mounting thread has a working directory of its own (unshare(CLONE_FS)). Nothing here runs
on the event loop's thread but `below`.
"""

import asyncio
import ctypes
import errno
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
_CLONE_FS = 0x200
_MNT_DETACH = 2
_ESCAPE = re.compile(r"\\([0-7]{3})")

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


def below(directory: Path) -> list[Path]:
    """Mount points at or below `directory` in this mount namespace, deepest first."""
    prefix = f"{directory}/"
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            target = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split(" ", 5)[4])
            if target == str(directory) or target.startswith(prefix):
                found.append(Path(target))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


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

    async def overlay(self, target: Path, layers: Sequence[str], upper: Path, work: Path) -> None:
        """Mount layers (names, lowest first) below a writable `upper` at `target`. Raises OSError."""
        await asyncio.get_running_loop().run_in_executor(
            self._thread, self._overlay, target, tuple(layers), upper, work
        )

    def _overlay(self, target: Path, layers: tuple[str, ...], upper: Path, work: Path) -> None:
        data = f"lowerdir={':'.join(reversed(layers))},upperdir={_escape(upper)},workdir={_escape(work)}"
        if self._volatile:
            # A root file system is never used again after a crash, so nothing in it need be synced when it goes.
            try:
                mount("overlay", target, "overlay", 0, data + ",volatile")
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._volatile = False
        mount("overlay", target, "overlay", 0, data)

    async def unmount(self, *targets: Path) -> None:
        """Unmount each, lazily."""

        def all_of_them() -> None:
            for target in targets:
                unmount(target)

        await asyncio.get_running_loop().run_in_executor(self._thread, all_of_them)

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)


def _escape(path: Path) -> str:
    return re.sub(r"([\\:,])", r"\\\1", str(path))
