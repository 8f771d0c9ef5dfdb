"""The session's parts without a network: reports put together, assignments put together, managers chosen."""

import asyncio
from random import Random

import pytest

from flota.rpc.errors import InvalidArgument, Unavailable
from flota.v1.dispatcher_pb2 import AssignmentChange, AssignmentsMessage
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import Peer, TaskState, TaskStatus
from flota.worker.agent.assignments import Assembly, Gap
from flota.worker.agent.description import generic_resources
from flota.worker.agent.managers import Managers
from flota.worker.agent.reporter import PATIENCE, Reporter, Update
from tests.unit.worker.node import virtual

PREPARING, READY, RUNNING, FAILED = (
    TaskState.TASK_STATE_PREPARING, TaskState.TASK_STATE_READY, TaskState.TASK_STATE_RUNNING,
    TaskState.TASK_STATE_FAILED,
)  # fmt: skip


class Managing:
    """What managers are told, and when."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, dict[str, int]]] = []
        self.takes = 0.0
        self.errors: list[Exception] = []

    async def send(self, updates: list[Update]) -> None:
        await asyncio.sleep(self.takes)
        now = round(asyncio.get_running_loop().time(), 3)
        self.calls.append((now, {one.task_id: one.status.state for one in updates}))
        if self.errors:
            raise self.errors.pop(0)


def status(state: TaskState.ValueType, error: str = "") -> TaskStatus:
    return TaskStatus(state=state, error=error)


@virtual
async def test_what_matters_is_told_at_once_and_steps_that_pass_never() -> None:
    reporter, managing = Reporter(), Managing()
    running = asyncio.create_task(reporter.run(managing.send))
    await asyncio.sleep(1)
    for state in (PREPARING, READY, RUNNING):
        reporter.put("a", status(state))
        await asyncio.sleep(0.05)
    assert managing.calls == [(1.1, {"a": RUNNING})]
    assert len(reporter) == 0
    running.cancel()


@virtual
async def test_a_step_that_lasts_is_told() -> None:
    reporter, managing = Reporter(), Managing()
    running = asyncio.create_task(reporter.run(managing.send))
    reporter.put("a", status(PREPARING))
    await asyncio.sleep(0.1)
    reporter.put("a", status(READY))
    await asyncio.sleep(5)
    assert managing.calls == [(PATIENCE, {"a": READY})]
    running.cancel()


@virtual
async def test_many_go_into_one_call_while_another_is_on_its_way() -> None:
    reporter, managing = Reporter(), Managing()
    managing.takes = 0.5
    running = asyncio.create_task(reporter.run(managing.send))
    reporter.put("a", status(RUNNING))
    await asyncio.sleep(0.1)
    for name in "bcd":
        reporter.put(name, status(RUNNING))
    reporter.put("a", status(FAILED))
    await asyncio.sleep(5)
    assert managing.calls == [
        (0.5, {"a": RUNNING}),
        (1.02, {"b": RUNNING, "c": RUNNING, "d": RUNNING, "a": FAILED}),
    ]
    running.cancel()


@virtual
async def test_it_is_told_again_over_the_next_session() -> None:
    reporter, managing = Reporter(), Managing()
    managing.errors = [Unavailable("gone")]
    reporter.put("a", status(RUNNING))
    with pytest.raises(Unavailable):
        await reporter.run(managing.send)
    running = asyncio.create_task(reporter.run(managing.send))
    await asyncio.sleep(1)
    assert [states for _, states in managing.calls] == [{"a": RUNNING}] * 2
    running.cancel()


@virtual
async def test_what_managers_will_never_take_does_not_stand_in_the_way() -> None:
    reporter, managing = Reporter(), Managing()
    managing.errors = [InvalidArgument("no")]
    running = asyncio.create_task(reporter.run(managing.send))
    reporter.put("a", status(RUNNING))
    await asyncio.sleep(1)
    reporter.put("b", status(RUNNING))
    await asyncio.sleep(1)
    assert [states for _, states in managing.calls] == [{"a": RUNNING}, {"b": RUNNING}]
    running.cancel()


def message(kind: AssignmentsMessage.Type.ValueType, before: int, *ids: str, more: bool = False) -> AssignmentsMessage:
    changes = [AssignmentChange(task=Task(id=id)) for id in ids]
    return AssignmentsMessage(type=kind, applies_to=before, results_in=before + 1, changes=changes, more=more)


COMPLETE, INCREMENTAL = AssignmentsMessage.TYPE_COMPLETE, AssignmentsMessage.TYPE_INCREMENTAL


def test_a_complete_set_is_taken_when_all_of_it_is_here() -> None:
    assembly = Assembly()
    assert assembly.take(message(COMPLETE, 0, "a", more=True)) is None
    assert assembly.take(message(COMPLETE, 1, "b", more=True)) is None
    whole = assembly.take(message(COMPLETE, 2, "c"))
    assert whole is not None
    assert ([change.task.id for change in whole.changes], whole.complete) == (["a", "b", "c"], True)
    then = assembly.take(message(INCREMENTAL, 3, "d"))
    assert then is not None
    assert ([change.task.id for change in then.changes], then.complete) == (["d"], False)


@pytest.mark.parametrize(
    "messages",
    [
        [message(INCREMENTAL, 0)],
        [message(COMPLETE, 0), message(INCREMENTAL, 2)],
        [message(COMPLETE, 0, more=True), message(INCREMENTAL, 1)],
        [message(COMPLETE, 0, more=True), message(COMPLETE, 2)],
    ],
)
def test_a_gap_is_noticed(messages: list[AssignmentsMessage]) -> None:
    assembly = Assembly()
    for one in messages[:-1]:
        assembly.take(one)
    with pytest.raises(Gap):
        assembly.take(messages[-1])


def test_a_manager_that_failed_goes_to_the_end_of_the_line() -> None:
    managers = Managers(["a", "b", "c"], Random(1))
    first = managers.pick()
    managers.failed(first)
    second = managers.pick()
    managers.failed(second)
    assert len({first, second, managers.pick()}) == 3
    managers.failed(managers.pick())
    assert managers.pick() == first


def test_the_list_of_managers_is_the_clusters_and_the_one_that_works() -> None:
    managers = Managers(["a"], Random(1))
    managers.succeeded("a")
    managers.heard([Peer(address="b"), Peer(address="c")])
    seen = set()
    for _ in range(3):
        seen.add(managers.pick())
        managers.failed(managers.pick())
    assert seen == {"a", "b", "c"}
    managers.succeeded("b")
    managers.heard([Peer(address="b")])
    managers.failed(managers.pick())
    assert managers.pick() == "b"
    managers.heard([])
    assert managers.pick() == "b"


def test_where_the_node_joined_has_its_turn_when_all_others_failed_and_is_never_forgotten() -> None:
    managers = Managers(["a"], Random(1), last_resort=["a", "by.name"])
    managers.succeeded("a")
    managers.heard([Peer(address="b")])
    seen = []
    for _ in range(6):
        seen.append(managers.pick())
        managers.failed(seen[-1])
    # "a" worked last; what it told of and the name it was found under follow, again and again.
    assert set(seen[:2]) == {"a", "b"}
    assert seen[2] == "by.name"
    assert sorted(seen[3:]) == ["a", "b", "by.name"]
    managers.succeeded("b")
    assert managers.pick() != "by.name"


def test_waits_grow_to_two_seconds_and_begin_anew_after_a_session() -> None:
    managers = Managers(["a"], Random(1))
    waits = [managers.failed("a") for _ in range(20)]
    assert 0.05 <= waits[0] <= 0.1
    assert all(1.0 <= wait <= 2.0 for wait in waits[10:])
    assert len(set(waits)) == 20
    managers.succeeded("a")
    assert managers.failed("a") <= 0.1


@pytest.mark.parametrize("words", [["gpu"], ["=1"], ["gpu="], ["gpu=1", "gpu=2"], ["gpu=1", "gpu=a"]])
def test_generic_resources_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(ValueError, match="generic resource"):
        generic_resources(words)
