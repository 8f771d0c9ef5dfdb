"""What `network doctor` makes of what it has seen."""

import pytest

from flota.cli.doctor import network
from flota.cli.doctor.network import Way
from flota.v1.control_pb2 import NetworkUse
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import NodeState, TaskState

NAMES = {"192.0.2.2": "w1", "192.0.2.3": "w2"}


@pytest.mark.parametrize(
    ("way", "verdicts", "said"),
    [
        (
            Way("w1", "192.0.2.2", 0.0012, 1500, 1500),
            ["ok"],
            "192.0.2.2 answers within 1.2 ms, 1500 bytes in one packet",
        ),
        (Way("w1", "192.0.2.2", None), ["failure"], "192.0.2.2 does not answer"),
        (
            Way("w1", "192.0.2.2", 0.001, 1500, 1400),
            ["failure"],
            "packets of more than 1400 bytes are lost on the way to 192.0.2.2, which this machine takes for 1500",
        ),
        (
            Way("w1", "192.0.2.2", 0.001, 1500, 1500, (4789,)),
            ["ok", "failure"],
            "UDP 4789 is rejected on the way to 192.0.2.2",
        ),
    ],
)
def test_a_way(way: Way, verdicts: list[str], said: str) -> None:
    found = list(network.ways([way]))
    assert [one.verdict for one in found] == verdicts
    assert found[-1].what.startswith(said.removesuffix("…"))
    assert {one.area for one in found} == {"way to w1"}


def test_tunnels() -> None:
    own = "fw1abc\tprivate\tpublic\t51821\toff\n"
    line = "fw1abc\tkey\t(none)\t{}:51821\tfd7a::1/128\t{}\t10\t20\t25\n"
    dump = own + line.format("192.0.2.2", 990) + line.format("192.0.2.3", 0) + line.format("192.0.2.4", 500)
    found = {one.area: one for one in network.tunnels(dump, NAMES, 1000)}
    assert {area: one.verdict for area, one in found.items()} == {
        "tunnel to w1": "ok",
        "tunnel to w2": "failure",
        "tunnel to 192.0.2.4": "failure",
    }
    assert found["tunnel to w2"].what == "no handshake of WireGuard ever"
    assert found["tunnel to 192.0.2.4"].what == "no handshake of WireGuard for 500 s"
    assert list(network.tunnels("", NAMES, 1000)) == []


def test_addresses_run_out() -> None:
    use = [NetworkUse(network_id=f"n{used}", used=used, size=100) for used in (10, 90, 100)]
    found = list(network.addresses([*use, NetworkUse(network_id="new")], {"n10": "back"}))
    assert [one.verdict for one in found] == ["ok", "warning", "failure", "warning"]
    assert found[0].area == "network back"


def a_task(id: str, address: str, state: "TaskState.ValueType" = TaskState.TASK_STATE_RUNNING) -> Task:
    task = Task(id=id, service_id="web", desired_state=TaskState.TASK_STATE_RUNNING)
    task.service_annotations.name = "web"
    task.status.state = state
    task.networks.add(network_id="n1", addresses=[f"{address}/24", "fd00::1/64"])
    return task


def test_names_are_held_against_the_cluster() -> None:
    sick = a_task("sick", "10.0.1.5")
    sick.status.container.unhealthy = True
    own = a_task("own", "10.0.1.2")
    tasks = [own, a_task("other", "10.0.1.3"), a_task("starts", "10.0.1.4", TaskState.TASK_STATE_STARTING), sick]
    wanted = network.expected(tasks, own)
    assert wanted == {"10.0.1.2", "10.0.1.3"}
    assert network.names_right(own, wanted, wanted).verdict == "ok"
    wrong = network.names_right(own, {"10.0.1.9"}, wanted)
    assert (wrong.verdict, wrong.what) == (
        "failure", "tasks.web leads to 10.0.1.9 here, and should to 10.0.1.2, 10.0.1.3",
    )  # fmt: skip
    assert network.names_right(own, set(), wanted).what.startswith("tasks.web leads to nobody here")
    assert "cannot ask its DNS server: timed out" in network.names_right(own, "timed out", wanted).what


def test_nodes_that_are_down_are_not_looked_at() -> None:
    nodes = [Node(id=id) for id in ("own", "up", "down")]
    nodes[2].status.state = NodeState.NODE_STATE_DOWN
    up, down = network.others(nodes, "own")
    assert up == nodes[1]
    assert not isinstance(down, Node)
    assert down.verdict == "warning"
