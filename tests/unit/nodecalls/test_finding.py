"""Which running task a person means, on a manager and on a worker."""

from collections.abc import Iterator

import pytest

from flota.manager.nodecalls.finding import running_task
from flota.manager.store import LocalProposer, Store, Transaction
from flota.rpc.errors import FailedPrecondition, FlotaError, InvalidArgument, NotFound
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.types_pb2 import TaskState, TaskStatus
from flota.worker.calls import finding as on_worker

RUNNING, FAILED, READY = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_READY
STARTING = TaskState.TASK_STATE_STARTING


def task(id: str, service: str, slot: int, state: "TaskState.ValueType", node: str = "n1", error: str = "") -> Task:
    made = Task(id=id, service_id=f"id-{service}", slot=slot, node_id=node)
    made.service_annotations.name = service
    made.status.state, made.status.error = state, error
    return made


TASKS = [
    task("aaa1", "web", 1, FAILED, error="task: non-zero exit (1)"),
    task("aaa2", "web", 1, STARTING),
    task("bbb", "web", 2, RUNNING),
    task("ccc", "web", 3, READY),
    task("ddd", "agent", 0, RUNNING, "n1"),
    task("eee", "agent", 0, RUNNING, "n2"),
    task("fff", "down", 1, FAILED),
]


@pytest.fixture
async def store() -> Store:
    store = Store()
    store.use(LocalProposer(store))

    def fill(tx: Transaction) -> None:
        for name in ("web", "agent", "down", "none"):
            service = Service(id=f"id-{name}")
            service.spec.annotations.name = name
            tx.create(service)
        for id in ("n1", "n2"):
            node = Node(id=id)
            node.description.hostname = f"host-{id}"
            tx.create(node)
        for one in TASKS:
            tx.create(Task.FromString(one.SerializeToString()))

    await store.update(fill)
    return store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("bbb", "bbb"), ("bb", "bbb"), ("web.2.bbb", "bbb"), ("web.2", "bbb"), ("id-web.2", "bbb"),
        ("web", "aaa2"), ("web.1", "aaa2"), ("id-web", "aaa2"),
        ("agent.host-n2", "eee"), ("agent.n1", "ddd"), ("agent", "ddd"),
    ],
)  # fmt: skip
async def test_names(store: Store, wanted: str, found: str) -> None:
    assert running_task(store, wanted).id == found


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ("", InvalidArgument, "no task is named: give"),
        ("aaa1", FailedPrecondition, "task web.1.aaa1 is not running: it is failed, task: non-zero exit (1)"),
        ("web.3", FailedPrecondition, "task web.3 has no running task: it is ready"),
        ("web.9", NotFound, "service web has no task 9"),
        ("down", FailedPrecondition, "service down has no running task: it is failed"),
        ("none", FailedPrecondition, "service none has no running task"),
        ("nope", NotFound, "no such task or service: nope"),
        ("nope.1", NotFound, "no such task or service: nope.1"),
        ("aaa", InvalidArgument, "task 'aaa' is ambiguous"),
    ],
)
async def test_what_is_refused(store: Store, wanted: str, error: type[FlotaError], words: str) -> None:
    with pytest.raises(error) as caught:
        running_task(store, wanted)
    assert words in str(caught.value)


def known() -> Iterator[tuple[Task, TaskStatus]]:
    for one in TASKS:
        if one.node_id == "n1":
            yield one, one.status


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("bbb", "bbb"), ("bb", "bbb"), ("web.2.bbb", "bbb"), ("web.2", "bbb"), ("web", "aaa2"), ("agent.n1", "ddd")],
)
def test_names_on_a_worker(wanted: str, found: str) -> None:
    assert on_worker.running_task(known(), wanted).id == found


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ("", InvalidArgument, "no task is named"),
        ("eee", NotFound, "no task eee on this node: commands for tasks of other nodes are a manager's"),
        ("down", FailedPrecondition, "task down is not running: it is failed"),
    ],
)
def test_what_a_worker_refuses(wanted: str, error: type[FlotaError], words: str) -> None:
    with pytest.raises(error, match=words):
        on_worker.running_task(known(), wanted)
