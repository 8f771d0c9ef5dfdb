"""What a worker remembers of its tasks across restarts: one file of TaskRecord entries, written at the end only.

Each entry is its length, the CRC-32 of its bytes, and the bytes. An entry that was being written when the machine went
down is found by that and cut off with what follows. Nothing is synced to the disk: a worker that is killed loses
nothing, and when the machine itself goes down the containers that this is about go with it. Secrets and configs are
never written. When most of the file is about tasks that are gone, it is written anew.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from flota.v1.objects_pb2 import Task
from flota.v1.process_pb2 import PreparedTask, TaskRecord
from flota.v1.types_pb2 import TaskStatus

_log = structlog.get_logger("tasks")
_HEAD = struct.Struct("<II")
_MAX_ENTRY = 64 << 20
# A file smaller than this is not worth writing anew.
_SMALL = 1 << 20


@dataclass(slots=True)
class Remembered:
    """What is known of one task."""

    task: Task
    status: TaskStatus | None = None
    prepared: PreparedTask | None = None


class Journal:
    """The file at `path`. Open it first; disk errors later on are logged, for a full disk is no reason to stop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tasks: dict[str, Remembered] = {}
        self._file = -1
        self._size = 0
        self._live = 0
        self._broken = False

    def open(self) -> dict[str, Remembered]:
        """Read what there is and be ready to write. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._path.exists():
            for record in _entries(self._path.read_bytes()):
                self._take(record)
        self._rewrite()
        return dict(self._tasks)

    def close(self) -> None:
        """Write no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def assigned(self, task: Task) -> None:
        """The task as it is wanted now."""
        self._append(TaskRecord(task_id=task.id, task=task))

    def observed(self, task_id: str, status: TaskStatus, prepared: PreparedTask | None = None) -> None:
        """The task as it is now, and what was decided about it if that is new."""
        records = [TaskRecord(task_id=task_id, status=status)]
        if prepared is not None:
            records.insert(0, TaskRecord(task_id=task_id, prepared=prepared))
        self._append(*records)

    def forget(self, task_id: str) -> None:
        """Nothing of the task is left."""
        if task_id in self._tasks:
            self._append(TaskRecord(task_id=task_id, forgotten=True))

    def _take(self, record: TaskRecord) -> None:
        known = self._tasks.get(record.task_id)
        match record.WhichOneof("entry"):
            case "task" if known is None:
                self._tasks[record.task_id] = Remembered(record.task)
            case "task":
                assert known is not None
                known.task = record.task
            case "status" if known is not None:
                known.status = record.status
            case "prepared" if known is not None:
                known.prepared = record.prepared
            case "forgotten":
                self._tasks.pop(record.task_id, None)

    def _append(self, *records: TaskRecord) -> None:
        for record in records:
            self._take(record)
        entries = b"".join(map(_entry, records))
        try:
            if self._broken or self._size > max(_SMALL, 4 * self._live):
                self._rewrite()
            else:
                written = os.write(self._file, entries)
                if written != len(entries):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._size += written
        except OSError as error:
            # What was written in part is cut off by the next reader; what comes behind it would be too.
            self._broken = True
            _log.warning("cannot write down what became of a task", path=str(self._path), reason=error.strerror)

    def _rewrite(self) -> None:
        """Only what counts, in a new file."""
        self.close()
        data = b"".join(_entry(record) for known in self._tasks.values() for record in _records(known))
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_bytes(data)
        new.rename(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = self._live = len(data)
        self._broken = False


def _records(known: Remembered) -> Iterator[TaskRecord]:
    task_id = known.task.id
    yield TaskRecord(task_id=task_id, task=known.task)
    if known.status is not None:
        yield TaskRecord(task_id=task_id, status=known.status)
    if known.prepared is not None:
        yield TaskRecord(task_id=task_id, prepared=known.prepared)


def _entry(record: TaskRecord) -> bytes:
    data = record.SerializeToString()
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def _entries(data: bytes) -> Iterator[TaskRecord]:
    at = 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if length > _MAX_ENTRY or len(body) != length or zlib.crc32(body) != checksum:
            break
        yield TaskRecord.FromString(body)
        at += _HEAD.size + length
    if at != len(data):
        _log.warning("the end of the tasks' journal cannot be read", bytes=len(data) - at)
