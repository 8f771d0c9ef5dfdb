"""Daemons with real workers and real containers, each on a machine of its own, used as a person uses them."""

from collections.abc import Callable, Iterator

import grpc
import pytest

from flota.node.lab import Lab, LabNode
from flota.v1.control_pb2 import ListTasksRequest
from flota.v1.local_pb2 import InfoRequest
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

DAEMON = "[f]lota.node --"


@pytest.fixture
def machines(make_lab: Callable[..., Lab]) -> Iterator[Swarm]:
    """m1 and w1, in no cluster yet."""
    with Swarm(make_lab(1, 1, swarm=False)) as swarm:
        yield swarm


def begin(swarm: Swarm, *flags: str) -> tuple[LabNode, LabNode]:
    """Make them one cluster. Nobody says where anything is reached."""
    m1, w1 = swarm.lab.nodes["m1"], swarm.lab.nodes["w1"]
    # The last one counts. A busy machine is not to take a node for lost.
    m1.flota("swarm", "init", "--dispatcher-heartbeat", "5s", *flags)
    token = m1.flota("swarm", "join-token", "-q", "worker").strip()
    w1.flota("swarm", "join", "--token", token, m1.address)
    return m1, w1


def processes(node: LabNode, pattern: str) -> list[str]:
    return node.exec(["pgrep", "-f", pattern], check=False).stdout.split()


def containers(node: LabNode) -> list[str]:
    """The processes in the containers on a node."""
    return processes(node, "^sleep 7777")


def running_containers(swarm: Swarm, node: str) -> int:
    """As its worker says; 0 while it does not answer."""
    try:
        return swarm.containers(node)
    except grpc.RpcError:
        return 0


def run_service(swarm: Swarm, node: LabNode) -> list[str]:
    """Have two containers on a node; gives their processes."""
    swarm.lab.nodes["m1"].flota(
        "service", "create", "--detach", "--name", "web", "--replicas", "2",
        "--constraint", f"node.hostname=={node.name}", "busybox", "sleep", "7777",
    )  # fmt: skip
    wait_until(lambda: swarm.running("web")[node.name] == 2, f"two tasks on {node.name}", 60)
    return sorted(containers(node))


def test_addresses_are_found_by_themselves(machines: Swarm) -> None:
    m1, w1 = begin(machines)
    for name, node in machines.nodes().items():
        assert node.status.address == machines.lab.nodes[name].address
        assert node.description.data_path_address == machines.lab.nodes[name].address
    assert m1.flota("info", "--format", "{{.Swarm.NodeAddr}} {{.Swarm.LocalNodeState}}").split() == [
        m1.address,
        "active",
    ]
    refused = w1.exec(["flota", "service", "ls"], check=False)
    assert refused.returncode == 1
    assert "Worker nodes can't be used to view or modify cluster state." in refused.stderr


def test_an_interface_may_be_named(machines: Swarm) -> None:
    m1 = machines.lab.nodes["m1"]
    assert f" {m1.address}:4999" in m1.flota("swarm", "init", "--advertise-addr", "eth0", "--listen-addr", "eth0:4999")
    m1.flota("swarm", "leave", "--force")
    m1.exec(["ip", "addr", "add", "192.0.2.77/24", "dev", "eth0"])
    refused = m1.exec(["flota", "swarm", "init"], check=False)
    assert f"multiple addresses on interface eth0 ({m1.address}, 192.0.2.77) - specify one with" in refused.stderr


def test_containers_outlive_the_daemon_that_is_upgraded(machines: Swarm) -> None:
    # A busy machine may take longer to start it again than the three heartbeats after which tasks go elsewhere.
    _, w1 = begin(machines, "--dispatcher-heartbeat", "20s")
    before, tasks = run_service(machines, w1), {task.id for task in machines.tasks("web")}
    [daemon] = processes(w1, DAEMON)
    w1.exec(["kill", "-TERM", daemon])
    wait_until(lambda: processes(w1, DAEMON) not in ([], [daemon]), "another daemon")
    # It knows its containers again.
    wait_until(lambda: running_containers(machines, "w1") == 2 and "w1" in machines.ready(), "all is as it was")
    assert sorted(containers(w1)) == before
    assert {task.id for task in machines.tasks("web")} == tasks
    assert machines.running("web")["w1"] == 2


COUNT = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.5; done"
END = "while ! test -e /door/open; do sleep 0.1; done; exit 7"


def test_fifty_containers_outlive_a_killed_daemon(machines: Swarm) -> None:
    """The same processes, nothing missing in their logs, and no exit code that happened meanwhile."""
    m1, w1 = begin(machines, "--dispatcher-heartbeat", "30s")
    w1.exec(["mkdir", "/run/door"])
    common = ("--detach", "--constraint", "node.hostname==w1", "--stop-grace-period", "0s")
    m1.flota("service", "create", "--name", "web", "--replicas", "47", *common, "busybox", "sh", "-c", COUNT)
    m1.flota(
        "service", "create", "--name", "ends", "--replicas", "3", "--restart-condition", "none",
        "--mount", "type=bind,source=/run/door,target=/door", *common, "busybox", "sh", "-c", END,
    )  # fmt: skip
    for name, count in (("web", 47), ("ends", 3)):
        wait_until(lambda name=name, count=count: machines.running(name)["w1"] == count, f"{name} runs", 120)  # type: ignore[misc]
    before = {task.id: task.status.container.pid for task in machines.tasks("web")}
    [daemon] = processes(w1, DAEMON)
    w1.exec(["sh", "-c", f"kill -KILL {daemon}; touch /run/door/open"])
    wait_until(lambda: processes(w1, DAEMON) not in ([], [daemon]), "another daemon")
    wait_until(lambda: running_containers(machines, "w1") == 47 and "w1" in machines.ready(), "it has them again", 60)
    assert {task.id: task.status.container.pid for task in machines.tasks("web")} == before
    # A shell that is about to become a sleep looks like one more.
    assert {str(pid) for pid in before.values()} <= set(processes(w1, "^sh -c i=0"))

    def codes() -> list[int]:
        tasks = machines.control("m1").ListTasks(ListTasksRequest(), timeout=60).tasks
        return [task.status.container.exit_code for task in tasks if task.service_annotations.name == "ends"]

    wait_until(lambda: codes() == [7, 7, 7], "all ends are known", 60)
    for task_id in before:
        lines = (w1.disk / "flota/tasks" / task_id / "log").read_text().splitlines()
        said = [int(line.split(" ", 3)[3]) for line in lines]
        assert said == list(range(len(said)))
        assert said


