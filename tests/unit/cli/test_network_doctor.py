"""What `network doctor` makes of what the nodes have found."""

import pytest

from flota.cli.doctor import network
from flota.cli.doctor.network import Names
from flota.v1.checks_pb2 import CheckedName, CheckedPath, CheckedTunnel, CheckedWay, NetworkReport
from flota.v1.control_pb2 import NetworkUse
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import NodeState, TaskState

NAMES = Names(
    nodes={"a": "m1", "b": "w1", "c": "w2"},
    networks={"n10": "back"},
    addresses={"192.0.2.1": "m1", "192.0.2.2": "w1", "192.0.2.3": "w2"},
)
FINE = {"round_trip_seconds": 0.0012, "mtu": 1500, "passes": 1500}


def reports(*ways: tuple[str, CheckedWay]) -> list[NetworkReport]:
    return [NetworkReport(node_id=node, ways=[way]) for node, way in ways]


def test_a_way_that_works_both_ways_is_one_line() -> None:
    there = CheckedWay(node_id="b", address="192.0.2.2", **FINE)
    back = CheckedWay(node_id="a", address="192.0.2.1", **FINE | {"round_trip_seconds": 0.003})
    [found] = network.ways(reports(("a", there), ("b", back)), NAMES)
    assert (found.area, found.verdict) == ("m1 ↔ w1", "ok")
    assert found.what == "both ways within 3.0 ms, 1500 bytes in one packet"


@pytest.mark.parametrize(
    ("way", "verdicts", "said"),
    [
        ({}, ["failure"], "192.0.2.2 does not answer"),
        (FINE | {"passes": 1400}, ["failure"], "packets of more than 1400 bytes are lost on the way…"),
        (FINE | {"rejected_ports": [4789]}, ["ok", "failure"], "UDP 4789 is rejected on the way to 192.0.2.2"),
        ({"error": "Operation not permitted"}, ["failure"], "192.0.2.2: Operation not permitted"),
    ],
)  # fmt: skip
def test_a_way_that_works_one_way_only_is_told_by_its_direction(
    way: dict[str, float], verdicts: list[str], said: str
) -> None:
    bad = CheckedWay(node_id="b", address="192.0.2.2", **way)  # type: ignore[arg-type]
    back = CheckedWay(node_id="a", address="192.0.2.1", **FINE)
    *found, other = network.ways(reports(("a", bad), ("b", back)), NAMES)
    assert [one.verdict for one in found] == verdicts
    assert found[-1].what.startswith(said.removesuffix("…"))
    assert {one.area for one in found} == {"m1 → w1"}
    assert (other.area, other.verdict) == ("w1 → m1", "ok")


def test_tunnels() -> None:
    ages = {"192.0.2.2": 10.0, "192.0.2.3": -1.0, "192.0.2.4": 500.0}
    told = [CheckedTunnel(address=address, ports=[51821], handshake_age_seconds=age) for address, age in ages.items()]
    found = {one.area: one for one in network.tunnels([NetworkReport(node_id="a", tunnels=told)], NAMES)}
    assert {area: (one.verdict, one.what) for area, one in found.items()} == {
        "tunnel m1 → w1": ("ok", "WireGuard spoke 10 s ago"),
        "tunnel m1 → w2": ("failure", "no handshake of WireGuard ever"),
        "tunnel m1 → 192.0.2.4": ("failure", "no handshake of WireGuard for 500 s"),
    }


def test_tasks_that_do_not_reach_each_other_over_a_network() -> None:
    found = [
        CheckedPath(network_id="n10", node_id="b", address="10.0.1.5", round_trip_seconds=0.001),
        CheckedPath(network_id="n10", node_id="c", address="10.0.1.6"),
    ]
    bad, good = network.paths([NetworkReport(node_id="a", paths=found)], NAMES)
    assert (bad.verdict, bad.what) == ("failure", "from m1, 10.0.1.6 on w2 does not answer")
    assert (good.verdict, good.what) == ("ok", "tasks reach each other over 1 ways between nodes")
    assert bad.area == good.area == "network back"


