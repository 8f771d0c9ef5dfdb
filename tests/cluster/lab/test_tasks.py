"""`flota exec`, `stats`, `task` as a person types them on nodes of a real swarm: a manager, another one, a worker."""

import json
import os
import pty
import subprocess
import sys
import termios

import pytest

from flota.node.lab import Lab
from flota.v1.ids import container_id
from flota.v1.types_pb2 import TASK_STATE_RUNNING
from tests.cluster.swarm import Swarm
from tests.cluster.waiting import wait_until

FLOTA = [sys.executable, "-m", "flota.cli"]
CREATE = [
    "service",
    "create",
    "-d",
    "--mode",
    "global",
    "--stop-grace-period",
    "100ms",
    "--restart-delay",
    "0s",
    "--name",
]
pytestmark = pytest.mark.xdist_group("lab")


class Cli:
    """Runs `flota` on a node."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, node: str, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        env = os.environ | {"FLOTA_HOST": self.lab.nodes[node].host}
        return subprocess.run(
            [*FLOTA, *command], input=given, capture_output=True, text=True, env=env, timeout=60, check=False
        )


@pytest.fixture
def cli(swarm: Swarm, lab: Lab) -> Cli:
    run = Cli(lab)
    created = run("m1", *CREATE, "web", "busybox", "sleep", "100000")
    assert created.returncode == 0, created.stderr
    wait_until(lambda: len(swarm.running("web")) == len(lab.nodes), "a task on each node")
    return run


def test_from_any_manager_and_on_workers_their_own(cli: Cli, swarm: Swarm) -> None:
    for via, node in (("m1", "w1"), ("m2", "m3")):
        done = cli(via, "exec", f"web.{node}", "sh", "-c", "hostname; exit 3")
        assert (done.returncode, done.stderr) == (3, "")
        names = {container_id(task.id)[:12] for task in swarm.tasks("web") if swarm.nodes()[node].id == task.node_id}
        assert {done.stdout.strip()} == names
    assert cli("w1", "exec", "-i", "web", "cat", given="hello\n").stdout == "hello\n"
    elsewhere = cli("w1", "exec", "web.w2", "true")
    assert elsewhere.returncode == 1
    assert "no task web.w2 on this node: commands for tasks of other nodes are a manager's" in elsewhere.stderr
    missing = cli("m1", "exec", "web", "nosuch")
    assert missing.returncode == 127
    assert missing.stderr.startswith("flota: ")
    assert missing.stderr.count("\n") == 1


def test_a_terminal_is_put_back(cli: Cli, lab: Lab) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    env = os.environ | {"FLOTA_HOST": lab.nodes["m2"].host}
    process = subprocess.Popen(
        [*FLOTA, "exec", "-it", "web.w1", "sh"], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    seen = b""
    try:
        while b"# " not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"exit 4\n")
        assert process.wait(timeout=60) == 4
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_lists_figures_and_processes(cli: Cli, swarm: Swarm) -> None:
    stats = cli("m2", "stats", "--no-stream", "--format", "json")
    assert (stats.returncode, stats.stderr) == (0, "")
    rows = [json.loads(line) for line in stats.stdout.splitlines()]
    assert {row["Node"] for row in rows} == set(swarm.lab.nodes)
    assert all(row["PIDs"] == 1 and row["CPUPerc"].endswith("%") for row in rows)
    listed = cli("m1", "task", "ls", "-q")
    assert set(listed.stdout.splitlines()) == {task.id[:12] for task in swarm.tasks("web")}
    top = cli("m1", "task", "top", "web.w2", "-eo", "pid,args")
    assert "sleep 100000" in top.stdout
    task = next(task for task in swarm.tasks("web") if task.node_id == swarm.nodes()["w2"].id)
    assert json.loads(cli("m1", "task", "inspect", task.id).stdout)[0]["ID"] == task.id
    assert cli("m1", "task", "kill", "web.w2").returncode == 0

    def replaced() -> bool:
        now = [one for one in swarm.tasks("web") if one.node_id == task.node_id]
        return [one.status.state for one in now] == [TASK_STATE_RUNNING] and now[0].id != task.id

    wait_until(replaced, "another task in its place")


def test_volumes_of_any_node_from_any_manager(swarm: Swarm, lab: Lab) -> None:
    run = Cli(lab)

    def there(node: str) -> set[str]:
        return set(run(node, "volume", "ls", "--here", "-q").stdout.split())

    def done(*command: str) -> str:
        finished = run("m2", "volume", *command)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    for name in ("only-there", "unused", "kept"):
        assert done("create", "--node", "w1", "--label", f"is={name}", name) == f"{name}\n"
    assert {"only-there", "unused", "kept"} <= there("w1")
    assert not {"only-there", "unused", "kept"} & there("m2")
    wait_until(lambda: "only-there" in run("m2", "volume", "ls", "-q").stdout, "the managers know of it")
    writes = [*CREATE[:3], "--constraint", "node.hostname==w1", "--mount", "source=kept,target=/data", "--name", "use"]
    line = "head -c 3000 /dev/zero > /data/it; sleep 100000"
    created = run("m2", *writes, "--stop-grace-period", "100ms", "busybox", "sh", "-c", line)
    assert created.returncode == 0, created.stderr
    names = "{{.Name}} {{.Node}} {{.Links}}"
    wait_until(lambda: "kept w1 1\n" in run("m2", "volume", "ls", "--format", names).stdout, "it is used", step=0.2)
    used = ("--filter", "dangling=false", "--format", "{{.Name}} {{.Size}}")
    wait_until(lambda: run("m2", "volume", "ls", *used).stdout == "kept 3kB\n", "its size", step=0.2)
    unused = run("m3", "volume", "ls", "--filter", "dangling=true", "--filter", "node=w1", "-q").stdout.split()
    assert {"only-there", "unused"} <= set(unused)
    assert "kept" not in unused
    [shown] = json.loads(run("m3", "volume", "inspect", "kept").stdout)
    assert (shown["Node"], shown["UsageData"]) == ("w1", {"Size": 3000, "RefCount": 1})
    assert [task.id for task in swarm.tasks("use")] == shown["Tasks"]
    assert shown["Mountpoint"].endswith("/volumes/kept/_data")
    run("m2", "service", "rm", "use")
    wait_until(lambda: "kept w1 0\n" in run("m2", "volume", "ls", "--format", names).stdout, "it is let go", step=0.2)
    assert done("rm", "only-there") == "only-there\n"
    unused = ("prune", "--force", "--all-nodes", "--filter", "label=is=unused")
    assert "unused" not in done(*unused).splitlines(), "somebody has named it"
    assert done(*unused, "--all").splitlines()[0] == "unused"
    assert {"only-there", "unused", "kept"} & there("w1") == {"kept"}
    assert done("rm", "--node", "w1", "kept") == "kept\n"
    missing = run("m2", "volume", "rm", "--node", "w1", "kept")
    assert (missing.returncode, missing.stderr) == (1, "flota: Error response from daemon: no such volume: kept\n")


def test_logs_of_all_nodes_in_order_of_time(swarm: Swarm, lab: Lab) -> None:
    cli = Cli(lab)
    line = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.05; done; sleep 100000"
    cli("m1", *CREATE, "say", "busybox", "sh", "-c", line)
    wait_until(
        lambda: cli("m1", "service", "logs", "--raw", "say").stdout.count("9\n") == len(lab.nodes),
        "all lines",
        step=0.2,
    )
    stamps = [line.split()[0] for line in cli("m2", "service", "logs", "-t", "say").stdout.splitlines()]
    assert len(stamps) == 9 * len(lab.nodes)
    assert stamps == sorted(stamps)
    middle = stamps[len(stamps) // 2]
    assert len(cli("m1", "service", "logs", "--until", middle, "say").stdout.splitlines()) == len(stamps) // 2 + 1
    assert len(cli("m1", "service", "logs", "--since", middle, "say").stdout.splitlines()) == len(stamps) // 2 + 1
