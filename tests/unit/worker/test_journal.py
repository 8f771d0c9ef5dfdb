"""What a worker remembers across restarts."""

import os
from pathlib import Path

import pytest

from flota.v1.process_pb2 import PreparedTask
from flota.v1.types_pb2 import TaskState, TaskStatus
from flota.worker.tasks import journal as module
from flota.worker.tasks.journal import Journal
from tests.unit.worker.node import task

RUNNING = TaskState.TASK_STATE_RUNNING


def filled(path: Path) -> Journal:
    journal = Journal(path)
    journal.open()
    for name in ("a", "b"):
        one = task()
        one.id = name
        journal.assigned(one)
    journal.observed("a", TaskStatus(state=RUNNING), PreparedTask(image_id="sha256:1"))
    journal.forget("b")
    return journal


def test_it_remembers_the_last_of_each_kind(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal")
    journal.observed("a", TaskStatus(state=TaskState.TASK_STATE_FAILED))
    # Of a task nobody assigned.
    journal.observed("c", TaskStatus(state=RUNNING))
    journal.close()
    known = Journal(tmp_path / "journal").open()
    assert list(known) == ["a"]
    assert known["a"].task.spec.container.image == "busybox"
    assert known["a"].status == TaskStatus(state=TaskState.TASK_STATE_FAILED)
    assert known["a"].prepared == PreparedTask(image_id="sha256:1")


@pytest.mark.parametrize("lost", [1, 7, 9, 20])
def test_a_torn_end_costs_only_itself(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "journal"
    journal = filled(path)
    whole = path.read_bytes()
    journal.observed("a", TaskStatus(state=TaskState.TASK_STATE_FAILED, error="x" * 30))
    journal.close()
    os.truncate(path, path.stat().st_size - lost)
    again = Journal(path)
    status = again.open()["a"].status
    assert status is not None
    assert status.state == RUNNING
    # What comes behind it is read again.
    again.observed("a", TaskStatus(state=TaskState.TASK_STATE_COMPLETE))
    again.close()
    assert len(path.read_bytes()) < len(whole)
    last = Journal(path).open()["a"].status
    assert last is not None
    assert last.state == TaskState.TASK_STATE_COMPLETE


def test_a_byte_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path).close()
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    assert Journal(path).open() == {}


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL", 1000)
    journal = filled(tmp_path / "journal")
    for number in range(500):
        journal.observed("a", TaskStatus(state=RUNNING, message=f"message {number}"))
    assert (tmp_path / "journal").stat().st_size < 2000
    journal.close()
    status = Journal(tmp_path / "journal").open()["a"].status
    assert status is not None
    assert status.message == "message 499"


def test_a_disk_that_refuses_does_not_stop_it_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(tmp_path / "journal")

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:5])

    real = os.write
    monkeypatch.setattr(os, "write", half)
    journal.observed("a", TaskStatus(state=RUNNING, message="lost"))
    monkeypatch.setattr(os, "write", real)
    journal.observed("a", TaskStatus(state=RUNNING, message="kept"))
    journal.close()
    status = Journal(tmp_path / "journal").open()["a"].status
    assert status is not None
    assert status.message == "kept"
