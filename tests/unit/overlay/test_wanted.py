"""What should be on a node: the model through the rules, for the tasks that are here."""

import pytest

from flota.overlay.encryption import Encryption
from flota.overlay.model import Model
from flota.overlay.publish import Target
from flota.overlay.underlay import Underlay
from flota.overlay.wanted import Wanted
from flota.v1.dispatcher_pb2 import AssignmentChange, NetworkPeer, NetworkService
from flota.v1.network_options import ENCRYPTED_OPTION
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import PortConfig

HERE = "192.0.2.1"


def a_network(id: str, *, ingress: bool = False, encrypted: bool = False, ipv6: bool = False) -> Network:
    network = Network(id=id)
    network.spec.ingress, network.spec.ipv6_enabled = ingress, ipv6
    if encrypted:
        network.spec.driver.options[ENCRYPTED_OPTION] = ""
    return network


def a_task(id: str, **addresses: str) -> Task:
    task = Task(id=id, service_id="web")
    for network_id, address in addresses.items():
        task.networks.add(network_id=network_id, addresses=[address])
    return task


def a_peer(network_id: str, id: str, node: int, *addresses: str, ready: bool = True) -> NetworkPeer:
    return NetworkPeer(
        network_id=network_id, task_id=id, service_id="web", addresses=addresses, ready=ready,
        node_id=f"n{node}", vtep=f"192.0.2.{node}",
    )  # fmt: skip


class Here:
    """Node n1 and what it was told."""

    def __init__(self, *things: Network | NetworkPeer | NetworkService, ipv6: bool = True) -> None:
        self.model, self.tasks = Model(), dict[str, Task]()
        underlay = Underlay(-1, HERE, 4789, 1500, ipv6)
        self.wanted = Wanted(self.model, self.tasks, Encryption(self.model), underlay, "n1")
        self.told(*things)

    def told(self, *things: Network | NetworkPeer | NetworkService) -> None:
        self.model.apply(map(a_change, things), complete=False)


def a_change(thing: Network | NetworkPeer | NetworkService) -> AssignmentChange:
    match thing:
        case Network():
            return AssignmentChange(network=thing)
        case NetworkPeer():
            return AssignmentChange(peer=thing)
        case _:
            return AssignmentChange(service=thing)


def test_networks_of_the_tasks_that_are_here_and_the_one_that_publishes_are_in_use() -> None:
    here = Here(a_network("app"), a_network("other"), a_network("mesh", ingress=True))
    assert here.wanted.in_use() == {"mesh"}
    here.tasks["t1"] = a_task("t1", app="10.0.1.5/24")
    assert here.wanted.in_use() == {"app", "mesh"}
    del here.tasks["t1"]
    here.model.apply([AssignmentChange(action=AssignmentChange.ACTION_REMOVE, network=Network(id="mesh"))], False)
    assert here.wanted.in_use() == set()


def test_ways_lead_to_tasks_of_other_nodes_and_on_the_ingress_network_to_nodes() -> None:
    here = Here(
        a_network("app"), a_network("mesh", ingress=True),
        a_peer("app", "t1", 1, "10.0.1.5/24"), a_peer("app", "t2", 2, "10.0.1.6/24"),
        a_peer("mesh", "t2", 2, "10.0.0.6/24"), a_peer("mesh", "n3", 3),
    )  # fmt: skip
    app = here.wanted.forwarding("app")
    assert app.neighbours == {"10.0.1.6": "02:42:0a:00:01:06"}
    assert app.endpoints == {"02:42:0a:00:01:06": "192.0.2.2", "02:66:c0:00:02:02": "192.0.2.2"}
    assert not app.entries
    mesh = here.wanted.forwarding("mesh")
    assert mesh.neighbours["10.0.0.6"] == "02:66:c0:00:02:02", "its node, which routes"
    assert mesh.entries == {"192.0.2.2", "192.0.2.3"}, "also a node without a task"
    assert here.wanted.forwarding("unknown").neighbours == {}


@pytest.mark.parametrize("ipv6", [True, False])
def test_next_hops_are_of_the_versions_that_network_and_kernel_have(ipv6: bool) -> None:
    here = Here(a_network("mesh", ingress=True, ipv6=True), a_peer("mesh", "n2", 2), ipv6=ipv6)
    hops = {":" in hop for hop in here.wanted.forwarding("mesh").neighbours}
    assert hops == ({False, True} if ipv6 else {False})


def test_on_an_encrypted_network_there_is_no_way_before_the_other_node_has_told_its_key() -> None:
    here = Here(a_network("app", encrypted=True), a_peer("app", "t2", 2, "10.0.1.6/24"))
    assert not here.wanted.forwarding("app").endpoints
    with_key = a_peer("app", "t2", 2, "10.0.1.6/24")
    with_key.tunnel_keys.add(public_key=b"k" * 32, generation=1)
    here.told(with_key)
    [end] = set(here.wanted.forwarding("app").endpoints.values())
    assert end.startswith("fd7a:f107:"), "within the tunnel"


def test_virtual_addresses_of_several_networks_with_the_ready_tasks_behind_them() -> None:
    here = Here(
        a_network("a"), a_network("b"),
        NetworkService(network_id="a", service_id="web", virtual_ip="10.0.1.2/24"),
        NetworkService(network_id="b", service_id="web", virtual_ip="10.0.2.2/24"),
        a_peer("a", "t1", 1, "10.0.1.5/24"), a_peer("a", "t2", 2, "10.0.1.6/24", ready=False),
        a_peer("b", "t3", 2, "10.0.2.7/24"),
    )  # fmt: skip
    assert here.wanted.balance(["a"]) == {"10.0.1.2": ("10.0.1.5",)}
    assert here.wanted.balance(["a", "b"]) == {"10.0.1.2": ("10.0.1.5",), "10.0.2.2": ("10.0.2.7",)}


def test_ports_are_those_of_the_ingress_network_alone() -> None:
    ports = [PortConfig(target_port=80, published_port=8080)]
    services = [NetworkService(network_id=on, service_id="web", ports=ports) for on in ("app", "mesh")]
    here = Here(a_network("app"), a_network("mesh", ingress=True), *services, a_peer("mesh", "t2", 2, "10.0.0.6/24"))
    assert here.wanted.mesh() == {"mesh": {("tcp", 8080): Target(("10.0.0.6",), 80)}}


def test_alive_are_tasks_of_this_node_and_whoever_is_on_its_networks() -> None:
    here = Here(
        a_network("app"), a_network("other"),
        a_peer("app", "t2", 2, "10.0.1.6/24", "fd00::6/64", ready=False), a_peer("other", "t3", 3, "10.0.2.7/24"),
    )  # fmt: skip
    here.tasks["t1"] = a_task("t1", app="10.0.1.5/24")
    assert here.wanted.alive() == {"10.0.1.5", "10.0.1.6", "fd00::6"}, "stopping ones too: they finish what they have"
