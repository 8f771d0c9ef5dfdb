"""Networks with IPv6: subnets that are chosen or asked for, an address of each version for a task."""

import ipaddress

import pytest

from flota.manager.allocator.addresses import Exhausted, Taken
from flota.manager.allocator.networks import Networks
from flota.v1.objects_pb2 import Network, Service, Task
from flota.v1.types_pb2 import IpamConfig
from tests.unit.allocator.test_ingress import NOW, allocation, network


def six(id: str, *subnets: str) -> Network:
    made = network(id, ipv6_enabled=True)
    made.spec.ipam.extend(IpamConfig(subnet=subnet) for subnet in subnets)
    return made


def test_subnets_that_nobody_chose() -> None:
    networks = Networks()
    first, second = (networks.allocate(six(id)) for id in ("n1", "n2"))
    subnets = [ipaddress.ip_network(config.subnet) for made in (first, second) for config in made.ipam]
    assert [subnet.version for subnet in subnets] == [4, 6, 4, 6]
    assert all(subnet.is_private and subnet.prefixlen == 64 for subnet in subnets if subnet.version == 6)
    assert len(set(subnets)) == 4
    assert first.ipam[1].gateway == str(subnets[1].network_address + 1)
    # Another leader comes to the same.
    assert Networks().allocate(six("n1")) == first


def test_an_ipv6_subnet_that_was_asked_for_has_an_ipv4_one_beside_it() -> None:
    networks = Networks()
    made = networks.allocate(six("n1", "fd00:5::/120"))
    assert [config.subnet for config in made.ipam] == ["10.0.1.0/24", "fd00:5::/120"]
    assert networks.give("n1") == ["10.0.1.2/24", "fd00:5::2/120"]
    assert networks.give("n1", ["fd00:5::9"]) == ["10.0.1.3/24", "fd00:5::9/120"]
    assert networks.give("n1", ["10.0.1.9"]) == ["10.0.1.9/24", "fd00:5::a/120"]
    with pytest.raises(Taken, match="address fd00:5::9 is in use"):
        networks.give("n1", ["fd00:5::9"])
    networks.take_back("n1", ["fd00:5::9/120"])
    assert networks.give("n1", ["10.0.1.10", "fd00:5::9"]) == ["10.0.1.10/24", "fd00:5::9/120"]


def test_subnets_come_from_the_clusters_pool_if_it_has_one() -> None:
    networks = Networks(["10.0.0.0/8", "fd00:20::/63"])
    made = [networks.allocate(six(id)) for id in ("n1", "n2")]
    assert [config.subnet for one in made for config in one.ipam] == [
        "10.0.1.0/24",
        "fd00:20::/64",
        "10.0.2.0/24",
        "fd00:20:0:1::/64",
    ]
    with pytest.raises(Exhausted, match="no free subnet of length /64 in fd00:20::/63"):
        networks.allocate(six("n3"))


def test_what_cannot_be_given_whole_is_not_given_at_all() -> None:
    networks = Networks()
    networks.allocate(six("n1", "10.5.0.0/24", "fd00:5::/125"))
    for _ in range(5):
        networks.give("n1")
    with pytest.raises(Exception, match="no free address in fd00:5::/125 of network n1"):
        networks.give("n1", ["10.5.0.200"])
    assert networks.give("n1", ["10.5.0.200"], versions=(4,)) == ["10.5.0.200/24"]


async def test_a_task_and_a_service_have_both() -> None:
    made = await allocation(six("n1"))
    task = Task(id="t1")
    task.spec.networks.add(target="n1")
    [attachment] = made.allocate_task(task, None, NOW).networks
    four, address = (ipaddress.ip_interface(one) for one in attachment.addresses)
    assert (four.version, address.version) == (4, 6)
    service = Service(id="web")
    service.spec.task.networks.add(target="n1")
    allocated = made.allocate_service(service)
    assert allocated is not None
    assert [(vip.network_id, ":" in vip.address) for vip in allocated.endpoint.virtual_ips] == [
        ("n1", False),
        ("n1", True),
    ]
    assert made.allocate_service(allocated) is None


async def test_a_service_of_before_there_were_virtual_addresses_of_ipv6_gets_one_and_keeps_the_other() -> None:
    made = await allocation(six("n1"))
    service = Service(id="web")
    service.spec.task.networks.add(target="n1")
    allocated = made.allocate_service(service)
    assert allocated is not None
    kept = allocated.endpoint.virtual_ips[0]
    del allocated.endpoint.virtual_ips[1]
    again = made.allocate_service(allocated)
    assert again is not None
    assert again.endpoint.virtual_ips[0] == kept
    assert ":" in again.endpoint.virtual_ips[1].address
