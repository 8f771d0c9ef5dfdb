"""Networks of a container without a service, changed at any moment of its life: the record counts."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from flota.overlay import KernelRefused, NotAttached, Sandbox
from flota.overlay.model import Model
from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.dispatcher_pb2 import AssignmentChange, AttachNetworkRequest
from flota.v1.network_options import BRIDGE, HOST, NONE
from flota.v1.objects_pb2 import Network, Task
from flota.v1.specs_pb2 import NetworkSpec
from flota.v1.types_pb2 import IpamConfig, NetworkAttachment, NetworkAttachmentConfig
from flota.worker.containers.bridges import Bridges
from flota.worker.containers.places import Places
from flota.worker.containers.wiring import Wiring, own_lines


class Overlay:
    """Has what it is told to have; `events` are names that come and go, and networks of tasks as they change."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.events: list[str] = []
        self.model = Model()
        self.refuses = False
        # Somebody waits until it may go on with a change.
        self.gate = asyncio.Event()
        self.gate.set()
        self.changing = asyncio.Event()

    def set_local(self, networks: list[Network]) -> None:
        """They are looked at in no test."""

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        changes = list(changes)
        self.model.apply(changes, complete)
        removed = AssignmentChange.ACTION_REMOVE
        for change in changes:
            self.events.append(f"{'withdrawn' if change.action == removed else 'told'} {change.peer.network_id[:4]}")

    def attached(self) -> list[Task]:
        return list(self.tasks.values())

    def name_of(self, network_id: str) -> str:
        return ""

    async def attach(self, task: Task) -> Sandbox:
        self.tasks[task.id] = task
        return Sandbox(None, "", ())

    async def change(self, task_id: str, networks: Sequence[NetworkAttachment]) -> None:
        self.changing.set()
        await self.gate.wait()
        if task_id not in self.tasks:
            raise NotAttached(task_id)
        if self.refuses:
            raise KernelRefused("a link", 1, "no")
        del self.tasks[task_id].networks[:]
        self.tasks[task_id].networks.extend(networks)
        self.events.append("changed")

    async def close(self, task_id: str) -> None:
        """Nothing to close."""

    async def detach(self, task_id: str) -> None:
        self.tasks.pop(task_id, None)


class Node:
    """One container, `al`, on its node."""

    def __init__(self, directory: Path) -> None:
        self.overlay = Overlay()
        self.bridges = Bridges(directory, self.overlay, Places(_no_managers, lambda task_id, status: None), "n1")
        self.bridges.start()
        self.ids = {name: self._network(name, number) for number, name in enumerate(("left", "right"), 1)}
        self.record = PlainContainer()
        self.record.task.id = "c1"
        self.record.task.service_annotations.name = "al"
        self.saved: list[list[str]] = []
        self.hosts = "127.0.0.1 localhost\n"
        self.wiring = Wiring(self.record, self.bridges, self._save, self._edit_hosts)
        self.told: list[tuple[str, str]] = []
        self.bridges.told = lambda task_id, action, network: self.told.append((action, network.spec.annotations.name))

    def _network(self, name: str, number: int) -> str:
        spec = NetworkSpec(ipam=[IpamConfig(subnet=f"172.30.{number}.0/29")])
        spec.annotations.name, spec.driver.name = name, BRIDGE
        return self.bridges.create(spec).id

    def _save(self) -> None:
        self.saved.append([one.target for one in self.record.task.spec.networks])

    async def _edit_hosts(self, change: Callable[[str], str]) -> None:
        self.hosts = change(self.hosts)

    async def start(self, *names: str) -> None:
        """It runs on these networks."""
        task = self.record.task
        if names:
            del task.spec.networks[:]
            task.spec.networks.extend(NetworkAttachmentConfig(target=self.ids[name]) for name in names)
        started = Task()
        started.CopyFrom(task)
        started.networks.extend(NetworkAttachment(network_id=one.target) for one in task.spec.networks)
        await self.bridges.attach(started)

    async def connect(self, name: str, *, priority: int = 0, address: str = "") -> None:
        target = self.ids.get(name, name)
        wanted = NetworkAttachmentConfig(target=target, addresses=[address] if address else ())
        await self.wiring.connect(wanted, priority)

    async def disconnect(self, name: str) -> None:
        await self.wiring.disconnect(self.ids.get(name, name))

    def is_on(self) -> list[str]:
        """The networks of its namespace, in their order."""
        names = {network_id: name for name, network_id in self.ids.items()}
        return [names[one.network_id] for one in self.overlay.tasks["c1"].networks]

    def wants(self) -> list[str]:
        """Those of its record."""
        names = {network_id: name for name, network_id in self.ids.items()}
        return [names.get(one.target, one.target) for one in self.record.task.spec.networks]


async def _no_managers(request: AttachNetworkRequest) -> str:
    raise FailedPrecondition("there are no managers")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_network_comes_and_goes_while_it_runs(node: Node) -> None:
    await node.start("right")
    await node.connect("left")
    assert node.is_on() == ["left", "right"], "by name: the first has the default routes, as Docker has it"
    assert node.saved[-1] == [node.ids["right"], node.ids["left"]]
    node.overlay.events.clear()
    await node.disconnect("left")
    assert node.overlay.events == [f"withdrawn {node.ids['left'][:4]}", "changed"], "no name leads to it first"
    assert (node.is_on(), node.wants()) == (["right"], ["right"])
    assert node.told == [("connect", "right"), ("connect", "left"), ("disconnect", "left")]
    node.bridges.remove(node.ids["left"])