def test_clocks() -> None:
    aheads = [NetworkReport(node_id=node, clock_ahead_seconds=ahead) for node, ahead in (("a", 0.0), ("b", -7.2))]
    [found] = network.clocks(aheads, NAMES)
    assert (found.verdict, found.what) == ("warning", "node w1 is 7 s behind the leader")
    [fine] = network.clocks(aheads[:1], NAMES)
    assert fine.verdict == "ok"


def test_addresses_run_out() -> None:
    use = [NetworkUse(network_id=f"n{used}", used=used, size=100) for used in (10, 90, 100)]
    found = list(network.addresses([*use, NetworkUse(network_id="new")], NAMES))
    assert [one.verdict for one in found] == ["ok", "warning", "failure", "warning"]
    assert found[0].area == "network back"


def a_task(id: str, address: str, state: "TaskState.ValueType" = TaskState.TASK_STATE_RUNNING) -> Task:
    task = Task(id=id, service_id="web", desired_state=TaskState.TASK_STATE_RUNNING)
    task.service_annotations.name = "web"
    task.status.state = state
    task.networks.add(network_id="n1", addresses=[f"{address}/24", f"fd00::1{address[-1]}/64"])
    return task


def test_names_are_held_against_the_cluster() -> None:
    sick = a_task("sick", "10.0.1.5")
    sick.status.container.unhealthy = True
    own = a_task("own", "10.0.1.2")
    tasks = [own, a_task("other", "10.0.1.3"), a_task("starts", "10.0.1.4", TaskState.TASK_STATE_STARTING), sick]

    def told(*addresses: str, error: str = "") -> tuple[str, str]:
        name = CheckedName(task_id="own", addresses=addresses, error=error)
        [found] = network.names_right([NetworkReport(node_id="b", names=[name])], tasks, NAMES)
        return found.verdict, found.what

    six = ("fd00::12", "fd00::13")
    assert told("10.0.1.3", "10.0.1.2", *six) == ("ok", "tasks.web is right on 1 node")
    assert told("10.0.1.9", *six) == (
        "failure",
        "tasks.web leads to 10.0.1.9, fd00::12, fd00::13 on w1, and should to 10.0.1.2, 10.0.1.3, fd00::12, fd00::13",
    )
    assert told("10.0.1.3", "10.0.1.2")[0] == "failure", "by IPv6 it leads to nobody"
    assert told()[1].startswith("tasks.web leads to nobody on w1")
    assert told(error="timed out") == ("failure", "its task own on w1 cannot ask its DNS server: timed out")
    # Of a task that has ended meanwhile nothing is said.
    gone = NetworkReport(node_id="b", names=[CheckedName(task_id="gone", addresses=["10.0.1.9"])])
    assert list(network.names_right([gone], tasks, NAMES)) == []


def test_nodes_that_did_not_look_are_named() -> None:
    nodes = [Node(id=id) for id in ("a", "b", "c")]
    nodes[2].status.state = NodeState.NODE_STATE_DOWN
    down, silent = network.unasked(
        nodes, [NetworkReport(node_id="a"), NetworkReport(node_id="b", error="no answer")], NAMES
    )
    assert (down.area, down.verdict) == ("node w2", "warning")
    assert (silent.area, silent.verdict, silent.what) == ("node w1", "failure", "it could not look: no answer")


def test_encrypted_networks_need_wireguard_on_every_node() -> None:
    nodes = [Node(id="a"), Node(id="b")]
    nodes[0].description.wireguard = "kernel"
    [found] = network.encryption(nodes, True, NAMES)
    assert found.what.startswith("there is no WireGuard on w1:")
    assert list(network.encryption(nodes, False, NAMES)) == []
