"""What is given out comes back: 5,000 endpoints come and go on two networks, and then all of both is free again."""

from random import Random

import pytest

from flota.manager.allocator.addresses import Exhausted
from flota.v1.objects_pb2 import Network, Service, Task
from flota.v1.types_pb2 import IpamConfig
from tests.unit.allocator.test_ingress import NOW, allocation, network

ENDPOINTS = 5000
# Each network has room for so many, and no more.
ROOM = 1021


def of_size_22(id: str, subnet: str) -> Network:
    made = network(id)
    made.spec.ipam.append(IpamConfig(subnet=subnet))
    return made


async def test_nothing_leaks() -> None:
    random = Random(22)
    made = await allocation(of_size_22("a", "10.50.0.0/22"), of_size_22("b", "10.51.0.0/22"))
    living: dict[str, set[str]] = {}
    services: list[str] = []
    for number in range(ENDPOINTS):
        task = Task(id=f"t{number}")
        for target in random.choice([("a",), ("b",), ("a", "b")]):
            task.spec.networks.add(target=target)
        given = made.allocate_task(task, None, NOW)
        living[task.id] = {address for one in given.networks for address in one.addresses}
        if number % 50 == 0:
            service = Service(id=f"s{number}")
            service.spec.task.networks.add(target="a")
            allocated = made.allocate_service(service)
            assert allocated is not None
            services.append(service.id)
        while len(living) > 500 or (living and random.random() < 0.4):
            gone = random.choice(list(living))
            del living[gone]
            assert made.release_task(gone)
        while len(services) > 20:
            made.release_service(services.pop(0))
        if number % 500 == 0:
            addresses = [address for one in living.values() for address in one]
            assert len(addresses) == len(set(addresses))
    for task_id in list(living):
        made.release_task(task_id)
    for service_id in services:
        made.release_service(service_id)

    # All of it can be given once more, and then nothing.
    seen: set[str] = set()
    for target in ("a", "b"):
        for number in range(ROOM):
            task = Task(id=f"{target}{number}")
            task.spec.networks.add(target=target)
            seen.update(made.allocate_task(task, None, NOW).networks[0].addresses)
        task = Task(id="one more")
        task.spec.networks.add(target=target)
        with pytest.raises(Exhausted, match=f"no free address in 10.5[01].0.0/22 of network {target}"):
            made.allocate_task(task, None, NOW)
    assert len(seen) == 2 * ROOM
