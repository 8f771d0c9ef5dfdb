"""One layer: a tar becomes a directory that overlayfs takes as a lower layer.

The format is the OCI image specification's layer.md; what overlayfs wants is in the kernel's filesystems/overlayfs.rst:
a whiteout (`.wh.NAME`) becomes a character device 0/0, an opaque directory carries `trusted.overlay.opaque`.

A thread of its own unpacks, chrooted into the directory (file system root and umask are the thread's alone, after
unshare(CLONE_FS)): whatever names and links the tar has, nothing outside is reached. The calling thread meanwhile
reads, decompresses and hashes. What a layer leaves out, it has from the layers below it: the attributes of directories
that have no entry of their own, and the files that its hard links name.

Nothing here looks at what is done with the directory; who calls throws it away when unpacking fails.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from queue import Queue
from typing import Any, BinaryIO, TypeVar

from flota.worker.images import recipe
from flota.worker.images.attributes import chown, copy_attributes, set_time, set_xattr
from flota.worker.images.chunks import CHUNK, ChunkStream
from flota.worker.images.compression import Damaged, Readable
from flota.worker.images.confining import confined
from flota.worker.images.errors import FULL, BadLayer
from flota.worker.images.lowers import OPAQUE_ATTRIBUTE, find_below

_CHUNKS_AHEAD = 4
_BLOCK = 512
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# What union file systems before overlayfs kept for themselves.
_OTHERS_OWN = ".wh..wh."
_XATTR = "SCHILY.xattr."
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# About what a signed 64-bit count of nanoseconds holds.
_LAST_TIME = 1 << 62

T = TypeVar("T")


@dataclass(frozen=True)
class Unpacked:
    """What came out of a tar."""

    # sha256:… of the plain tar.
    diff_id: str
    # Bytes of all its files, and of the tar.
    size: int
    tar_size: int


def unpack(
    tar: Readable, directory: Path, lowers: Sequence[Path] = (), recipe_file: BinaryIO | None = None
) -> Unpacked:
    """Unpack a plain tar into an empty directory. `lowers` are the layers below it, lowest first.

    How to make the tar again is written to `recipe_file`.

    Takes as long as it takes: call it in a thread. Raises BadLayer, OSError (no space left, …).
    """
    chunks: Queue[bytes | None] = Queue(_CHUNKS_AHEAD)
    failure: list[Exception] = []
    sizes: list[int] = []

    def take() -> None:
        stream = ChunkStream(chunks, recipe.Writer(recipe_file) if recipe_file is not None else None)
        try:
            with confined(directory, lowers) as below:
                sizes.append(_Layer(stream, below).unpack())
                stream.finish()
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            failure.append(error)
        stream.skip_all()

    thread = threading.Thread(target=take, name="unpack")
    thread.start()
    digest, length = hashlib.sha256(), 0
    try:
        while not failure and (chunk := tar.read(CHUNK)):
            digest.update(chunk)
            length += len(chunk)
            chunks.put(chunk)
    except Damaged as error:
        raise BadLayer(str(error)) from None
    finally:
        chunks.put(None)
        thread.join()
    if failure:
        raise failure[0]
    return Unpacked(f"sha256:{digest.hexdigest()}", sizes[0], length)


def total_size(directory: Path | str) -> int:
    """Bytes of all files in a directory, of those with several names once. Blocks."""
    total = 0
    seen: set[int] = set()
    for folder, _, files in os.walk(directory):
        for file in files:
            try:
                status = os.lstat(os.path.join(folder, file))
            except FileNotFoundError:
                # It is in use, and changes.
                continue
            if stat.S_ISREG(status.st_mode) and status.st_ino not in seen:
                total += status.st_size
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
    return total


class _Layer:
    """The layer in the making. All paths are relative to the current directory, which is the thread's root."""

    def __init__(self, stream: ChunkStream, below: list[int]) -> None:
        self._stream = stream
        self._below = below
        # Directories that are there, whether made by us or reached through a link.
        self._known: set[str] = {""}
        # Times of directories, set when nothing is made in them any more.
        self._times: dict[str, int] = {}
        # Directories that had to be made without an entry of their own.
        self._implied: dict[str, None] = {}
        self._whiteouts: set[str] = set()
        self._opaque: set[str] = set()
        self._size = 0
        self._replaced = False

    def unpack(self) -> int:
        """Raises BadLayer, OSError."""
        try:
            archive = tarfile.TarFile(fileobj=self._stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
            while (entry := archive.next()) is not None:
                # It would remember them all.
                archive.members.clear()  # type: ignore[attr-defined]
                self._take(entry)
        except tarfile.TarError as error:
            raise BadLayer(f"it is not a tar archive: {error}") from None
        if any(self._stream.last):
            raise BadLayer(f"the archive is damaged at byte {self._stream.tell() - len(self._stream.last)}")
        try:
            for path in self._implied:
                self._inherit(path)
            for path, time in self._times.items():
                set_time(path or ".", time)
        except OSError as error:
            raise BadLayer(f"directory {path!r}: {error.strerror}") from None
        return total_size(".") if self._replaced else self._size

    def _take(self, entry: tarfile.TarInfo) -> None:
        try:
            path = _clean(entry.name)
            folder, _, base = path.rpartition("/")
            if folder not in self._known:
                self._make_parents(folder)
            if base.startswith(_WHITEOUT):
                self._white_out(folder, base)
            else:
                self._make(entry, path)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise BadLayer(f"entry {entry.name!r}: {error.strerror}") from None
        except ValueError as error:
            raise BadLayer(f"entry {entry.name!r}: {error}") from None

    # Entries.

    def _make(self, entry: tarfile.TarInfo, path: str) -> None:
        mode = entry.mode & 0o7777
        if entry.isdir():
            self._make_directory(entry, path)
        elif not path:
            raise ValueError("the root of a layer is a directory")
        elif entry.isreg():
            descriptor = self._place(path, lambda: os.open(path, _NEW_FILE, mode & 0o777))
            try:
                self._fill(descriptor, entry, path)
                self._dress(descriptor, entry)
            finally:
                os.close(descriptor)
        elif entry.issym():
            self._place(path, lambda: os.symlink(entry.linkname, path))
            self._dress(path, entry)
        elif entry.islnk():
            self._link(_clean(entry.linkname), path)
        elif entry.ischr() or entry.isblk() or entry.isfifo():
            kind = stat.S_IFCHR if entry.ischr() else stat.S_IFBLK if entry.isblk() else stat.S_IFIFO
            device = os.makedev(entry.devmajor, entry.devminor)
            self._place(path, lambda: os.mknod(path, kind | mode & 0o777, device))
            self._dress(path, entry)
        else:
            raise ValueError(f"unknown type {entry.type!r}")

    def _make_directory(self, entry: tarfile.TarInfo, path: str) -> None:
        if path:
            try:
                self._mkdir(path, entry.mode & 0o777)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    self._clear(path)
                    self._mkdir(path, entry.mode & 0o777)
            self._known.add(path)
            self._implied.pop(path, None)
        self._dress(path or ".", entry)
        os.chmod(path or ".", entry.mode & 0o7777)
        self._times[path] = _time(entry)

    def _mkdir(self, path: str, mode: int) -> None:
        """A directory in the place of one of the lower layers shows nothing of it."""
        os.mkdir(path, mode)
        if path in self._whiteouts:
            self._whiteouts.discard(path)
            self._make_opaque(path)

    def _fill(self, descriptor: int, entry: tarfile.TarInfo, path: str) -> None:
        self._size += entry.size
        self._stream.seek(entry.offset_data)
        holes: list[tuple[int, int]] | None = getattr(entry, "sparse", None)
        if holes is None:
            self._stream.copy(descriptor, path, 0, entry.size)
            return
        for offset, size in holes:
            os.lseek(descriptor, offset, os.SEEK_SET)
            self._stream.copy(descriptor, path, offset, size)
        os.ftruncate(descriptor, entry.size)

    def _link(self, target: str, path: str) -> None:
        try:
            self._place(path, lambda: os.link(target, path, follow_symlinks=False))
        except FileNotFoundError:
            self._copy_from_below(target, path)

    def _dress(self, place: str | int, entry: tarfile.TarInfo) -> None:
        """Owner, mode, extended attributes and time, in this order: a new owner costs set-id bits and capabilities."""
        chown(place, entry.uid, entry.gid)
        if entry.mode & 0o7000 and not entry.issym():
            os.chmod(place, entry.mode & 0o7777)
        for key, value in entry.pax_headers.items():
            if key.startswith(_XATTR):
                set_xattr(place, key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
        if not entry.isdir():
            set_time(place, _time(entry))

    def _white_out(self, folder: str, base: str) -> None:
        if base == _OPAQUE:
            self._make_opaque(folder)
            return
        if base.startswith(_OTHERS_OWN):
            return
        name = base.removeprefix(_WHITEOUT)
        if name in ("", ".", ".."):
            raise ValueError("a whiteout of nothing")
        path = f"{folder}/{name}" if folder else name
        try:
            os.mknod(path, stat.S_IFCHR, 0)
            self._whiteouts.add(path)
        except FileExistsError:
            # This layer's own stays; only what is below it is hidden.
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._make_opaque(path)

    def _make_opaque(self, path: str) -> None:
        os.setxattr(path or ".", OPAQUE_ATTRIBUTE, b"y", follow_symlinks=False)
        self._opaque.add(path)

    # Room for entries.

    def _make_parents(self, folder: str) -> None:
        """Directories above an entry that has come without them."""
        path = ""
        for part in folder.split("/"):
            path = f"{path}/{part}" if path else part
            if path in self._known:
                continue
            try:
                self._mkdir(path, 0o755)
                self._implied[path] = None
            except FileExistsError:
                if path in self._whiteouts:
                    os.unlink(path)
                    self._mkdir(path, 0o755)
                elif not os.path.isdir(path):
                    raise ValueError(f"{path!r} above it is no directory") from None
            self._known.add(path)

    def _place(self, path: str, make: Callable[[], T]) -> T:
        """Make something; what this layer had there before gives way."""
        try:
            made = make()
        except FileExistsError:
            self._clear(path)
            made = make()
        self._whiteouts.discard(path)
        return made

    def _clear(self, path: str) -> None:
        self._replaced = True
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        inside = f"{path}/"
        for names in (self._known, self._opaque, self._whiteouts, self._times, self._implied):
            for name in [one for one in names if one == path or one.startswith(inside)]:
                # Whether it hides something below is not changed by that.
                if names is not self._whiteouts or name != path:
                    _forget(names, name)

    # What the layers below have.

    def _inherit(self, path: str) -> None:
        """Give a directory without an entry the attributes it has below."""
        found = find_below(self._below, path, self._opaque)
        if found is None:
            return
        folder, name = found
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except NotADirectoryError:
            return
        finally:
            os.close(folder)
        try:
            self._times[path] = copy_attributes(below, path)
        finally:
            os.close(below)

    def _copy_from_below(self, target: str, path: str) -> None:
        """A hard link to a file of a lower layer is a copy of it, as it is when overlayfs copies up."""
        found = find_below(self._below, target, self._opaque)
        if found is None:
            raise ValueError(f"a hard link to {target!r}, which is not there")
        folder, name = found
        try:
            if not stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode):
                raise ValueError(f"a hard link to {target!r}, which is no file")
            below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            made = self._place(path, lambda: os.open(path, _NEW_FILE, 0o600))
            try:
                while count := os.copy_file_range(below, made, CHUNK):
                    self._size += count
                set_time(made, copy_attributes(below, made))
            finally:
                os.close(made)
        finally:
            os.close(below)


def _clean(name: str) -> str:
    """The path of an entry, relative to the layer's root. Raises ValueError."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("it leads out of the layer")
    return "/".join(parts)


def _time(entry: tarfile.TarInfo) -> int:
    """When it was changed, in nanoseconds."""
    text = entry.pax_headers.get("mtime")
    try:
        time = int(Decimal(text).scaleb(9)) if text else int(entry.mtime) * 1_000_000_000
    except (ArithmeticError, ValueError):
        return 0
    return max(-_LAST_TIME, min(time, _LAST_TIME))


def _forget(names: set[str] | dict[str, Any], name: str) -> None:
    if isinstance(names, dict):
        names.pop(name, None)
    else:
        names.discard(name)
