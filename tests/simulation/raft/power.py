"""Losing power: of what was written only what was synced is certain.

`Disks` stands in for the kernel's syncs and remembers what each of them made durable. `run_into` lets a call end at any
of its syncs; `tear` then takes away what no sync had covered: the end of a file at a random byte, or a name.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest


class PowerCut(BaseException):
    """Nothing after this happens; no handler may go on as if it were an error."""


class Disks:
    """See the module's docstring."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sizes: dict[tuple[int, int], int] = {}
        self._names: dict[tuple[int, int], set[str]] = {}
        self._syncs_left: int | None = None

    def take_over(self, patch: pytest.MonkeyPatch) -> None:
        """From now on syncs are ours; nothing waits for a real disk."""
        patch.setattr(os, "fsync", self._sync)
        patch.setattr(os, "fdatasync", self._sync)

    def _sync(self, descriptor: int) -> None:
        if self._syncs_left is not None:
            if self._syncs_left == 0:
                raise PowerCut
            self._syncs_left -= 1
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_dev, found.st_ino] = set(os.listdir(descriptor))
        else:
            self._sizes[found.st_dev, found.st_ino] = found.st_size

    def run_into(self, call: Callable[[], Any]) -> None:
        """Run a call that power may end at any of its syncs."""
        self._syncs_left = self._random.randint(0, 3)
        try:
            with suppress(PowerCut, Exception):
                call()
        finally:
            self._syncs_left = None

    def tear(self, directory: Path) -> None:
        """Take away what no sync had covered, or some of it."""
        for folder in [directory, *sorted(path for path in directory.rglob("*") if path.is_dir())]:
            names = self._names.get(_key(folder))
            for path in sorted(path for path in folder.iterdir() if path.is_file()):
                if names is not None and path.name not in names and self._random.random() < 0.5:
                    path.unlink()
                    continue
                synced, size = self._sizes.get(_key(path), 0), path.stat().st_size
                if size > synced:
                    os.truncate(path, self._random.choice((synced, size, self._random.randint(synced, size))))


def _key(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
