"""Networks: what may be asked for, and when one may go."""

import pytest
from google.protobuf import text_format

from flota.manager.control.network_rules import check_network
from flota.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unsupported
from flota.v1.control_pb2 import (
    CreateNetworkRequest,
    GetNetworkRequest,
    ListFilters,
    ListNetworksRequest,
    RemoveNetworkRequest,
    RemoveServiceRequest,
    UpdateServiceRequest,
)
from flota.v1.network_options import is_encrypted
from flota.v1.specs_pb2 import NetworkSpec, ServiceSpec
from flota.v1.types_pb2 import PortConfig, TaskState
from tests.unit.control.cluster import Cluster
from tests.unit.control.specs import create_network, create_service, on_network, refused, update_service

HOST = PortConfig.PUBLISH_MODE_HOST


def spec_with(text: str) -> NetworkSpec:
    spec = NetworkSpec()
    spec.annotations.name = "back"
    text_format.Merge(text, spec)
    return spec


async def test_a_created_network_is_an_overlay(cluster: Cluster) -> None:
    network = await create_network(cluster, "back", "10.9.0.0/24")
    assert network.spec.driver.name == "overlay"
    answer = await cluster.control.GetNetwork(GetNetworkRequest(network_id="back"), None)
    assert answer.network == network == cluster.store.networks.get(network.id)
    with refused(AlreadyExists, f"network name 'back' is taken by network {network.id}"):
        await create_network(cluster, "back")
    with refused(InvalidArgument, "the request has no network spec"):
        await cluster.control.CreateNetwork(CreateNetworkRequest(), None)


async def test_the_cluster_decides_for_networks_that_do_not_say_whether_they_are_encrypted(cluster: Cluster) -> None:
    assert not is_encrypted((await create_network(cluster, "before")).spec)
    stored = cluster.store.cluster
    assert stored is not None
    changed = type(stored).FromString(stored.SerializeToString())
    changed.spec.encryption.encrypt_networks = True
    await cluster.put(changed)
    assert is_encrypted((await create_network(cluster, "after")).spec)
    spec = spec_with('driver { options { key: "encrypted" value: "false" } }')
    answer = await cluster.control.CreateNetwork(CreateNetworkRequest(spec=spec), None)
    assert not is_encrypted(answer.network.spec)


async def test_subnets_do_not_overlap(cluster: Cluster) -> None:
    await create_network(cluster, "back", "10.9.0.0/24")
    with refused(InvalidArgument, "invalid subnet '10.9.0.128/25': it overlaps 10.9.0.0/24 of network back"):
        await create_network(cluster, "other", "10.9.0.128/25")
    with refused(InvalidArgument, "invalid subnet '10.0.0.0/16': it overlaps 10.0.0.0/24 of network ingress"):
        await create_network(cluster, "other", "10.0.0.0/16")
    await create_network(cluster, "other", "10.9.1.0/24")


async def test_what_the_allocator_gave_counts_as_well(cluster: Cluster) -> None:
    network = await create_network(cluster, "back")
    given = type(network).FromString(network.SerializeToString())
    given.ipam.add(subnet="10.0.7.0/24")
    await cluster.put(given)
    with refused(InvalidArgument, "invalid subnet '10.0.7.0/25': it overlaps 10.0.7.0/24 of network back"):
        await create_network(cluster, "other", "10.0.7.0/25")


async def test_a_network_stays_as_long_as_something_is_on_it(cluster: Cluster) -> None:
    network = await create_network(cluster, "back")
    for name in ("web", "db"):
        await create_service(cluster, name, on_network("back"))
    request = RemoveNetworkRequest(network_id="back")
    with refused(FailedPrecondition, "network back is in use by services db, web"):
        await cluster.control.RemoveNetwork(request, None)
    task = await cluster.add_task("web", 1, "m1")
    for name in ("web", "db"):
        await cluster.control.RemoveService(RemoveServiceRequest(service_id=name), None)
    name = f"web.1.{task.id}"
    with refused(FailedPrecondition, f"network back is in use by 1 task that has not stopped yet, for example {name}"):
        await cluster.control.RemoveNetwork(request, None)
    stopped = type(task).FromString(task.SerializeToString())
    stored = cluster.store.tasks.get(task.id)
    assert stored is not None
    stopped.CopyFrom(stored)
    stopped.status.state = TaskState.TASK_STATE_SHUTDOWN
    await cluster.put(stopped)
    await cluster.control.RemoveNetwork(request, None)
    assert cluster.store.networks.get(network.id) is None
    with refused(NotFound, "network back not found"):
        await cluster.control.RemoveNetwork(request, None)


