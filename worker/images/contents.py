"""Named files to read: those of a tar, or of a directory. And parts of a file, as files of their own."""

import os
import tarfile
from pathlib import Path
from typing import BinaryIO, Protocol

from flota.worker.images.compression import Readable
from flota.worker.images.errors import BadImage


class Contents(Protocol):
    """Named files."""

    def open(self, name: str) -> Readable | None:
        """A file from its beginning; None if there is none of that name."""
        ...


class Extent:
    """Part of an open file, read from its beginning whatever else is read of the file."""

    def __init__(self, file: BinaryIO, offset: int = 0, size: int | None = None) -> None:
        """`size`: None = to the end."""
        self._file = file
        self._at = offset
        self._end = os.fstat(file.fileno()).st_size if size is None else offset + size

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at the end."""
        data = os.pread(self._file.fileno(), min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data


class TarContents:
    """The files in a plain tar, which must stay open."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises BadImage."""
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        file.seek(0)
        try:
            archive = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
            while (entry := archive.next()) is not None:
                # It would remember them all.
                archive.members.clear()  # type: ignore[attr-defined]
                self._note(entry)
        except tarfile.TarError as error:
            raise BadImage(f"not a tar archive: {error}") from None

    def open(self, name: str) -> Readable | None:
        """A file, also when links lead to it, as in old archives of Docker's."""
        name = os.path.normpath(name)
        for _ in range(len(self._links) + 1):
            if name not in self._links:
                break
            name = self._links[name]
        place = self._places.get(name)
        return Extent(self._file, *place) if place is not None else None

    def _note(self, entry: tarfile.TarInfo) -> None:
        name = os.path.normpath(entry.name)
        if entry.isreg():
            self._places[name] = entry.offset_data, entry.size
        elif entry.issym():
            self._links[name] = os.path.normpath(os.path.join(os.path.dirname(name), entry.linkname))
        elif entry.islnk():
            self._links[name] = os.path.normpath(entry.linkname)


class DirectoryContents:
    """The files below a directory of our own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str) -> Readable | None:
        """A file; names are digests, so they lead nowhere else."""
        try:
            return (self._directory / name).open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError):
            return None
