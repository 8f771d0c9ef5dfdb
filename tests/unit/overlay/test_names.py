"""What a name stands for, and what the model forgets."""

import pytest

from flota.overlay.model import Model
from flota.overlay.names import NameTable
from flota.v1.dispatcher_pb2 import AssignmentChange, NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Network
from flota.v1.types_pb2 import EndpointSpec, PortConfig

UPDATE, REMOVE = AssignmentChange.ACTION_UPDATE, AssignmentChange.ACTION_REMOVE


def a_peer(
    slot: int, *, ready: bool = True, service: str = "shop_web", aliases: tuple[str, ...] = ("web",)
) -> NetworkPeer:
    return NetworkPeer(
        network_id="n1",
        task_id=f"t{slot}",
        task_name=f"{service}.{slot}.t{slot}",
        service_id=service,
        service_name=service,
        slot=slot,
        aliases=aliases,
        addresses=[f"10.0.1.{slot + 1}/24"],
        node_id="node2",
        vtep="192.0.2.2",
        ready=ready,
    )


def changes(
    action: AssignmentChange.Action.ValueType, *items: Network | NetworkPeer | NetworkService
) -> list[AssignmentChange]:
    kinds = {Network: "network", NetworkPeer: "peer", NetworkService: "service"}
    return [AssignmentChange(action=action, **{kinds[type(item)]: item}) for item in items]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("shop_web", {"10.0.1.2", "10.0.1.3"}),
        ("web", {"10.0.1.2", "10.0.1.3"}),
        ("web.shop", {"10.0.1.2", "10.0.1.3"}),
        ("tasks.web", {"10.0.1.2", "10.0.1.3"}),
        ("tasks.shop_web", {"10.0.1.2", "10.0.1.3"}),
        ("web.2", {"10.0.1.3"}),
        ("shop_web.1", {"10.0.1.2"}),
        ("shop_web.3.t3", {"10.0.1.4"}),
        ("web.3", set()),
    ],
)
def test_a_service_in_a_stack_is_found_under_all_its_names(name: str, addresses: set[str]) -> None:
    table = NameTable()
    for peer in (a_peer(1), a_peer(2), a_peer(3, ready=False)):
        table.add_peer(peer)
    assert set(table.lookup(name) or ()) == addresses
    assert table.lookup(name) is not None


def test_a_name_nobody_has_is_something_else_than_one_with_nothing_ready() -> None:
    table = NameTable()
    table.add_peer(a_peer(1, ready=False))
    assert table.lookup("web") == ()
    assert table.lookup("tasks.web") == ()
    assert table.lookup("nobody") is None
    table.remove_peer(a_peer(1, ready=False))
    assert table.lookup("web") is None
    assert table.reverse("10.0.1.2") is None


def test_a_container_without_a_service_has_its_name_only_while_it_is_ready() -> None:
    table = NameTable()
    place = NetworkPeer(network_id="n1", task_id="p1", task_name="db", addresses=["10.0.1.9/24"], ready=True)
    table.add_peer(place)
    assert table.lookup("db") == ("10.0.1.9",)
    table.remove_peer(place)
    place.ready = False
    table.add_peer(place)
    assert table.lookup("db") == ()


def test_names_do_not_depend_on_letter_case() -> None:
    table = NameTable()
    table.add_peer(a_peer(1, service="Web", aliases=("Front",)))
    assert table.lookup("web") == table.lookup("front") == ("10.0.1.2",)


def test_two_services_with_one_alias_share_it_until_one_goes() -> None:
    table = NameTable()
    blue, green = a_peer(1, service="blue", aliases=("app",)), a_peer(2, service="green", aliases=("app",))
    table.add_peer(blue)
    table.add_peer(green)
    assert set(table.lookup("app") or ()) == {"10.0.1.2", "10.0.1.3"}
    table.remove_peer(blue)
    assert table.lookup("app") == ("10.0.1.3",)


