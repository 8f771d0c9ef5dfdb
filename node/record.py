"""STATE/node.json on disk: read, replaced at once, removed. What stands in it: NodeRecord in process.proto.

Who joins keeps its record as node.joining until it is a member for certain.
"""

import os
from pathlib import Path

from google.protobuf import json_format

from flota.node.places import CannotStart
from flota.v1.process_pb2 import NodeRecord


def load(path: Path) -> NodeRecord | None:
    """The record; None when this machine is in no cluster. Raises CannotStart."""
    try:
        return json_format.Parse(path.read_bytes(), NodeRecord())
    except FileNotFoundError:
        return None
    except (OSError, json_format.ParseError, UnicodeDecodeError) as error:
        raise CannotStart(f"{path} cannot be read: {error}") from None


def store(path: Path, record: NodeRecord) -> None:
    """Replace the file; whoever loses power in between keeps the old one."""
    _write(path, record)
    _joining(path).unlink(missing_ok=True)


def store_joining(path: Path, record: NodeRecord) -> None:
    """Keep the record of a join that is under way."""
    _write(_joining(path), record)


def _write(path: Path, record: NodeRecord) -> None:
    unfinished = _unfinished(path)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json_format.MessageToJson(record))
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    sync_directory(path.parent)


def take_up(path: Path) -> NodeRecord | None:
    """Make the record of a join that was under way the one that counts; None when there is none."""
    try:
        _joining(path).rename(path)
    except FileNotFoundError:
        return None
    sync_directory(path.parent)
    return load(path)


def _joining(path: Path) -> Path:
    return path.with_suffix(".joining")


def _unfinished(path: Path) -> Path:
    return path.with_suffix(".new")


def remove(path: Path) -> None:
    """This machine is in no cluster any longer."""
    for one in (path, _joining(path), _unfinished(path)):
        one.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """What was renamed and removed in it is so also after a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
