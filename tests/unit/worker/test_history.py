"""What happens to containers, as `docker events` tells it."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from flota.v1.containers_pb2 import ContainerEvent, PlainContainer
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import ContainerStatus, TaskState, TaskStatus
from flota.worker.containers.history import History, actions

PREPARING, READY, STARTING, RUNNING, FAILED = (
    getattr(TaskState, f"TASK_STATE_{name}") for name in ("PREPARING", "READY", "STARTING", "RUNNING", "FAILED")
)


def seen(state: "TaskState.ValueType", pid: int = 0, *, unready: bool = False) -> TaskStatus:
    container = ContainerStatus(pid=pid) if pid or state == FAILED else None
    return TaskStatus(state=state, container=container, unready=unready)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (seen(PREPARING), seen(READY), ["create"]),
        (seen(READY), seen(STARTING, 7), ["start"]),
        (seen(READY), seen(RUNNING, 7), ["start"]),
        (seen(STARTING, 7), seen(RUNNING, 7), ["health_status: healthy"]),
        (seen(RUNNING, 7), seen(RUNNING, 7, unready=True), ["health_status: unhealthy"]),
        (seen(RUNNING, 7, unready=True), seen(RUNNING, 7), ["health_status: healthy"]),
        (seen(RUNNING, 7), seen(FAILED), ["die"]),
        # Never made: its image was not there.
        (seen(PREPARING), TaskStatus(state=FAILED), []),
        (seen(FAILED), seen(FAILED), []),
    ],
)
def test_a_status_tells_what_has_happened(before: TaskStatus, now: TaskStatus, told: list[str]) -> None:
    assert actions(before, now) == told


async def test_what_happened_comes_first_then_what_happens() -> None:
    history = History()
    task = Task(id="t1")
    history.observed(task, seen(READY))
    history.observed(task, seen(RUNNING, 7))
    events = history.events(Timestamp())
    past = [await anext(events) for _ in range(3)]
    assert [event.action for event in past] == ["create", "start", ""]
    assert past[0].at.ToNanoseconds() <= past[1].at.ToNanoseconds()
    history.forgotten(task)
    assert (await anext(events)).action == "destroy"

    later = Timestamp()
    later.FromNanoseconds(past[1].at.ToNanoseconds() + 1)
    events = history.events(later)
    assert [(await anext(events)).action for _ in range(2)] == ["destroy", ""]


async def test_only_so_much_is_remembered_and_no_credentials() -> None:
    history = History()
    container = PlainContainer()
    container.task.spec.container.registry_auth = "secret"
    for number in range(1000):
        container.task.id = str(number)
        history.told("create", container)
    past: list[ContainerEvent] = []
    async for event in history.events(Timestamp()):
        if not event.action:
            break
        past.append(event)
    assert len(past) == 256
    assert past[-1].container.task.id == "999"
    assert not any(event.container.task.spec.container.registry_auth for event in past)
