"""A worker that dies, or loses its managers: containers go on, nothing that happened is lost."""

import asyncio
import os
import signal
import subprocess
import sys
from random import Random
from urllib.request import urlopen

import pytest

from flota.v1.local_pb2 import AgentStatusRequest, RemoveAllTasksRequest, WatchSessionRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import HealthConfig, NodeState, TaskState
from tests.cluster.worker.machine import Cluster, alive, eventually, seconds

READY, RUNNING, COMPLETE = TaskState.TASK_STATE_READY, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE
FAILED, SHUTDOWN = TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_SHUTDOWN
REMOVE = TaskState.TASK_STATE_REMOVE


async def test_containers_outlive_a_killed_worker(cluster: Cluster) -> None:
    await cluster.boot()
    stays = cluster.task("stays", "trap 'exit 4' TERM; echo ready; while true; do sleep 0.05; done")
    ends = cluster.task("ends", "while ! test -e /tmp/x/go; do sleep 0.02; done; exit 9")
    gone = cluster.task("gone", "sleep", "1000", stop_grace_period=seconds(0))
    waits = cluster.task("waits", "sleep", "1000", stop_grace_period=seconds(0))
    waits.desired_state = READY
    door = cluster.machine.directory / "door"
    door.mkdir()
    ends.spec.container.mounts.add(source=str(door), target="/tmp/x")
    await cluster.swarm.create(stays, ends, gone, waits)
    pids = {task.id: (await cluster.until(task, RUNNING)).container.pid for task in (stays, ends, gone)}
    await cluster.until(waits, READY)
    await cluster.machine.kill()
    (door / "go").touch()
    await eventually(lambda: not alive(pids[ends.id]))
    await cluster.swarm.remove(gone.id)
    assert alive(pids[stays.id])
    assert alive(pids[gone.id])

    await cluster.boot()
    assert (await cluster.until(ends, FAILED)).container.exit_code == 9
    await eventually(lambda: not cluster.has_container(gone))
    assert not alive(pids[gone.id])
    await cluster.want(waits, RUNNING)
    await cluster.until(waits, RUNNING)
    assert alive(pids[stays.id])
    assert cluster.status(stays).container.pid == pids[stays.id]
    await cluster.want(stays, SHUTDOWN)
    assert (await cluster.until(stays, SHUTDOWN)).container.exit_code == 4


async def test_health_is_looked_after_by_the_next_worker(cluster: Cluster) -> None:
    await cluster.boot()
    sick = cluster.machine.directory / "sick"
    sick.mkdir()
    check = HealthConfig(test=["CMD", "test", "!", "-e", "/tmp/sick/now"], interval=seconds(0.05), retries=1)
    task = cluster.task("health", "sleep", "1000", healthcheck=check, stop_grace_period=seconds(0))
    task.spec.container.mounts.add(source=str(sick), target="/tmp/sick")
    await cluster.swarm.create(task)
    await cluster.until(task, RUNNING)
    await cluster.machine.kill()
    await cluster.boot()
    (sick / "now").touch()
    assert (await cluster.until(task, FAILED)).error == "unhealthy: the health check failed, at last: exit code 1"


async def test_a_container_that_went_with_the_machine_is_a_failure(cluster: Cluster) -> None:
    await cluster.boot()
    task = cluster.task("lost", "sleep", "1000")
    await cluster.swarm.create(task)
    pid = (await cluster.until(task, RUNNING)).container.pid
    await cluster.machine.kill()
    cluster.machine.power_off()
    assert not alive(pid)
    await cluster.boot()
    assert "the container's monitor was lost" in (await cluster.until(task, FAILED)).error


async def test_without_managers_everything_goes_on_and_is_told_later(cluster: Cluster) -> None:
    await cluster.boot()
    stays, ends = cluster.task("stays", "sleep", "1000"), cluster.task("ends", "sleep", "1000")
    await cluster.swarm.create(stays, ends)
    kept, killed = [(await cluster.until(task, RUNNING)).container.pid for task in (stays, ends)]
    await cluster.swarm.lose()
    async with cluster.machine.agent() as agent:
        session = True
        while session:
            await asyncio.sleep(0.01)
            session = (await agent.Status(AgentStatusRequest())).session
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: not cluster.has_container(ends))
        assert (await agent.Status(AgentStatusRequest())).containers_running == 1
    assert cluster.status(ends).state == RUNNING
    await cluster.swarm.lead()
    assert (await cluster.until(ends, FAILED)).error == "task: non-zero exit (137): SIGKILL"
    assert alive(kept)


async def test_a_leaving_node_says_goodbye_and_keeps_nothing(cluster: Cluster) -> None:
    await cluster.boot()
    tasks = [cluster.task(f"t{number}", "sleep", "1000") for number in range(3)]
    await cluster.swarm.create(*tasks)
    pids = [(await cluster.until(task, RUNNING)).container.pid for task in tasks]
    async with cluster.machine.agent() as agent:
        assert (await agent.RemoveAllTasks(RemoveAllTasksRequest(kill=True))).tasks == 3
        assert not any(map(alive, pids))
        assert not any(map(cluster.has_container, tasks))
        assert not any(cluster.log_file(task).exists() for task in tasks)
        assert (await agent.Status(AgentStatusRequest())).containers_running == 0
    assert cluster.swarm.state("w1") == NodeState.NODE_STATE_DOWN