def test_a_node_that_leaves_stops_what_it_ran(machines: Swarm) -> None:
    m1, w1 = begin(machines)
    assert len(run_service(machines, w1)) == 2
    assert w1.flota("swarm", "leave", "--force") == "Node left the swarm.\n"
    assert containers(w1) == []
    assert w1.exec(["ls", "/run/flota/tasks"]).stdout == ""
    assert m1.flota("node", "ls", "--filter", "name=w1", "--format", "{{.Status}}").strip() == "Down"
    # Its images are still there, and so it can be a node again.
    token = m1.flota("swarm", "join-token", "-q", "worker").strip()
    w1.flota("swarm", "join", "--token", token, m1.address)
    wait_until(lambda: machines.running("web")["w1"] == 2, "its tasks run there again", 60)


def test_a_worker_with_containers_is_promoted_and_demoted(machines: Swarm) -> None:
    m1, w1 = begin(machines)
    before = run_service(machines, w1)
    m1.flota("node", "promote", "w1")
    wait_until(lambda: machines.ready("w1") == {"m1", "w1"}, "w1 answers as a manager")
    assert w1.flota("service", "ls", "--format", "{{.Name}} {{.Replicas}}").split() == ["web", "2/2"]
    # The first manager may go now.
    m1.flota("swarm", "leave")
    assert w1.flota("node", "ls", "--filter", "name=w1", "--format", "{{.ManagerStatus}}").strip() == "Leader"
    assert sorted(containers(w1)) == before

    token = w1.flota("swarm", "join-token", "-q", "manager").strip()
    m1.flota("swarm", "join", "--token", token, w1.address)
    m1.flota("node", "demote", "w1")
    wait_until(lambda: "Worker nodes can't" in w1.exec(["flota", "node", "ls"], check=False).stderr, "w1 is a worker")
    wait_until(lambda: "w1" in machines.ready(), "w1 has its session")
    assert sorted(containers(w1)) == before
    wait_until(lambda: processes(w1, "[f]lota.manager") == [], "no manager process is left")


def test_the_first_manager_is_killed_and_comes_back(machines: Swarm) -> None:
    m1, _ = begin(machines)
    [manager] = processes(m1, "[f]lota.manager")
    m1.exec(["kill", "-KILL", manager])
    wait_until(lambda: processes(m1, "[f]lota.manager") not in ([], [manager]), "another manager process")
    wait_until(lambda: machines.ready() == {"m1", "w1"}, "both nodes are READY")


def test_a_node_that_was_removed_is_told_and_can_come_back(machines: Swarm) -> None:
    m1, w1 = begin(machines)
    before = machines.nodes()["w1"].id
    m1.flota("node", "rm", "--force", "w1")

    def told() -> bool:
        state, _, error = w1.flota("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}").partition(" ")
        return state == "error" and f"node {before} was removed from this cluster: run flota swarm leave" in error

    wait_until(told, "w1 knows that it was removed")
    w1.flota("swarm", "leave")
    w1.flota("swarm", "join", "--token", m1.flota("swarm", "join-token", "-q", "worker").strip(), m1.address)
    assert machines.ready() == {"m1", "w1"}
    assert machines.nodes()["w1"].id != before


def test_a_worker_without_managers_says_so_and_goes_on(machines: Swarm) -> None:
    _, w1 = begin(machines)
    run_service(machines, w1)
    machines.lab.kill("m1")

    def told() -> bool:
        state, _, error = w1.flota("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}").partition(" ")
        return state == "active" and error.startswith("no session with a manager: ")

    wait_until(told, "w1 says that it has lost its managers")
    assert len(containers(w1)) == 2
    machines.lab.start("m1")
    wait_until(lambda: machines.ready() == {"m1", "w1"}, "both are READY", 60)
    assert w1.flota("info", "--format", "{{.Swarm.LocalNodeState}}{{.Swarm.Error}}").strip() == "active"
    assert len(containers(w1)) == 2


def test_a_machine_that_got_another_address_is_found_there(machines: Swarm) -> None:
    _, w1 = begin(machines)
    number = int(w1.address.rpartition(".")[2]) + 100
    moved = f"{w1.address.rpartition('.')[0]}.{number}"
    shown = w1.exec(["ip", "-o", "-4", "address", "show", "to", w1.address]).stdout.split()
    interface, prefix = shown[1], shown[3].partition("/")[2]
    w1.exec(["ip", "address", "del", f"{w1.address}/{prefix}", "dev", interface])
    w1.exec(["ip", "address", "add", f"{moved}/{prefix}", "dev", interface])
    w1.exec(["pkill", "-TERM", "-f", DAEMON])

    def is_known() -> bool:
        node = machines.nodes()["w1"]
        return node.status.address == moved and machines.ready() == {"m1", "w1"}

    wait_until(is_known, "w1 READY at its new address", 60)
    assert machines.local("w1").Info(InfoRequest(), timeout=60).node_address == moved
    run_service(machines, w1)
