"""Whether the program a container is to run can be run at all, said before anything is started.

The kernel has one answer for a script without its interpreter, a program without its loader, and one of another
architecture, and it gives it inside the container. Looks at the image only: where a mount covers the program,
nothing is said.
"""

import os
import platform
import posixpath
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flota.worker.runtime import inside
from flota.worker.runtime.container import BadContainer

_HEAD = 4096
_BINFMT_MISC = Path("/proc/sys/fs/binfmt_misc")
_INTERPRETER = 3
_MACHINES = {2: "sparc", 3: "i386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64"}
_MACHINES |= {183: "aarch64", 243: "riscv64", 258: "loongarch64"}
# What a 64-bit machine runs beside its own.
_ALSO = {"x86_64": {"i386"}, "aarch64": {"arm"}}


def check(root: Path, program: str, directory: str, search: Sequence[str], covered: Callable[[str], bool]) -> None:
    """Look at `program` as a process in `directory` with PATH `search` would. Raises BadContainer.

    `covered` tells whether a path of the container is on a mount, and so not in the image.
    """
    places = [posixpath.join(directory, program)] if "/" in program else [f"{one}/{program}" for one in search]
    if any(map(covered, places)):
        return
    found = next((place for place in places if _is_there(root, place)), None)
    if found is None:
        where = "" if "/" in program else f" (PATH is {':'.join(search)})"
        raise BadContainer(f"the program to run, {program!r}, is not in the image{where}")
    file = inside.resolve(root, found)
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise BadContainer(f"the program to run, {found!r}, is not a file")
    if not mode & 0o111:
        raise BadContainer(f"the program to run, {found!r}, is not executable: its mode is {stat.S_IMODE(mode):04o}")
    with file.open("rb") as content:
        head = content.read(_HEAD)
    needed = _needed(found, head)
    if needed and not covered(needed) and not _is_there(root, needed):
        raise BadContainer(f"the program to run, {found!r}, needs {needed!r}, which is not in the image")


def _is_there(root: Path, path: str) -> bool:
    try:
        inside.resolve(root, path).lstat()
        return True
    except OSError:
        return False


def _needed(program: str, head: bytes) -> str:
    """The interpreter or loader the kernel will look for; empty for none. Raises BadContainer."""
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            raise BadContainer(f"the program to run, {program!r}, has an empty #! line")
        return os.fsdecode(words[0])
    if head.startswith(b"\x7fELF") and len(head) >= 64:
        return _loader(program, head)
    if not _other_formats():
        raise BadContainer(f"the program to run, {program!r}, is neither a program nor a script with a #! line")
    return ""


def _loader(program: str, head: bytes) -> str:
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    machine = _MACHINES.get(struct.unpack_from(f"{order}H", head, 18)[0], "another architecture")
    here = platform.machine()
    if machine != here and machine not in _ALSO.get(here, ()) and not _other_formats():
        raise BadContainer(f"the program to run, {program!r}, is made for {machine}; this node is {here}")
    for kind, offset, size in _segments(head, wide, order):
        if kind == _INTERPRETER and offset + size <= len(head):
            return os.fsdecode(head[offset : offset + size].rstrip(b"\0"))
    return ""


def _segments(head: bytes, wide: bool, order: str) -> Iterator[tuple[int, int, int]]:
    """Kind, offset, size of each segment that the head has."""
    (table,) = struct.unpack_from(f"{order}Q", head, 32) if wide else struct.unpack_from(f"{order}I", head, 28)
    entry, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
    # Kind, (flags,) offset, two addresses, size in the file.
    layout = struct.Struct(f"{order}I4xQ16xQ" if wide else f"{order}II8xI")
    for index in range(count):
        at = table + index * entry
        if at + layout.size > len(head):
            return
        yield layout.unpack_from(head, at)


def _other_formats() -> bool:
    """Whether the kernel was taught formats of its own (an emulator, say)."""
    try:
        return bool(set(os.listdir(_BINFMT_MISC)) - {"register", "status"})
    except OSError:
        return False
