"""How much of a network is in use."""

import pytest

from flota.manager.control.network_room import capacity, too_small, use_of
from flota.manager.store import LocalProposer, Store, Transaction
from flota.v1.objects_pb2 import Network, Service, Task
from flota.v1.types_pb2 import IpamConfig, TaskState


@pytest.mark.parametrize(
    ("config", "addresses"),
    [
        (IpamConfig(subnet="10.1.2.0/24", gateway="10.1.2.1"), 253),
        (IpamConfig(subnet="10.1.2.0/24", gateway="10.1.2.1", range="10.1.2.128/25"), 127),
        (IpamConfig(subnet="10.1.2.0/24", gateway="10.1.2.1", reserved={"router": "10.1.2.9"}), 252),
        (IpamConfig(subnet="10.1.2.0/29", gateway="10.1.2.1"), 5),
    ],
)
def test_so_many_addresses_can_be_given(config: IpamConfig, addresses: int) -> None:
    assert capacity(config) == addresses


async def test_what_services_and_tasks_have_counts_until_they_end() -> None:
    store = Store()
    LocalProposer(store)
    network = Network(id="n1", ipam=[IpamConfig(subnet="10.1.2.0/29", gateway="10.1.2.1")])
    service = Service(id="web")
    service.spec.annotations.name = "web"
    service.endpoint.virtual_ips.add(network_id="n1", address="10.1.2.2/29")
    tasks = [Task(id=f"t{number}", service_id="web") for number in range(3)]
    for number, task in enumerate(tasks):
        task.networks.add(network_id="n1", addresses=[f"10.1.2.{3 + number}/29"])
        task.status.state = TaskState.TASK_STATE_RUNNING
    tasks[2].status.state = TaskState.TASK_STATE_FAILED

    def create(tx: Transaction) -> None:
        for one in (network, service, *tasks):
            tx.create(one)

    await store.update(create)
    use = use_of(store, network)
    assert (use.used, use.size, use.services, use.tasks) == (3, 5, 1, 2)


async def test_a_service_that_a_network_has_too_few_addresses_for_is_warned_of() -> None:
    store = Store()
    LocalProposer(store)
    subnet = IpamConfig(subnet="10.1.2.0/29", gateway="10.1.2.1")
    app, mesh = Network(id="n1", ipam=[subnet]), Network(id="n2", ipam=[subnet])
    app.spec.annotations.name, mesh.spec.annotations.name, mesh.spec.ingress = "app", "mesh", True
    service = Service(id="web")
    service.spec.task.networks.add(target="n1")
    service.spec.replicated.replicas = 4
    service.endpoint.virtual_ips.add(network_id="n1", address="10.1.2.2/29")
    task = Task(id="t1", service_id="web")
    task.networks.add(network_id="n1", addresses=["10.1.2.3/29"])

    def create(tx: Transaction) -> None:
        for one in (app, mesh, service, task):
            tx.create(one)

    await store.update(create)
    assert list(too_small(store, service)) == [], "four tasks and a virtual address are five"
    service.spec.replicated.replicas = 5
    app_is_small = (
        "network app has 5 of 5 addresses for this service, which needs 6: the rest of its tasks will wait for one"
    )
    assert list(too_small(store, service)) == [app_is_small]
    service.spec.endpoint.ports.add(target_port=80)
    assert list(too_small(store, service)) == [app_is_small], "tasks alone are on the ingress network"
    service.spec.replicated.replicas = 6
    assert [warning.split()[1] for warning in too_small(store, service)] == ["app", "mesh"]
    other = Task(id="t2", service_id="other")
    other.networks.add(network_id="n2", addresses=["10.1.2.3/29"])
    await store.update(lambda tx: tx.create(other))
    assert "mesh has 4 of 5" in list(too_small(store, service))[1]
    service.spec.stopped = True
    assert list(too_small(store, service)) == []
