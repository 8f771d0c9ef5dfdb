"""Swarms in labs: real daemons, managers, workers and containers, and what befalls machines."""

from collections.abc import Callable

import grpc
import pytest

from flota.node.lab import Lab
from flota.v1.control_pb2 import CreateServiceRequest, ListServicesRequest
from flota.v1.local_pb2 import ListImagesRequest
from flota.v1.objects_pb2 import ManagerStatus
from flota.v1.specs_pb2 import ContainerSpec, ReplicatedService, ServiceSpec, TaskSpec
from flota.v1.types_pb2 import NODE_ROLE_MANAGER, Annotations
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.xdist_group("lab")


def sleepers(name: str, replicas: int) -> CreateServiceRequest:
    container = ContainerSpec(image="busybox", command=["sleep", "100000"])
    container.stop_grace_period.SetInParent()
    return CreateServiceRequest(
        spec=ServiceSpec(
            annotations=Annotations(name=name),
            task=TaskSpec(container=container),
            replicated=ReplicatedService(replicas=replicas),
        )
    )


def test_every_node_is_what_its_name_says(swarm: Swarm) -> None:
    nodes = swarm.nodes()
    assert set(nodes) == {"m1", "m2", "m3", "w1", "w2"}
    assert {name for name, node in nodes.items() if node.role == NODE_ROLE_MANAGER} == {"m1", "m2", "m3"}
    for name, node in nodes.items():
        assert node.status.address == swarm.lab.nodes[name].address


def test_every_node_has_the_same_busybox(swarm: Swarm) -> None:
    ids = set()
    for name in swarm.lab.nodes:
        images = swarm.agent(name).ListImages(ListImagesRequest(), timeout=60).images
        ids |= {image.id for image in images if "busybox:latest" in image.references or not image.references}
    assert len(ids) == 1


