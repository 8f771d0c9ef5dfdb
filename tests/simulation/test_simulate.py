"""`flota simulate`: the same decisions as the cluster's, the same every time."""

import json
from pathlib import Path
from typing import Any

import pytest

from flota.simulation.__main__ import main
from flota.simulation.cluster import SimulatedCluster
from flota.simulation.virtual_time import run
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import RebalancePolicy, TaskState

PLAN = """
name: plan
services:
  db:
    image: db
    deploy: {replicas: 2, placement: {constraints: [node.labels.disk==ssd]}, resources: {reservations: {cpus: "2"}}}
  web:
    image: web
    depends_on: {db: {condition: service_healthy}}
    deploy:
      replicas: 12
      placement: {preferences: [{spread: node.labels.zone}]}
      resources: {reservations: {cpus: "1"}}
  once: {image: once, deploy: {mode: replicated-job, replicas: 3}}
"""


def simulate(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    status = main([*argv, "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture
def plan(tmp_path: Path) -> str:
    file = tmp_path / "plan.yml"
    file.write_text(PLAN)
    return str(file)


def test_a_plan_is_deployed_loses_nodes_and_gets_them_back(plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--nodes", "10", "--cpus", "4", "--label", "zone=a,b", "--label", "disk=ssd,hdd", "--services", plan,
            "--fail", "20%", "--back")  # fmt: skip
    status, phases = simulate(capsys, *argv)
    assert status == 0
    assert [phase["name"] for phase in phases] == ["deploy", "2 nodes fail", "they come back"]
    assert [(phase["nodes"], phase["running"], phase["waiting"]) for phase in phases] == [
        (10, 14, 0), (8, 14, 0), (10, 14, 0)
    ]  # fmt: skip
    assert all(phase["completed"] == 3 and phase["came_to_rest"] for phase in phases)
    told = [(part["name"], part["running"], part["completed"], part["nodes"]) for part in phases[0]["services"]]
    assert told == [("plan_db", 2, 0, 2), ("plan_once", 0, 3, 0), ("plan_web", 12, 0, 10)]
    # The same seed, the same result.
    assert simulate(capsys, *argv) == (status, phases)


def test_what_finds_no_node_is_told_with_the_reason_and_a_status(plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, [phase] = simulate(capsys, "--nodes", "2", "--cpus", "4", "--label", "disk=ssd", "--services", plan)
    assert status == 1
    assert (phase["running"], phase["waiting"]) == (6, 8)
    assert phase["reasons"] == {"no suitable node (insufficient resources on 2 nodes)": 8}
    assert main(["--nodes", "2", "--cpus", "4", "--label", "disk=ssd", "--services", plan]) == 1
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "plan_web 4 8 2 2 no suitable node (insufficient resources on 2 nodes)" in told
    assert "plan_once 3 done - - -" in told


def test_nodes_have_generic_resources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = "{reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: 1}}]}}"
    file = tmp_path / "plan.yml"
    file.write_text(f"services: {{ml: {{image: ml, deploy: {{replicas: 5, resources: {gpu}}}}}}}")
    status, [phase] = simulate(capsys, "--nodes", "2", "--generic-resource", "gpu=2", "--services", str(file))
    assert (status, phase["running"], phase["waiting"]) == (1, 4, 1)


def test_a_big_cluster_notices_later_as_its_heartbeats_are_further_apart(capsys: pytest.CaptureFixture[str]) -> None:
    _, [_, small] = simulate(capsys, "--nodes", "10", "--tasks", "20", "--fail", "1")
    _, [_, big] = simulate(capsys, "--nodes", "1000", "--tasks", "20", "--fail", "100")
    assert big["seconds"] > small["seconds"] + 5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nodes", "0", "--tasks", "1"], "invalid --nodes 0: 1 to 20000 are allowed"),
        (["--nodes", "3"], "nothing to run: give --services FILE (a Compose file) or --tasks N"),
        (["--tasks", "1", "--fail", "x"], "invalid --fail 'x': a share such as 10% is needed, or a number up to 10"),
        (["--tasks", "1", "--fail", "11"], "invalid --fail '11': a share such as 10% is needed, or a number up to 10"),
        (["--tasks", "1", "--label", "a"], "invalid --label 'a': KEY=VALUE[,VALUE…] is needed; nodes get one"),
        (["--services", "/none.yml"], "/none.yml"),
        (["--tasks", "1", "--generic-resource", "gpu"], "invalid --generic-resource 'gpu': KIND=NUMBER is needed"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 125
    err = capsys.readouterr().err
    assert err.startswith("flota simulate: ")
    assert said in err
    assert err.count("\n") == 1


def test_nodes_that_fail_and_come_back_get_exactly_their_share_again() -> None:
    async def story() -> None:
        cluster = SimulatedCluster(seed=3)
        async with cluster.alive():
            nodes = await cluster.add_nodes(200)
            spec = ServiceSpec()
            spec.annotations.name = "web"
            spec.replicated.replicas = 1000
            spec.update.parallelism = 50
            spec.rebalance = RebalancePolicy.REBALANCE_POLICY_ON_JOIN
            await cluster.create([spec])
            await cluster.settle()
            dead = nodes[:20]
            await cluster.fail(dead)
            await cluster.settle()
            await cluster.revive(dead)
            _, rest = await cluster.settle()
            assert rest
            tasks = [task for task in cluster.wanted() if task.status.state == TaskState.TASK_STATE_RUNNING]
            assert len(tasks) == 1000
            counts = [sum(1 for task in tasks if task.node_id == node) for node in nodes]
            # Exactly what was lost came back, and no more was moved than that.
            assert set(counts) == {5}
            assert sum(1 for task in tasks if task.moves) == 100

    run(story())
