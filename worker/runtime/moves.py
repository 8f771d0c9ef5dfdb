"""Moves between control groups that hold up nobody: the kernel's option `favordynmods`, for the whole machine.

A process that is written to `cgroup.procs` moves when no process of the machine is in the middle of a fork, an exec
or an exit, and none may begin one meanwhile. Whoever waited for that is let in by the kernel before it gets a
processor: a container that forks at its limit, with a small share of the processors, has dozens of processes there, and
the next move waits for each of them, and with it every fork and every thread of the machine. Measured on two cores with
much to do, 100 such processes: 10 s for one move, 2 s for a fork (docs/containers.md).

Since Linux 6.18 that lock is each process's own when the option is set, on all hierarchies of v1 too; which stays so
until the next boot. Before 6.18 the option only makes moves quicker and forks slower, so it is left alone.

The option belongs to the one tree of cgroup v2, wherever that is mounted, if it is. It can be set from the machine's
first cgroup namespace alone.
"""

import ctypes
import logging
import os
import re
from collections.abc import Set
from pathlib import Path

_SINCE = (6, 18)
_OPTION = "favordynmods"
# What any file system is shown with: not the tree's own options, which a mount sets all at once.
_NOT_ITS_OWN = {"rw", "ro", "sync", "dirsync", "lazytime", "seclabel"}
# include/uapi/linux/nsfs.h and proc_ns.h: the number of the namespace that the kernel starts with.
_FIRST_CGROUP_NAMESPACE = 0xEFFFFFFB
# The same on all architectures; glibc has functions since 2.36 only.
_SYS_FSOPEN, _SYS_FSCONFIG = 430, 431
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_CMD_CREATE = 0, 6

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


def free(proc: Path = Path("/proc")) -> bool:
    """Have moves hold up nobody, where the kernel can. Whether the option is set: no move is slow by itself then."""
    try:
        options = options_of_tree(proc)
        if _OPTION not in options and can(proc):
            _set(options | {_OPTION})
            log.info("forks wait no longer for moves between control groups: %s is set until the next boot", _OPTION)
            return True
        return _OPTION in options
    except OSError as error:
        log.warning("%s could not be set, so a container that forks much can hold up this machine: %s", _OPTION, error)
        return False


def _set(options: Set[str]) -> None:
    # Nothing is mounted by it, but it does to the tree what a mount does: what is not said is not set any longer.
    descriptor = _call(_SYS_FSOPEN, b"cgroup2", _FSOPEN_CLOEXEC)
    try:
        for option in sorted(options):
            _call(_SYS_FSCONFIG, descriptor, _FSCONFIG_SET_FLAG, option.encode(), None, 0)
        _call(_SYS_FSCONFIG, descriptor, _FSCONFIG_CMD_CREATE, None, None, 0)
    finally:
        os.close(descriptor)


def can(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel is new enough and this process where it may set options."""
    release = re.match(r"(\d+)\.(\d+)", (proc / "sys/kernel/osrelease").read_text())
    if release is None or tuple(map(int, release.groups())) < _SINCE:
        return False
    return (proc / "self/ns/cgroup").stat().st_ino == _FIRST_CGROUP_NAMESPACE


def options_of_tree(proc: Path = Path("/proc")) -> set[str]:
    """Those of the tree as it is mounted here, or where the machine's first process is."""
    for process in ("self", "1"):
        for line in (proc / process / "mountinfo").read_text().splitlines():
            kind, _, options = line.partition(" - ")[2].split(" ", 2)
            if kind == "cgroup2":
                return {one for one in options.split(",") if one not in _NOT_ITS_OWN and "=" not in one}
    return set()


def _call(number: int, *arguments: bytes | int | None) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{_OPTION}: {os.strerror(code)}")
    return result
