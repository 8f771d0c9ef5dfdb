"""Files in and out of a container, as `docker cp` copies them: a program of its own, run in the container's root.

    python -m flota.worker.containers.archive ROOT stat|read|write PATH [keep-kinds]
    python -m flota.worker.containers.archive ROOT export|layer

It makes ROOT its own root directory before it looks at anything, so that no symbolic link of the container leads
anywhere else. `stat` and `read` write one line of JSON that tells of PATH, `read` then a tar of it; `write` unpacks the
tar on its standard input into the directory PATH, and with keep-kinds puts no file in the place of a directory, nor a
directory in the place of a file. What went wrong is one line on standard error; the exit status is 2 for a path that is
not there, 3 for one that cannot be used so.
"""

# What tarfile imports when it needs it: in the container's root there is no Python to import from.
import bz2  # noqa: F401
import gzip  # noqa: F401
import json
import lzma  # noqa: F401
import os
import stat
import sys
import tarfile
from pathlib import Path

MISSING, UNFIT = 2, 3
_OPAQUE, _REDIRECT, _CAPABILITY = "trusted.overlay.opaque", "trusted.overlay.redirect", "security.capability"
# Go's os.FileMode: what tools know kinds of files by.
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: (1 << 26) | (1 << 21),
}


def _described(path: Path) -> dict[str, object]:
    found = path.lstat()
    target = os.readlink(path) if path.is_symlink() else ""
    return {
        "name": path.name or "/",
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode) & 0o777 | _KINDS.get(stat.S_IFMT(found.st_mode), 0),
        "seconds": int(found.st_mtime),
        # What clients then ask for must be absolute.
        "linkTarget": os.path.normpath(path.parent / target) if target else "",
    }


def _read(path: Path) -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        # (Sockets are left out by tarfile itself.)
        archive.add(path, arcname=path.name or ".")


def _write(directory: Path, *, keep_kinds: bool) -> None:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*") as archive:
        for member in archive:
            if keep_kinds:
                _check_kind(directory / member.name, member)
            archive.extract(member, directory, numeric_owner=True, filter="fully_trusted")


def _export() -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for folder, directories, files in os.walk("/"):
            for name in sorted([*directories, *files]):
                _add(archive, Path(folder, name))


def _layer() -> None:
    """Deletions become files called .wh.NAME, what hides a whole directory below .wh..wh..opq in it."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for folder, directories, files in os.walk("/"):
            if _attribute(folder, _REDIRECT):
                raise OSError(f"{folder} was renamed in a way that cannot be told in a layer")
            if folder != "/" and _attribute(folder, _OPAQUE) == b"y":
                archive.addfile(tarfile.TarInfo(f"{folder}/.wh..wh..opq".lstrip("/")))
            for name in sorted([*directories, *files]):
                path = Path(folder, name)
                found = path.lstat()
                if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                    archive.addfile(tarfile.TarInfo(str(Path(folder, f".wh.{name}")).lstrip("/")))
                else:
                    _add(archive, path)


def _add(archive: tarfile.TarFile, path: Path) -> None:
    """One entry, with the privileges that a file gives."""
    try:
        entry = archive.gettarinfo(str(path), str(path).lstrip("/"))
    except FileNotFoundError:
        # Gone meanwhile.
        return
    if entry is None:
        # A socket.
        return
    if entry.isreg():
        if capability := _attribute(str(path), _CAPABILITY):
            value = capability.decode("utf-8", "surrogateescape")
            entry.pax_headers = {f"SCHILY.xattr.{_CAPABILITY}": value}
        with path.open("rb") as content:
            archive.addfile(entry, content)
    else:
        archive.addfile(entry)
    # It would remember them all.
    archive.members.clear()  # type: ignore[attr-defined]


def _attribute(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return b""


def _check_kind(there: Path, member: tarfile.TarInfo) -> None:
    if there.is_symlink() or not there.exists() or there.is_dir() == member.isdir():
        return
    kind, other = ("directory", "non-directory") if there.is_dir() else ("non-directory", "directory")
    raise NotADirectoryError(f"cannot overwrite {kind} {there} with {other}")


def main(root: str, work: str, name: str = "", *more: str) -> int:
    """Gives the exit status."""
    os.chroot(root)
    os.chdir("/")
    if work in ("export", "layer"):
        (_export if work == "export" else _layer)()
        return 0
    path = Path("/") / name
    if not os.path.lexists(path):
        print(f"Could not find the file {name} in container", file=sys.stderr)
        return MISSING
    if work == "write":
        if not path.is_dir():
            print("extraction point is not a directory", file=sys.stderr)
            return UNFIT
        _write(path, keep_kinds="keep-kinds" in more)
        return 0
    print(json.dumps(_described(path)), flush=True)
    if work == "read":
        _read(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        sys.exit(UNFIT)