async def test_a_priority_decides_which_network_comes_first(node: Node) -> None:
    await node.start("left")
    await node.connect("right", priority=1)
    assert node.is_on() == ["right", "left"]


async def test_what_is_refused_leaves_it_as_it_was(node: Node) -> None:
    await node.start("left")
    node.overlay.refuses = True
    with pytest.raises(FailedPrecondition, match="a link"):
        await node.connect("right")
    assert (node.is_on(), node.wants()) == (["left"], ["left"])
    with pytest.raises(FailedPrecondition, match="a link"):
        await node.disconnect("left")
    assert (node.is_on(), node.wants()) == (["left"], ["left"])
    assert node.overlay.events[-1] == f"told {node.ids['left'][:4]}", "names lead to it again"
    node.overlay.refuses = False
    for number in range(2, 7):
        await node.connect("right", address=f"172.30.2.{number}")
        await node.disconnect("right")


async def test_what_cannot_be_together(node: Node) -> None:
    await node.start("left")
    with pytest.raises(AlreadyExists, match="endpoint with name al already exists in network left"):
        await node.connect("left")
    for name in (HOST, NONE):
        with pytest.raises(InvalidArgument, match=name):
            await node.connect(name)
    with pytest.raises(FailedPrecondition, match="is not connected to network right"):
        await node.disconnect("right")
    with pytest.raises(InvalidArgument, match="user defined networks only"):
        await node.connect(BRIDGE, address="172.17.0.9")
    assert node.wants() == ["left"]


async def test_of_one_that_does_not_run_only_the_record_changes(node: Node) -> None:
    await node.connect("left")
    await node.connect("left")
    await node.connect("right", priority=2)
    assert node.wants() == ["left", "right"]
    assert [(one.target, list(one.addresses)) for one in node.wiring.shown()] == [("left", []), ("right", [])]
    await node.start()
    assert [one.target for one in node.wiring.shown() if one.addresses] == ["left", "right"]


async def test_one_that_ends_meanwhile_is_on_it_from_its_next_start_on(node: Node) -> None:
    await node.start("left")
    node.overlay.gate.clear()
    connecting = asyncio.create_task(node.connect("right"))
    await node.overlay.changing.wait()
    del node.overlay.tasks["c1"]
    node.overlay.gate.set()
    await connecting
    assert node.wants() == ["left", "right"]
    await node.bridges.detach("c1")
    await node.start()
    assert node.is_on() == ["left", "right"]


async def test_whoever_asked_may_go_away_the_change_goes_on(node: Node) -> None:
    await node.start("left")
    node.overlay.gate.clear()
    connecting = asyncio.create_task(node.connect("right"))
    await node.overlay.changing.wait()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    node.overlay.gate.set()
    await node.wiring.settle()
    assert (node.is_on(), node.wants()) == (["left", "right"], ["left", "right"])


async def test_what_a_crash_left_half_done_is_finished(node: Node) -> None:
    """The namespace has a network that the record does not have, and the other way round."""
    await node.start("left")
    del node.record.task.spec.networks[:]
    node.record.task.spec.networks.add(target=node.ids["right"], addresses=["172.30.2.5"])
    node.record.gateway_priorities[node.ids["right"]] = 3
    await node.wiring.settle()
    assert node.is_on() == ["right"]
    place = node.overlay.tasks["c1"].networks[0]
    assert (list(place.addresses), place.gateway_priority) == (["172.30.2.5/29"], 3)


async def test_its_own_name_leads_to_an_address_that_it_has(node: Node) -> None:
    node.record.task.spec.container.hostname = "box"
    await node.start("left")
    node.hosts = "127.0.0.1 localhost\n172.30.1.2 box\n10.0.0.1 other\n"
    await node.connect("right")
    assert "172.30.1.2 box\n" in node.hosts
    await node.disconnect("left")
    assert node.hosts == "127.0.0.1 localhost\n10.0.0.1 other\n172.30.2.2 box\n"


def test_lines_that_people_wrote_stay() -> None:
    text = "127.0.0.1 localhost\n\n# 1.2.3.4 box\n1.2.3.4 box\n9.9.9.9 box mine\n"
    kept = "127.0.0.1 localhost\n\n# 1.2.3.4 box\n9.9.9.9 box mine\n"
    assert own_lines(text, "box", {"1.2.3.4"}, ["5.6.7.8"]) == kept


async def test_a_new_name_leads_to_a_container_that_runs_and_the_old_one_does_not(tmp_path: Path) -> None:
    """Also after the worker has started again: the overlay remembers the name with which it was attached."""
    node = Node(tmp_path)
    await node.start("left")

    def found(name: str) -> int | None:
        names = node.overlay.model.names(node.ids["left"])
        addresses = names.lookup(name) if names is not None else None
        return None if addresses is None else len(addresses)

    assert (found("al"), found("bert")) == (1, None)
    node.record.task.service_annotations.name = "bert"
    node.bridges.rename(node.record.task)
    assert (found("al"), found("bert")) == (None, 1)

    node.bridges = Bridges(tmp_path, node.overlay, Places(_no_managers, lambda task_id, status: None), "n1")
    node.bridges.start()
    node.bridges.adopted()
    node.bridges.rename(node.record.task)
    assert (found("al"), found("bert")) == (None, 1)
    with pytest.raises(FailedPrecondition, match='name:"bert"'):
        node.bridges.remove(node.ids["left"])
