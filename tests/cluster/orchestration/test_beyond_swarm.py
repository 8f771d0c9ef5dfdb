"""What flota does beyond Swarm, with real containers: updates, drains and rebalances that start first and lose no
request; dependencies, stop and start, readiness; rollback to any revision."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flota.node.lab import Lab
from flota.v1.control_pb2 import ListTasksRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import TASK_STATE_RUNNING
from tests.cluster.mesh.test_published_ports import HEALTH, HERE, MOUNTS, STRICT, answers
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

QUICK = ("--update-monitor", "100ms", "--restart-delay", "0s", "--stop-grace-period", "1s")


@pytest.fixture
def swarm(make_lab: Callable[..., Lab]) -> Iterator[Swarm]:
    """One manager and two workers."""
    with Swarm(make_lab(1, 2)) as swarm:
        yield swarm


@contextmanager
def load(swarm: Swarm) -> Iterator[list[dict[str, dict[str, int]]]]:
    """200 requests a second, to the published port of each node in turn; the list has the result afterwards."""
    addresses = [f"{node.address}:8080" for node in swarm.lab.nodes.values()]
    command = [sys.executable, str(HERE / "load.py"), "0.005", "/cgi-bin/who", *addresses]
    results: list[dict[str, dict[str, int]]] = []
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        yield results
        results.append(json.loads(client.communicate(timeout=120)[0]))
    finally:
        client.kill()
        client.wait()


def create(swarm: Swarm, name: str, *argv: str) -> None:
    swarm.lab.nodes["m1"].flota("service", "create", "--detach", "--name", name, *QUICK, *argv)


def all_tasks(swarm: Swarm, service: str) -> list[Task]:
    """Also those that have ended."""
    tasks = swarm.control().ListTasks(ListTasksRequest(), timeout=60).tasks
    return [task for task in tasks if task.service_annotations.name == service]


def versions(swarm: Swarm, service: str) -> Counter[str]:
    """Hostnames of the tasks that run."""
    tasks = swarm.tasks(service)
    return Counter(task.spec.container.hostname for task in tasks if task.status.state == TASK_STATE_RUNNING)


def test_update_drain_and_rebalance_start_first_and_lose_no_request(swarm: Swarm) -> None:
    m1 = swarm.lab.nodes["m1"]
    create(swarm, "web", "--replicas", "3", "--hostname", "v1", "-p", "8080:80", "--update-order", "start-first",
           "--rebalance", "on-join", *MOUNTS, *HEALTH, *STRICT)  # fmt: skip
    wait_until(lambda: swarm.running("web") == {"m1": 1, "w1": 1, "w2": 1}, "all run", 60)
    for node in swarm.lab.nodes.values():
        wait_until(lambda node=node: answers(node.address), "all nodes answer")
    with load(swarm) as results:
        m1.flota("service", "update", "--detach", "--hostname", "v2", "web")
        wait_until(lambda: versions(swarm, "web") == {"v2": 3}, "all tasks are new", 90)
        # Docker stops first here, and the service is away for seconds.
        drained = next(name for name in swarm.running("web") if name != "m1")
        said = m1.flota("node", "update", "--availability", "drain", "--wait", drained)
        assert said.splitlines()[-1] == f"Node {drained} runs no tasks."
        wait_until(lambda: swarm.running("web").total() == 3 and drained not in swarm.running("web"), "they have moved")
        m1.flota("node", "update", "--availability", "active", drained)
        wait_until(lambda: swarm.running("web") == {"m1": 1, "w1": 1, "w2": 1}, "evened out again", 90)
    [result] = results
    assert not result["errors"], Counter(result["errors"])
    assert result["answers"]["v1"] > 0
    assert result["answers"]["v2"] > 0
    told = m1.flota("service", "explain", "--history", "web")
    words = (
        "spec version",
        "start-first",
        f"{drained} is drained: starts before",
        "rebalance: moves",
        "nodes that fit",
    )
    for word in words:
        assert word in told, told


def test_dependencies_readiness_stop_and_rollback(swarm: Swarm, tmp_path: Path) -> None:
    m1 = swarm.lab.nodes["m1"]
    sick, slow = tmp_path / "sick", tmp_path / "slow"
    slow.touch()
    create(swarm, "app", "--depends-on", "db:healthy", "busybox:latest", "sleep", "9999")
    create(
        swarm, "db", "--mount", f"type=bind,source={tmp_path},target=/flags", "--health-action", "unready",
        "--health-cmd", "test ! -e /flags/slow -a ! -e /flags/sick", "--health-interval", "200ms", "--health-retries",
        "2", "--health-start-period", "600s", "--health-start-interval", "200ms", "busybox:latest", "sleep", "9999",
    )  # fmt: skip
    wait_until(lambda: "waits for service db to be healthy" in m1.flota("service", "explain", "app"), "app waits")
    assert not all_tasks(swarm, "app")
    slow.unlink()
    wait_until(lambda: swarm.running("app").total() == 1, "app runs once db is healthy")

    # Unready, not restarted.
    [first] = swarm.tasks("db")
    sick.touch()
    wait_until(lambda: [task.status.unready for task in swarm.tasks("db")] == [True], "db is not ready")
    assert "not ready" in m1.flota("service", "ps", "db")
    sick.unlink()
    wait_until(lambda: [task.status.unready for task in swarm.tasks("db")] == [False], "db is ready again")
    assert [task.id for task in swarm.tasks("db")] == [first.id]

    m1.flota("service", "stop", "app")
    assert not swarm.running("app")
    m1.flota("service", "start", "app")
    wait_until(lambda: swarm.running("app").total() == 1, "app runs again")

    for version in ("v1", "v2"):
        m1.flota("service", "update", "-q", "--hostname", version, "app")
    revisions = m1.flota("service", "history", "--format", "{{.Revision}}: {{.Changes}}", "app").splitlines()
    [number] = [line.partition(":")[0] for line in revisions if line.endswith(": hostname")][1:]
    m1.flota("service", "rollback", "-q", "--to", number, "app")
    assert versions(swarm, "app") == {"v1": 1}