def test_commands_run_on_nodes(swarm: Swarm) -> None:
    listed = swarm.lab.nodes["m2"].flota("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
    assert sorted(listed.splitlines()) == [f"{name} Ready" for name in ("m1", "m2", "m3", "w1", "w2")]


def test_a_worker_that_loses_power_loses_its_tasks_to_others(swarm: Swarm) -> None:
    swarm.control().CreateService(sleepers("web", 10), timeout=60)
    wait_until(lambda: swarm.running("web").total() == 10, "ten tasks")
    assert swarm.running("web")["w1"] == 2
    swarm.lab.kill("w1")
    spread = wait_until(
        lambda: counted if "w1" not in (counted := swarm.running("web")) and counted.total() == 10 else None,
        "ten tasks elsewhere",
    )
    assert set(spread) == {"m1", "m2", "m3", "w2"}
    swarm.lab.start("w1")
    wait_until(lambda: "w1" in swarm.ready(), "w1 READY again")
    wait_until(lambda: swarm.containers("w1") == 0, "nothing of the past on w1")
    assert sum(map(swarm.containers, swarm.lab.nodes)) == 10


def test_a_leader_that_is_cut_off_is_replaced_and_comes_back(swarm: Swarm) -> None:
    def leader(via: str) -> str:
        try:
            managers = {name: node.manager_status for name, node in swarm.nodes(via).items()}
        except grpc.RpcError:
            return ""
        return next((name for name, status in managers.items() if status.leader), "")

    old = leader("m1")
    others = [name for name in ("m1", "m2", "m3") if name != old]
    swarm.lab.partition([old], [name for name in swarm.lab.nodes if name != old])
    new = wait_until(lambda: found if (found := leader(others[0])) in others else "", "another leader")
    swarm.control(new).CreateService(sleepers("after", 2), timeout=60)
    wait_until(lambda: swarm.running("after", new).total() == 2, "tasks without the old leader")

    def refuses() -> bool:
        with pytest.raises(grpc.RpcError) as refused:
            swarm.control(old).CreateService(sleepers("lost", 1), timeout=10)
        return refused.value.code() == grpc.StatusCode.UNAVAILABLE

    wait_until(refuses, "the old leader says that it leads nobody")
    swarm.lab.heal()
    wait_until(lambda: swarm.ready(old) == set(swarm.lab.nodes), "all READY, as the old leader sees it")

    def services() -> list[str]:
        listed = swarm.control(old).ListServices(ListServicesRequest(), timeout=60).services
        return [service.spec.annotations.name for service in listed]

    # As long as it knows of no leader it answers with what it knew.
    wait_until(lambda: services() == ["after"], "the old leader knows what was done without it")
    reachable = ManagerStatus.REACHABILITY_REACHABLE
    wait_until(
        lambda: all(swarm.nodes()[name].manager_status.reachability == reachable for name in ("m1", "m2", "m3")),
        "three managers within reach",
    )


def test_when_the_quorum_is_gone_every_manager_that_is_left_says_so_and_what_to_do(swarm: Swarm) -> None:
    managers = ("m1", "m2", "m3")

    def refusal(via: str) -> str:
        with pytest.raises(grpc.RpcError) as refused:
            swarm.control(via).CreateService(sleepers("lost", 1), timeout=60)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        return str(refused.value.details())

    # No connection breaks, so only silence tells; the leader and its followers alike notice it.
    for name in managers:
        swarm.lab.partition([name], [other for other in swarm.lab.nodes if other != name])
    for name in managers:
        told = refusal(name)
        assert "the swarm has lost its quorum: 1 of 3 managers can be reached" in told
        assert f"Reachable: {name} " in told
        assert all(other in told.partition("Missing: ")[2] for other in managers if other != name)
        assert "`flota swarm init --force-new-cluster` on one that is left" in told
    swarm.lab.heal()
    wait_until(lambda: swarm.ready() == set(swarm.lab.nodes), "all READY")


def test_a_crashed_daemon_comes_back_to_its_containers(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1, 1, swarm=False)
    m1, w1 = lab.nodes["m1"], lab.nodes["w1"]
    # However busy this machine is, the node is not missed before its daemon is back.
    m1.flota("swarm", "init", "--advertise-addr", m1.address, "--dispatcher-heartbeat", "30s")
    token = m1.flota("swarm", "join-token", "-q", "worker").strip()
    w1.flota("swarm", "join", "--token", token, f"{m1.address}:2377")

    def processes(name: str) -> list[str]:
        return w1.exec(["pgrep", *(["-x"] if name == "sleep" else ["-f"]), name], check=False).stdout.split()

    with Swarm(lab) as swarm:
        swarm.control().CreateService(sleepers("web", 4), timeout=60)
        wait_until(lambda: swarm.running("web") == {"m1": 2, "w1": 2}, "four tasks")
        tasks, sleeps, worker = {task.id for task in swarm.tasks("web")}, processes("sleep"), processes("flota.worker")
        assert len(sleeps) == 2
        w1.exec(["pkill", "-9", "-f", "flota.node --state-dir"])
        wait_until(lambda: (now := processes("flota.worker")) and now != worker, "another worker process")
        wait_until(lambda: swarm.ready() == {"m1", "w1"}, "w1 READY again")
        # What is made from now on is made by the new one.
        swarm.control().CreateService(sleepers("more", 2), timeout=60)
        wait_until(lambda: swarm.running("more") == {"m1": 1, "w1": 1}, "two more tasks")
        assert processes("sleep")[:2] == sleeps
        assert {task.id for task in swarm.tasks("web")} == tasks
        assert swarm.running("web") == {"m1": 2, "w1": 2}


def test_a_lab_of_one(make_lab: Callable[..., Lab]) -> None:
    with Swarm(make_lab(1, 0)) as swarm:
        assert swarm.ready() == {"m1"}
        swarm.control().CreateService(sleepers("web", 3), timeout=60)
        wait_until(lambda: swarm.running("web")["m1"] == 3, "three tasks")
