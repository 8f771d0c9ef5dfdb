"""A worker that dies, or loses its managers: containers go on, nothing that happened is lost."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from urllib.request import urlopen

import pytest

from flota.v1.local_pb2 import AgentStatusRequest, ListImagesRequest, RemoveAllTasksRequest, WatchSessionRequest
from flota.v1.objects_pb2 import Network, Task
from flota.v1.types_pb2 import HealthConfig, IpamConfig, Mount, NetworkAttachment, NodeState, TaskState
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


@pytest.mark.parametrize("run_on_disk", [False, True], ids=["run in memory", "run on disk"])
async def test_a_reboot(cluster: Cluster, run_on_disk: bool) -> None:
    """All that lived is gone, and that is what is told; what is on the disk is cleaned of it, and can be used again."""
    machine = cluster.machine
    if run_on_disk:
        machine.power_off()
        machine.power_on(run_on_disk=True)
    await cluster.boot()
    network = Network(id="n1".ljust(25, "0"), vni=4096, ipam=[IpamConfig(subnet="10.77.0.0/24", gateway="10.77.0.1")])
    data = Mount(type=Mount.TYPE_VOLUME, source="data", target="/data")
    memory = Mount(type=Mount.TYPE_VOLUME, source="memory", target="/memory")
    memory.volume_driver.options.update({"type": "tmpfs", "device": "tmpfs"})
    line = "echo here | tee -a /data/file /memory/file /written; exec sleep 1000"
    lives = cluster.task("lives", line, mounts=[data, memory], init=True)
    lives.networks.append(NetworkAttachment(network_id=network.id, addresses=["10.77.0.5/24"]))
    mute = cluster.task("mute", "sleep", "1000")
    mute.log_driver.name = "none"
    waits = cluster.task("waits", "sleep", "1000", stop_grace_period=seconds(0))
    waits.desired_state = READY
    ended = cluster.task("ended", "echo over; exit 5")
    await cluster.swarm.create(network, lives, mute, waits, ended)
    pids = [(await cluster.until(task, RUNNING)).container.pid for task in (lives, mute)]
    await cluster.until(waits, READY)
    await cluster.until(ended, FAILED)
    await eventually(lambda: cluster.output(lives) == ["here"])
    images = await image_ids(cluster)
    await machine.kill()
    machine.power_off()
    assert not any(map(alive, pids))
    machine.power_on(run_on_disk=run_on_disk)

    await cluster.boot()
    told = await cluster.until(lives, FAILED)
    assert (told.error, told.container.exit_code) == ("the machine went down, and the container with it", -1)
    assert (await cluster.until(mute, FAILED)).error in (
        "the machine went down, and the container with it",
        "the container is gone: the node lost it, or was started anew",
    )
    # An end that was told before stays what it was.
    assert cluster.status(ended).error == "task: non-zero exit (5)"
    # What had not begun is made anew.
    await cluster.want(waits, RUNNING)
    assert alive((await cluster.until(waits, RUNNING)).container.pid)
    assert await image_ids(cluster) == images
    # Of what ended its words are left, as long as managers know it.
    state = machine.state / "tasks"
    await eventually(lambda: not cluster.has_container(lives) and os.listdir(state / lives.id) == ["log"])
    assert cluster.output(lives) == ["here"]
    assert not os.listdir(machine.state / "volumes/data/users")

    # Another one in its place has the volume, and the address.
    again = cluster.task("again", line, mounts=[data, memory], stop_grace_period=seconds(0))
    again.networks.extend(lives.networks)
    for task in (lives, mute, ended):
        await cluster.swarm.remove(task.id)
    await cluster.swarm.create(again)
    await cluster.until(again, RUNNING)
    await eventually(lambda: (machine.state / "volumes/data/_data/file").read_text() == "here\nhere\n")
    await eventually(lambda: sorted(os.listdir(state)) == sorted((again.id, waits.id)))
    run = f"/proc/{machine.pid}/root{machine.run_directory}"
    assert sorted(os.listdir(f"{run}/tasks")) == sorted((again.id, waits.id))
    assert sorted(os.listdir(f"{run}/netns")) == sorted((again.id, f"net-{network.id}", waits.id))
    await eventually(lambda: cluster.output(again) == ["here"])
    # What is mounted for a volume is mounted anew: nothing was written below.
    assert read(f"/proc/{machine.pid}/root{machine.state}/volumes/memory/_data/file") == "here\n"
    await cluster.swarm.remove(again.id)
    await cluster.swarm.remove(waits.id)
    await eventually(lambda: not os.listdir(state) and not os.listdir(f"{run}/tasks") and not machine.processes())


def read(path: str) -> str:
    return Path(path).read_text()


async def image_ids(cluster: Cluster) -> list[str]:
    async with cluster.machine.agent() as agent:
        return [image.id for image in (await agent.ListImages(ListImagesRequest())).images]


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


@pytest.mark.parametrize("seed", [7, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(100, 130))])
async def test_killed_again_and_again_in_the_middle_of_everything(cluster: Cluster, seed: int) -> None:
    rng = Random(seed)
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
