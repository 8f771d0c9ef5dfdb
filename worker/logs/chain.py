"""One container's log as several files: the one that is written, and those that were full before it.

    log          conmon writes it; when it is full, conmon opens log.tmp and renames it to log
    log.tmp      the next one, made in advance
    log.N        the same files again, each under a number of its own: what conmon replaces stays under that
    log.N.gz     a full one, compressed

conmon itself would keep nothing of a file that it replaces. Because also the next file has its number before conmon
takes it, nothing is lost as long as somebody calls `arrange` once in two files: a worker may be killed, and be back.

Everything here blocks. Names with numbers, and log.tmp as long as conmon has not opened it, are ours alone.
"""

import gzip
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

_PACKED = "gz"
_UNFINISHED = "new"
# conmon may put a file in place while we look: then we look again.
_LOOKS = 5
_CHUNK = 1 << 20
_FASTEST = 1
_MODE = 0o600


def full(log: Path) -> list[tuple[int, Path]]:
    """The files before the one that is written, with their numbers, oldest first. Raises OSError."""
    in_use = {_inode(log), _inode(_next(log))}
    return [(number, path) for number, path in _numbered(log) if _inode(path) not in in_use]


def in_order(log: Path) -> list[tuple[int, Path]]:
    """The files there are, oldest first, by names that stay theirs; the last one by that of the log, and with 0 for a
    number, when it has none. Raises OSError.
    """
    inode, waiting = _inode(log), _inode(_next(log))
    there = [(number, path, _inode(path)) for number, path in _numbered(log)]
    named = [(number, path) for number, path, one in there if one != waiting]
    return named if not inode or any(one == inode for _, _, one in there) else [*named, (0, log)]


def number_of(log: Path, inode: int) -> int:
    """Under which number a file of the log is kept; 0 if under none. Raises OSError."""
    return next((number for number, path in _numbered(log) if _inode(path) == inode), 0)


def opened(path: Path) -> BinaryIO:
    """A file of a log, to be read at any place of it; one that is compressed is unpacked to one without a name.

    Raises OSError.
    """
    packed = _packed(path)
    if packed is None:
        return path.open("rb", buffering=0)
    file = TemporaryFile(buffering=0, dir=path.parent)  # noqa: SIM115 - the caller closes it
    try:
        with gzip.open(packed) as content:
            shutil.copyfileobj(content, file, _CHUNK)
    except EOFError as error:
        file.close()
        raise OSError(f"{path} is damaged: {error}") from None
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def beginning(path: Path, size: int) -> bytes:
    """The first bytes of a file of a log. Raises OSError."""
    packed = _packed(path)
    try:
        with gzip.open(packed) if packed is not None else path.open("rb", buffering=0) as file:
            return file.read(size)
    except EOFError as error:
        raise OSError(f"{path} is damaged: {error}") from None


def arrange(log: Path, keep: int) -> list[Path]:
    """Number the file that is written, make the next one, remove full ones but the newest `keep`.

    Gives back the full ones that are not compressed, of which nothing is written any more. Raises OSError.
    """
    for _ in range(_LOOKS):
        if _number(log) and _prepare(log):
            break
    there = full(log)
    for _, path in there[: max(0, len(there) - keep)]:
        path.unlink(missing_ok=True)
    return [path for _, path in there[max(0, len(there) - keep) :] if path.suffix != f".{_PACKED}"]


def _number(log: Path) -> bool:
    """Have a number for the file that is written; False if another one has taken its place."""
    inode, waiting = os.stat(log).st_ino, _inode(_next(log))
    numbered = _numbered(log)
    inodes = {_inode(path): number for number, path in numbered}
    if inode in inodes:
        return True
    number = numbered[-1][0] + 1 if numbered else 1
    if waiting and waiting in inodes:
        # It came without having been prepared, and the one that is prepared comes after it.
        number = inodes[waiting]
        os.rename(_called(log, number), _called(log, number + 1))
    os.link(log, _called(log, number))
    if _inode(_called(log, number)) == inode:
        return True
    # Another one has come between our look and our link, and it may have a number already.
    _called(log, number).unlink()
    return False


def _prepare(log: Path) -> bool:
    """Have a next file with a number; False if conmon is about to put one of its own in place."""
    if _inode(_next(log)):
        return number_of(log, _inode(_next(log))) > 0
    prepared = _called(log, _numbered(log)[-1][0] + 1)
    os.close(os.open(prepared, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    try:
        os.link(prepared, _next(log))
    except FileExistsError:
        prepared.unlink()
        return False
    # Was it replaced just before, by one without a number?
    return number_of(log, os.stat(log).st_ino) > 0


def finish(log: Path) -> None:
    """Nothing more is written: take the next file away. Raises OSError."""
    waiting = _inode(_next(log))
    for _, path in _numbered(log):
        if waiting and _inode(path) == waiting:
            path.unlink(missing_ok=True)
    _next(log).unlink(missing_ok=True)


def tidy(log: Path) -> None:
    """Remove what a compression has left that was broken off. Raises OSError."""
    for path in log.parent.glob(f"{log.name}.*.{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def begin(log: Path, size: int, keep: int) -> None:
    """Before conmon goes on with a log of an earlier run, of which it does not know how much there is.

    A file that is half full counts as full. Raises OSError.
    """
    with suppress(FileNotFoundError):
        if size and os.stat(log).st_size > size // 2:
            if keep:
                arrange(log, keep)
                finish(log)
            log.unlink()


def compress(path: Path, given_up: Callable[[], bool]) -> None:
    """Put a compressed file in the place of a full one. Raises OSError; nothing if it is gone, or `given_up`."""
    packed = path.with_name(f"{path.name}.{_PACKED}")
    unfinished = packed.with_name(f"{packed.name}.{_UNFINISHED}")
    try:
        with path.open("rb") as source, gzip.open(unfinished, "wb", compresslevel=_FASTEST) as target:
            while chunk := source.read(_CHUNK):
                if given_up():
                    return
                target.write(chunk)
        unfinished.rename(packed)
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    finally:
        unfinished.unlink(missing_ok=True)


def _numbered(log: Path) -> list[tuple[int, Path]]:
    """In the order they were written."""
    found: dict[int, Path] = {}
    for name in os.listdir(log.parent):
        own, digits, *kind = name.removeprefix(log.name).split(".") if name.startswith(f"{log.name}.") else ("", "")
        # Where there are both, the compression was broken off before its end.
        if not own and digits.isdigit() and (not kind or (kind == [_PACKED] and int(digits) not in found)):
            found[int(digits)] = log.with_name(name)
    return sorted(found.items())


def _packed(path: Path) -> Path | None:
    """The compressed file, if it is one, or was made one just now."""
    if path.suffix == f".{_PACKED}":
        return path
    packed = path.with_name(f"{path.name}.{_PACKED}")
    return packed if not path.exists() and packed.exists() else None


def _called(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")


def _next(log: Path) -> Path:
    """As conmon calls it."""
    return log.with_name(f"{log.name}.tmp")


def _inode(path: Path) -> int:
    """0 if there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