async def test_many_users_are_not_all_named(cluster: Cluster) -> None:
    await create_network(cluster, "back")
    for number in range(12):
        await create_service(cluster, f"web{number:02}", on_network("back"))
    named = ", ".join(f"web{number:02}" for number in range(10))
    with refused(FailedPrecondition, f"network back is in use by services {named} and 2 more"):
        await cluster.control.RemoveNetwork(RemoveNetworkRequest(network_id="back"), None)


async def test_the_default_network_stays(cluster: Cluster) -> None:
    with refused(FailedPrecondition, "network flota is the default network: it cannot be removed"):
        await cluster.control.RemoveNetwork(RemoveNetworkRequest(network_id="flota"), None)


def published(spec: ServiceSpec) -> None:
    spec.endpoint.ports.add(target_port=80, published_port=8080)


async def test_the_ingress_network_is_replaced_while_no_service_needs_it(cluster: Cluster) -> None:
    remove = RemoveNetworkRequest(network_id="ingress")
    spec = spec_with("ingress: true")
    with refused(AlreadyExists, "network ingress is the ingress network already, and there can be only one: …"):
        await cluster.control.CreateNetwork(CreateNetworkRequest(spec=spec), None)
    web = await create_service(cluster, "web", published)
    with refused(FailedPrecondition, "network ingress is in use by service web"):
        await cluster.control.RemoveNetwork(remove, None)
    web = await update_service(cluster, web, lambda spec: spec.endpoint.ClearField("ports"))
    await cluster.control.RemoveNetwork(remove, None)

    needs = "port 8080 is published on every node, and the swarm has no ingress network for that: make one with …"
    with refused(FailedPrecondition, needs):
        await create_service(cluster, "other", published)
    with refused(FailedPrecondition, needs):
        await update_service(cluster, web, published)
    rollback = UpdateServiceRequest(
        service_id=web.id, version=web.meta.version, rollback=UpdateServiceRequest.ROLLBACK_PREVIOUS
    )
    with refused(FailedPrecondition, needs):
        await cluster.control.UpdateService(rollback, None)
    await create_service(cluster, "host", lambda spec: spec.endpoint.ports.add(target_port=80, publish_mode=HOST))

    made = (await cluster.control.CreateNetwork(CreateNetworkRequest(spec=spec), None)).network
    assert made.spec.ingress
    assert (await cluster.control.UpdateService(rollback, None)).service.spec.endpoint.ports
    with refused(FailedPrecondition, "network back is in use by service web"):
        await cluster.control.RemoveNetwork(RemoveNetworkRequest(network_id="back"), None)