def test_a_virtual_address_stands_before_tasks_unless_dnsrr() -> None:
    table = NameTable()
    service = NetworkService(network_id="n1", service_id="s", service_name="shop_web", virtual_ip="10.0.1.99/24")
    table.add_peer(a_peer(1))
    table.add_service(service)
    assert table.lookup("shop_web") == ("10.0.1.99",)
    assert table.lookup("tasks.shop_web") == ("10.0.1.2",)
    assert table.reverse("10.0.1.99") == "shop_web"
    table.remove_service(service)
    service.mode = EndpointSpec.MODE_DNSRR
    table.add_service(service)
    assert table.lookup("shop_web") == ("10.0.1.2",)


def test_a_peer_that_changes_leaves_none_of_its_old_names() -> None:
    model = Model()
    model.apply(changes(UPDATE, Network(id="n1"), a_peer(1, aliases=("old",))), complete=True)
    touched = model.apply(changes(UPDATE, a_peer(1, aliases=("new",))), complete=False)
    names = model.names("n1")
    assert names is not None
    assert touched == {"n1"}
    assert names.lookup("old") is None
    assert names.lookup("new") == ("10.0.1.2",)


def test_saying_the_same_again_touches_nothing() -> None:
    model = Model()
    everything = changes(UPDATE, Network(id="n1"), a_peer(1), a_peer(2))
    assert model.apply(everything, complete=True) == {"n1"}
    revision = model.revision
    assert model.apply(everything, complete=True) == set()
    assert model.apply(changes(REMOVE, a_peer(7)), complete=False) == set()
    assert model.revision == revision


def test_a_complete_set_forgets_what_it_does_not_name() -> None:
    model = Model()
    service = NetworkService(network_id="n1", service_id="shop_web", service_name="shop_web")
    model.apply(changes(UPDATE, Network(id="n1"), Network(id="n2"), a_peer(1), a_peer(2), service), complete=True)
    touched = model.apply(changes(UPDATE, Network(id="n1"), a_peer(2)), complete=True)
    assert touched == {"n1", "n2"}
    assert set(model.networks) == {"n1"}
    assert [peer.task_id for peer in model.peers("n1")] == ["t2"]
    assert list(model.services("n1")) == []
    names = model.names("n1")
    assert names is not None
    assert names.lookup("web") == ("10.0.1.3",)


def test_tasks_and_secrets_are_none_of_its_business() -> None:
    model = Model()
    other = AssignmentChange(action=UPDATE)
    other.task.id = "t"
    assert model.apply([other], complete=True) == set()
    assert model.complete


def test_srv_names_ready_tasks_and_their_ports() -> None:
    table = NameTable()
    for peer in (a_peer(1), a_peer(2), a_peer(3, ready=False)):
        table.add_peer(peer)
    service = NetworkService(network_id="n1", service_id="s1", service_name="shop_web", aliases=["web"])
    assert table.service("web") == []
    service.ports.add(name="http", target_port=80, published_port=8080)
    service.ports.add(target_port=53, protocol=PortConfig.PROTOCOL_UDP)
    table.add_service(service)
    first, second = "shop_web.1.t1", "shop_web.2.t2"
    assert sorted(table.service("_http._tcp.web") or ()) == [(first, 80), (second, 80)]
    assert sorted(table.service("_53._udp.shop_web") or ()) == [(first, 53), (second, 53)]
    assert sorted(table.service("web") or ()) == [(first, 53), (first, 80), (second, 53), (second, 80)]
    assert table.service("_http._udp.web") == []
    assert table.service("_http.web") is None
    assert table.service("_http._tcp.other") is None
    # The name of a target is one of the table's.
    assert table.lookup(first) == ("10.0.1.2",)
    table.remove_service(service)
    table.remove_peer(a_peer(1))
    assert table.service("web") == []


def test_by_ipv6_a_name_leads_to_tasks_and_by_ipv4_to_the_virtual_address() -> None:
    table = NameTable()
    for slot in (1, 2):
        peer = a_peer(slot, ready=slot == 1)
        peer.addresses.append(f"fd00::{slot}/64")
        table.add_peer(peer)
    table.add_service(
        NetworkService(network_id="n1", service_id="s1", service_name="shop_web", virtual_ip="10.0.1.100/24")
    )
    assert table.lookup("shop_web") == ("10.0.1.100", "fd00::1")
    assert table.lookup("tasks.shop_web") == ("10.0.1.2", "fd00::1")