async def test_a_worker_of_no_cluster_removes_what_is_left_and_joins_in_place(cluster: Cluster) -> None:
    await cluster.boot()
    task = cluster.task("left", "sleep", "1000")
    await cluster.swarm.create(task)
    pid = (await cluster.until(task, RUNNING)).container.pid
    await cluster.machine.kill()

    assert await cluster.machine.start(cluster.machine.config(None)) == "ready"
    assert not alive(pid)
    assert not cluster.has_container(task)
    await cluster.swarm.remove(task.id)
    async with cluster.machine.agent() as agent:
        status = await agent.Status(AgentStatusRequest())
        assert (status.session, status.description.hostname, status.runtime) == (False, "machine-one", "crun")
        watch = agent.WatchSession(WatchSessionRequest())
        assert await cluster.machine.tell(cluster.config()) == "ready"
        message = await anext(aiter(watch))
        assert (message.node.id, message.managers[0].address) == ("w1", cluster.swarm.address)
        watch.cancel()
    again = cluster.task("again", "true")
    await cluster.swarm.create(again)
    await cluster.until(again, COMPLETE)
    assert await cluster.machine.stop() == 0


async def test_it_tells_about_its_machine(cluster: Cluster) -> None:
    await cluster.boot(engine_labels={"disk": "ssd"}, generic_resources=["gpu=2", "fpga=one"])
    await cluster.swarm.until(lambda: cluster.node().description.hostname == "machine-one")
    described = cluster.node().description
    assert (described.platform.os, described.data_path_address) == ("linux", cluster.machine.address)
    assert described.resources.nano_cpus >= 1_000_000_000
    assert [(one.kind, one.name, one.count) for one in described.resources.generic] == [
        ("gpu", "", 2),
        ("fpga", "one", 0),
    ]
    assert described.engine.labels == {"disk": "ssd"}
    assert described.tls_info.trust_root == cluster.swarm.root_pem


async def test_its_metrics(cluster: Cluster) -> None:
    address = f"{cluster.machine.address}:9324"
    await cluster.boot(metrics_address=address)
    task, ended = cluster.task("runs", "sleep", "1000"), cluster.task("ends", "true")
    await cluster.swarm.create(task, ended)
    await cluster.until(task, RUNNING)
    await cluster.until(ended, COMPLETE)
    shown = await asyncio.to_thread(lambda: urlopen(f"http://{address}/metrics").read().decode().splitlines())
    assert {
        'flota_worker_tasks{state="running"} 1.0',
        'flota_worker_tasks{state="complete"} 1.0',
        'flota_worker_tasks_ended_total{state="complete"} 1.0',
        "flota_worker_container_starts_total 2.0",
        "flota_worker_container_start_seconds_count 2.0",
        "flota_worker_session 1.0",
    } <= set(shown)


async def test_a_worker_that_cannot_work_says_why(cluster: Cluster) -> None:
    answer = await cluster.machine.start(cluster.config(generic_resources=["gpu"]))
    assert answer == "failed invalid generic resource 'gpu': KIND=NUMBER or KIND=NAME is needed"
    answer = await cluster.machine.start(cluster.machine.config(cluster.machine.directory / "nobody"))
    assert answer.startswith("failed ")
    assert "nobody/cert.pem" in answer


async def test_killed_again_and_again_in_the_middle_of_everything(cluster: Cluster) -> None:
    rng = Random(7)
    await cluster.boot()
    wanted: dict[str, Task] = {}
    ended: list[Task] = []
    for turn in range(6):
        fresh = [cluster.task(f"turn{turn}task{number}", "sleep", "1000") for number in range(6)]
        for one in fresh:
            one.spec.container.stop_grace_period.CopyFrom(seconds(0))
        leaving = rng.sample(sorted(wanted), len(wanted) // 2)
        await cluster.swarm.create(*fresh)
        await cluster.swarm.change_all(leaving, lambda one: setattr(one, "desired_state", REMOVE))
        ended += [wanted.pop(id) for id in leaving]
        wanted |= {one.id: one for one in fresh}
        # Anywhere between the first assignment and the last report.
        await asyncio.sleep(rng.uniform(0.0, 0.4))
        await cluster.machine.kill()
        await cluster.boot()
    pids = [(await cluster.until(one, RUNNING)).container.pid for one in wanted.values()]
    assert len(set(pids)) == len(wanted)
    assert all(map(alive, pids))
    for one in ended:
        await cluster.until(one, SHUTDOWN)
        await cluster.swarm.remove(one.id)
    await eventually(lambda: not any(map(cluster.has_container, ended)))
    # One process each, and no other: none was started twice.
    assert sorted(cluster.machine.processes()) == sorted(pids)


@pytest.mark.parametrize(
    ("line", "why"),
    [("printf '{}{}\\n' |", "this is no configuration of a worker: "), ("</dev/null", "standard input is no pipe: ")],
)
def test_what_is_no_configuration_is_said_in_one_line(line: str, why: str) -> None:
    done = subprocess.run(["sh", "-c", f"{line} {sys.executable} -m flota.worker"], capture_output=True, check=False)
    assert done.stdout.decode().startswith(f"failed {why}")
    assert (done.returncode, done.stderr) == (1, b"")
