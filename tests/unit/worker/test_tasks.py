"""All tasks of a node: what assignments make of them, and what a restart does."""

import asyncio
from pathlib import Path

from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import short_name
from flota.v1.types_pb2 import TaskState, TaskStatus
from flota.worker.runtime.container import ContainerState, Phase
from flota.worker.tasks.journal import Journal
from flota.worker.tasks.tasks import Tasks
from tests.unit.worker.node import Node, found, task, virtual

RUNNING = TaskState.TASK_STATE_RUNNING


def named(name: str, state: TaskState.ValueType = TaskState.TASK_STATE_ASSIGNED) -> Task:
    made = task()
    made.id = name
    made.status.state = state
    return made


def update(*tasks: Task) -> list[AssignmentChange]:
    return [AssignmentChange(task=one) for one in tasks]


def removal(name: str) -> list[AssignmentChange]:
    return [AssignmentChange(action=AssignmentChange.ACTION_REMOVE, task=Task(id=name))]


class Worker:
    """Tasks on a node without a kernel; may be ended and begun anew."""

    def __init__(self, path: Path, node: Node, containers: dict[str, ContainerState] | None = None) -> None:
        self.node = node
        self.reports: dict[str, str] = {}
        self.journal = Journal(path / "journal")
        self.tasks = Tasks(node.parts(), self.journal, self._report)
        self.tasks.start(self.journal.open(), containers or {})

    def _report(self, task_id: str, status: TaskStatus) -> None:
        self.reports[task_id] = short_name(status.state)

    async def crash(self) -> None:
        """As far as what is remembered goes."""
        await self.tasks.stop()
        self.journal.close()

    def known(self) -> set[str]:
        return {one.id for one in self.tasks.all()}


async def settle() -> None:
    """Long enough for everything that has no reason to wait."""
    await asyncio.sleep(5)


@virtual
async def test_tasks_come_and_go(tmp_path: Path) -> None:
    worker = Worker(tmp_path, Node())
    worker.tasks.apply(update(named("a"), named("b")), complete=True)
    await settle()
    assert worker.reports == {"a": "RUNNING", "b": "RUNNING"}
    assert (worker.tasks.running, worker.tasks.by_state()) == (2, {"running": 2})
    worker.tasks.apply(removal("a"), complete=False)
    await settle()
    assert worker.reports["a"] == "SHUTDOWN"
    assert worker.known() == {"b"}
    worker.tasks.apply(update(named("c")), complete=True)
    await settle()
    assert worker.known() == {"c"}
    worker.tasks.apply(removal("nobody"), complete=False)
    assert list(worker.node.exits) == ["c"]


@virtual
async def test_what_managers_do_not_know_yet_is_told_again(tmp_path: Path) -> None:
    worker = Worker(tmp_path, Node())
    worker.tasks.apply(update(named("a")), complete=True)
    await settle()
    worker.reports.clear()
    worker.tasks.apply(update(named("a", RUNNING)), complete=True)
    assert worker.reports == {}
    worker.tasks.apply(update(named("a", TaskState.TASK_STATE_PREPARING)), complete=True)
    assert worker.reports == {"a": "RUNNING"}


@virtual
async def test_a_restart_before_any_manager_is_heard(tmp_path: Path) -> None:
    node = Node(delays={"find": 0.0})
    first = Worker(tmp_path, node)
    first.tasks.apply(update(named("runs"), named("ended")), complete=True)
    await settle()
    node.end("ended", 3)
    await settle()
    first.tasks.apply(update(named("prepares")), complete=False)
    await first.crash()
    node.notes.clear()

    second = Worker(tmp_path, node, {"runs": found(Phase.RUNNING)})
    await settle()
    assert second.known() == {"runs", "ended", "prepares"}
    # One that has no container waits for the managers' word; one that runs does not.
    assert [note for note in node.notes if note in ("find", "create", "launch")] == []
    node.end("runs", 4)
    await settle()
    assert second.reports == {"runs": "FAILED"}
    second.tasks.apply(update(named("prepares"), named("ended", RUNNING)), complete=True)
    await settle()
    assert second.reports == {"runs": "FAILED", "ended": "FAILED", "prepares": "RUNNING"}
    assert second.known() == {"ended", "prepares"}


@virtual
async def test_a_container_that_only_managers_remember_goes_on(tmp_path: Path) -> None:
    node = Node()
    node.take("a")
    node.take("b")
    worker = Worker(tmp_path, node, {"a": found(Phase.RUNNING), "b": found(Phase.RUNNING)})
    await settle()
    assert node.notes == []
    worker.tasks.apply(update(named("a", RUNNING)), complete=True)
    await settle()
    assert worker.tasks.running == 1
    assert list(node.exits) == ["a"]


@virtual
async def test_a_task_that_ended_elsewhere_in_time_is_not_begun(tmp_path: Path) -> None:
    worker = Worker(tmp_path, Node())
    worker.tasks.apply(update(named("a", TaskState.TASK_STATE_REJECTED)), complete=True)
    await settle()
    assert worker.node.created == []
    assert worker.reports == {}


@virtual
async def test_a_node_that_leaves_takes_no_more(tmp_path: Path) -> None:
    node = Node(obeys={})
    worker = Worker(tmp_path, node)
    worker.tasks.apply(update(named("a"), named("b")), complete=True)
    await settle()
    assert await worker.tasks.remove_all(kill=True) == 2
    assert asyncio.get_running_loop().time() == 5.0
    worker.tasks.apply(update(named("c")), complete=True)
    await settle()
    assert worker.known() == set()
    worker.journal.close()
    assert Journal(tmp_path / "journal").open() == {}


@virtual
async def test_an_image_is_held_as_long_as_its_task_may_run(tmp_path: Path) -> None:
    node = Node()
    first = Worker(tmp_path, node)
    first.tasks.apply(update(named("a")), complete=True)
    await settle()
    await first.crash()
    node.held.clear()
    second = Worker(tmp_path, node, {"a": found(Phase.RUNNING)})
    assert node.held == {"a": "sha256:1"}
    node.end("a", 0)
    await settle()
    assert node.held == {}
    assert second.reports == {"a": "COMPLETE"}
