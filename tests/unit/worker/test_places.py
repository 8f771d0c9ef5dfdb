"""Places on networks of the swarm, as a worker holds them for its containers."""

import asyncio

from flota.v1.dispatcher_pb2 import AssignmentChange, AttachNetworkRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachment, TaskState, TaskStatus
from flota.worker.containers.places import Places

RUNNING, SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN


class Managers:
    """They make places p1, p2, …, and hear what becomes of them."""

    def __init__(self) -> None:
        self.asked: list[AttachNetworkRequest] = []
        self.told: list[tuple[str, int]] = []
        self.are_asked = asyncio.Event()
        self.places = Places(self._make, self._hear)

    async def _make(self, request: AttachNetworkRequest) -> str:
        self.asked.append(request)
        self.are_asked.set()
        return f"p{len(self.asked)}"

    def _hear(self, task_id: str, status: TaskStatus) -> None:
        self.told.append((task_id, status.state))

    def assign(self, number: int, container: str, *, complete: bool = False) -> None:
        task = Task(id=f"p{number}", attachment_of=container)
        task.networks.add(network_id="net", addresses=[f"10.0.1.{number}/24"])
        self.places.apply([AssignmentChange(task=task)], complete)


async def test_a_place_is_asked_for_waited_for_used_and_left() -> None:
    managers = Managers()
    taking = asyncio.create_task(managers.places.take("c1", "db", NetworkAttachment(network_id="net", aliases=["x"])))
    await managers.are_asked.wait()
    assert [list(one.attachment.aliases) for one in managers.asked] == [["x"]]
    managers.assign(1, "c1")
    assert list((await taking).addresses) == ["10.0.1.1/24"]
    assert managers.told == []
    managers.places.use("c1")
    managers.places.leave("c1")
    managers.places.leave("c1")
    assert managers.told == [("p1", RUNNING), ("p1", SHUTDOWN)]


async def test_a_place_that_nobody_holds_any_longer_is_given_up() -> None:
    managers = Managers()
    managers.assign(1, "gone", complete=True)
    assert managers.told == [("p1", SHUTDOWN)]


async def test_after_a_restart_a_place_is_told_of_again() -> None:
    managers = Managers()
    managers.places.hold("c1")
    managers.assign(1, "c1", complete=True)
    assert managers.told == [("p1", RUNNING)]
