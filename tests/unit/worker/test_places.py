"""Places on networks of the swarm, as a worker holds them for its containers."""

import asyncio

from flota.v1.dispatcher_pb2 import AssignmentChange, AttachNetworkRequest, NetworkPeer
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NetworkAttachment, TaskState, TaskStatus
from flota.worker.containers.places import Places

RUNNING, SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN


class Managers:
    """They make places p1, p2, …, and hear what becomes of them."""

    def __init__(self) -> None:
        self.asked: list[AttachNetworkRequest] = []
        self.told: list[tuple[str, int]] = []
        self.last = TaskStatus()
        self.are_asked = asyncio.Event()
        self.places = Places(self._make, self._hear)

    async def _make(self, request: AttachNetworkRequest) -> str:
        self.asked.append(request)
        self.are_asked.set()
        return f"p{len(self.asked)}"

    def _hear(self, task_id: str, status: TaskStatus) -> None:
        self.told.append((task_id, status.state))
        self.last = status

    def assign(self, number: int, container: str, *, network: str = "net", complete: bool = False) -> None:
        task = Task(id=f"p{number}", attachment_of=container)
        task.networks.add(network_id=network, addresses=[f"10.0.1.{number}/24"])
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
    managers.places.hold("c1", ["net"])
    managers.assign(1, "c1", complete=True)
    assert managers.told == [("p1", RUNNING)]


async def test_of_two_places_of_a_container_one_is_left() -> None:
    managers = Managers()
    managers.places.hold("c1", ["net", "other"])
    managers.assign(1, "c1", complete=True)
    managers.assign(2, "c1", network="other")
    managers.places.leave("c1", "net")
    assert managers.told == [("p1", RUNNING), ("p1", SHUTDOWN)]
    managers.assign(3, "c1", network="net")
    assert managers.told[2:] == [("p3", SHUTDOWN)], "nobody holds it any longer"
    managers.places.leave("c1")
    assert managers.told[3:] == [("p2", SHUTDOWN)]


async def test_no_name_leads_to_a_place_that_is_withdrawn_before_it_is_left() -> None:
    managers = Managers()
    managers.places.hold("c1", ["net"])
    managers.assign(1, "c1")
    withdrawing = asyncio.create_task(managers.places.withdraw("c1", "net"))
    await asyncio.sleep(0)
    assert managers.told == [("p1", RUNNING)]
    assert managers.last.container.unhealthy
    peer = NetworkPeer(network_id="net", task_id="p1", ready=True)
    managers.places.apply([AssignmentChange(peer=peer)], complete=False)
    await asyncio.sleep(0)
    assert not withdrawing.done(), "as long as it is told of as ready"
    peer.ready = False
    managers.places.apply([AssignmentChange(peer=peer)], complete=False)
    await withdrawing


async def test_what_an_earlier_try_asked_for_is_given_up() -> None:
    """The first place comes when the second was asked for."""
    managers = Managers()
    wanted = NetworkAttachment(network_id="net")
    first = asyncio.create_task(managers.places.take("c1", "db", wanted))
    await managers.are_asked.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert managers.told == [("p1", SHUTDOWN)]
    second = asyncio.create_task(managers.places.take("c1", "db", wanted))
    await asyncio.sleep(0)
    managers.assign(1, "c1")
    managers.assign(2, "c1")
    assert list((await second).addresses) == ["10.0.1.2/24"]
    assert managers.told[1:] == [("p1", SHUTDOWN)]
