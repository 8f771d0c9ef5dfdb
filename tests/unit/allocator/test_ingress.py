"""Who gets an address on the ingress network: whoever is reached through it."""

import pytest

from flota.manager.allocator.state import Allocation, NotThere, NotYet
from flota.manager.store import LocalProposer, Store, Transaction
from flota.v1.objects_pb2 import Network, Service, Task
from flota.v1.types_pb2 import PortConfig, TaskState

INGRESS, HOST = PortConfig.PUBLISH_MODE_INGRESS, PortConfig.PUBLISH_MODE_HOST
NOW = 1_700_000_000.0


def network(id: str, **spec: bool) -> Network:
    made = Network(id=id)
    made.spec.annotations.name = id
    for name, value in spec.items():
        setattr(made.spec, name, value)
    return made


async def allocation(*networks: Network) -> Allocation:
    store = Store()
    LocalProposer(store)

    def create(tx: Transaction) -> None:
        for one in networks:
            tx.create(one)

    await store.update(create)
    made = Allocation(store)
    for one in networks:
        made.allocate_network(one)
    return made


def a_task(*targets: str, ports: tuple["PortConfig.PublishMode.ValueType", ...] = ()) -> Task:
    made = Task(id="t1", service_id="web")
    for target in targets:
        made.spec.networks.add(target=target)
    for mode in ports:
        made.endpoint.spec.ports.add(target_port=80, publish_mode=mode)
    return made


@pytest.mark.parametrize(
    ("task", "networks"),
    [
        (a_task(), []),
        (a_task("app"), ["app"]),
        (a_task(ports=(INGRESS,)), ["ingress"]),
        (a_task("app", ports=(INGRESS, HOST)), ["app", "ingress"]),
        (a_task("app", ports=(HOST,)), ["app"]),
        (a_task("inner", "app", ports=(HOST,)), ["inner", "app"]),
        (a_task("inner", ports=(HOST,)), ["inner", "ingress"]),
        (a_task(ports=(HOST,)), ["ingress"]),
    ],
)
async def test_a_task_is_on_the_ingress_network_when_it_is_reached_through_it(task: Task, networks: list[str]) -> None:
    made = await allocation(network("app"), network("inner", internal=True), network("ingress", ingress=True))
    pending = made.allocate_task(task, None, NOW)
    assert [one.network_id for one in pending.networks] == networks
    assert all(len(one.addresses) == 1 for one in pending.networks)
    assert pending.status.state == TaskState.TASK_STATE_PENDING


async def test_its_address_comes_back_when_it_has_stopped() -> None:
    made = await allocation(network("ingress", ingress=True))
    given = set()
    for _ in range(300):
        given.update(made.allocate_task(a_task(ports=(INGRESS,)), None, NOW).networks[0].addresses)
        assert made.release_task("t1")
    assert len(given) == 253, "all of a /24 but its gateway"


async def test_without_an_ingress_network_it_waits_and_says_what_for() -> None:
    made = await allocation(network("app"))
    with pytest.raises(NotThere, match="there is no ingress network: network create --ingress makes one"):
        made.allocate_task(a_task("app", ports=(INGRESS,)), None, NOW)


async def test_an_ingress_network_in_place_of_another_is_used_at_once() -> None:
    store = Store()
    LocalProposer(store)
    made = Allocation(store)
    for id in ("ingress", "mesh"):
        one = network(id, ingress=True)
        await store.update(lambda tx, one=one: tx.create(one))  # type: ignore[misc]
        task = a_task(ports=(INGRESS,))
        with pytest.raises(NotYet, match="waits for the ingress network"):
            made.allocate_task(task, None, NOW)
        made.allocate_network(one)
        assert [on.network_id for on in made.allocate_task(task, None, NOW).networks] == [id]
        made.release_task(task.id)
        made.release_network(id)
        await store.update(lambda tx, id=id: tx.remove(store.networks.get(id)))  # type: ignore[misc]


async def test_a_service_has_no_virtual_address_there() -> None:
    made = await allocation(network("app"), network("ingress", ingress=True))
    service = Service(id="web")
    service.spec.task.networks.add(target="app")
    service.spec.endpoint.ports.add(target_port=80)
    allocated = made.allocate_service(service)
    assert allocated is not None
    assert [one.network_id for one in allocated.endpoint.virtual_ips] == ["app"]
    assert allocated.endpoint.ports[0].published_port == 30000


async def test_networks_that_every_node_has_by_itself_need_nothing_from_here() -> None:
    made = await allocation(network("app"), network("ingress", ingress=True))
    for targets in (("host",), ("none",), ("bridge", "app")):
        pending = made.allocate_task(a_task(*targets, ports=(HOST,)), None, NOW)
        assert [one.network_id for one in pending.networks] == list(targets), "nor is it on the ingress network"
        assert [bool(one.addresses) for one in pending.networks] == [target == "app" for target in targets]
    service = Service(id="web")
    service.spec.task.networks.add(target="host")
    assert not made.allocate_service(service).endpoint.virtual_ips  # type: ignore[union-attr]


async def test_a_containers_place_is_at_once_where_its_container_is() -> None:
    made = await allocation(network("app"))
    place = Task(id="p1", node_id="w1", attachment_of="c1")
    place.spec.networks.add(target="app")
    given = made.allocate_task(place, None, NOW)
    assert given.status.state == TaskState.TASK_STATE_ASSIGNED
    assert len(given.networks[0].addresses) == 1
