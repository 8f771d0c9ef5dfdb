"""Control groups of a lab: made, joined and removed in every hierarchy, version 1, 2 or both at once.

Version 2 lets only leaves hold processes once controllers are passed on, so a machine's own processes live in `init`
below its group there (`settle`). A version 2 tree beside version 1 ones only holds processes.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_LEAF = "init"


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree of control groups."""

    path: Path
    unified: bool
    # Mount options that make it again: controllers, or name=….
    options: str


def hierarchies() -> list[Hierarchy]:
    """All trees mounted on this machine."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, superblock = after.split(" ", 2)
        path = Path(before.split()[4])
        if kind in ("cgroup", "cgroup2") and path.is_relative_to(ROOT):
            words = [word for word in superblock.split(",") if word not in ("rw", "ro", "xattr")]
            options = ",".join(word for word in words if not word.startswith("release_agent="))
            found[path] = Hierarchy(path, kind == "cgroup2", options if kind == "cgroup" else "")
    return list(found.values())


def make(path: str) -> None:
    """Make the group `path` everywhere, ready to take processes."""
    trees = hierarchies()
    for tree in trees:
        group = tree.path
        for part in path.split("/"):
            if tree.unified and len(trees) == 1:
                _pass_controllers_on(group)
            group /= part
            group.mkdir(exist_ok=True)
            if "cpuset" in tree.options.split(","):
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if not (group / name).read_text().strip():
                        (group / name).write_text((group.parent / name).read_text())


def enter(path: str) -> None:
    """Move the calling process to the group `path` everywhere."""
    for tree in hierarchies():
        (tree.path / path / "cgroup.procs").write_text("0")


def settle(root: Path) -> None:
    """Within a version 2 tree whose root is the process's own group: leave the root to its children."""
    leaf = root / _LEAF
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text("0")
    _pass_controllers_on(root)


def _pass_controllers_on(group: Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        with suppress(OSError):  # Some cannot be passed on, and nobody needs them then.
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(path: str, limit: float = 30.0) -> None:
    """Remove the group `path` and all below it, everywhere. Its processes must be dead."""
    deadline = time.monotonic() + limit
    for tree in hierarchies():
        for group in _below(tree.path / path):
            while group.exists():
                try:
                    group.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)  # The kernel lets go of the dead a little later.


def remove_if_empty(path: str) -> None:
    """Remove the group `path` where nothing is in it."""
    for tree in hierarchies():
        with suppress(OSError):
            (tree.path / path).rmdir()


def _below(group: Path) -> Iterator[Path]:
    """`group` and all groups in it, the deepest first."""
    for directory, _, _ in os.walk(group, topdown=False):
        yield Path(directory)