async def test_lists_are_filtered(cluster: Cluster) -> None:
    await create_network(cluster, "back")
    request = ListNetworksRequest(filters=ListFilters(name_prefixes=["b"]))
    answer = await cluster.control.ListNetworks(request, None)
    assert [network.spec.annotations.name for network in answer.networks] == ["back"]
    assert len((await cluster.control.ListNetworks(ListNetworksRequest(), None)).networks) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('annotations { name: "" }', "network name is empty: it must have 1 to 64 characters …"),
        ('annotations { name: "a b" }', "invalid network name 'a b': allowed are letters, digits, '-', '_' and '.', …"),
        ('ipam { subnet: "x" }', "invalid subnet 'x': a network like 10.1.2.0/24 is needed"),
        (
            'ipam { subnet: "10.1.2.3/24" }',
            "invalid subnet '10.1.2.3/24': a network like 10.1.2.0/24 is needed; 10.1.2.0/24 perhaps?",
        ),
        ('ipam { subnet: "10.1.2.0/30" }', "invalid subnet '10.1.2.0/30': a prefix length of 8 to 29 is allowed"),
        ('ipam { subnet: "224.0.0.0/8" }', "invalid subnet '224.0.0.0/8': multicast, loopback and link-local …"),
        ('ipam { gateway: "10.1.2.1" }', "invalid gateway '10.1.2.1': a subnet is needed, too"),
        ('ipam { range: "10.1.2.0/25" }', "invalid IP range '10.1.2.0/25': a subnet is needed, too"),
        (
            'ipam { reserved { key: "a" value: "10.1.2.3" } }',
            "reserved addresses are given without a subnet",
        ),
        (
            'ipam { subnet: "10.1.2.0/24" gateway: "10.1.3.1" }',
            "invalid gateway '10.1.3.1': an address of a host in 10.1.2.0/24 is needed",
        ),
        (
            'ipam { subnet: "10.1.2.0/24" gateway: "10.1.2.255" }',
            "invalid gateway '10.1.2.255': an address of a host in 10.1.2.0/24 is needed",
        ),
        (
            'ipam { subnet: "10.1.2.0/24" range: "10.1.3.0/25" }',
            "invalid IP range '10.1.3.0/25': it must lie within the subnet 10.1.2.0/24",
        ),
        (
            'ipam { subnet: "10.1.2.0/24" gateway: "10.1.2.1" reserved { key: "r" value: "10.1.2.1" } }',
            "invalid reserved address r '10.1.2.1': it is the gateway already",
        ),
        (
            'ipam { subnet: "10.1.2.0/24" } ipam { subnet: "10.1.2.128/25" }',
            "invalid subnet '10.1.2.128/25': it overlaps 10.1.2.0/24, which is given as well",
        ),
        (
            'driver { options { key: "com.docker.network.driver.mtu" value: "60" } }',
            "invalid network option com.docker.network.driver.mtu '60': a number from 68 to 65535 is needed",
        ),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with refused(InvalidArgument, said):
        check_network(spec_with(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('driver { name: "macvlan" }', "network driver 'macvlan' is not supported: only overlay is"),
        ('driver { options { key: "nope" value: "" } }', "network option 'nope' is not supported: only …"),
    ],
)
def test_what_docker_has_and_flota_has_not_is_told_so(text: str, said: str) -> None:
    with refused(Unsupported, said):
        check_network(spec_with(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ipam { subnet: "fd00::/64" }', "invalid subnet 'fd00::/64': it is for networks with IPv6 (--ipv6) only"),
        (
            'ipv6_enabled: true ipam { subnet: "fd00::/8" }',
            "invalid subnet 'fd00::/8': a prefix length of 16 to 124 is allowed",
        ),
        ('ipv6_enabled: true ipam { subnet: "fe80::/64" }', "invalid subnet 'fe80::/64': multicast, loopback and …"),
        ('ipv6_enabled: true ipam { subnet: "fd00::/64" gateway: "10.0.0.1" }', "invalid gateway '10.0.0.1': an …"),
        (
            'ipv6_enabled: true ipam { subnet: "fd00::/64" range: "fd01::/80" }',
            "invalid IP range 'fd01::/80': it must …",
        ),
        ('driver { options { key: "encrypted" value: "yes" } }', "invalid network option encrypted 'yes': no value, …"),
    ],
)
def test_what_is_wrong_with_ipv6_and_encryption_is_said(text: str, said: str) -> None:
    with refused(InvalidArgument, said):
        check_network(spec_with(text))


def test_networks_with_ipv6_and_encryption() -> None:
    for text in (
        "ipv6_enabled: true",
        'ipv6_enabled: true ipam { subnet: "fd00:1::/64" gateway: "fd00:1::1" range: "fd00:1::/80" }',
        'driver { options { key: "encrypted" value: "" } }',
    ):
        check_network(spec_with(text))
