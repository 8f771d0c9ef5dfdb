"""A worker that is killed at each point of a task's life: the next one takes the task up where it is.

The task's program is never started twice, its exit code is the one it ended with, and nothing is left of it.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from flota.v1.ids import new_id
from flota.v1.local_pb2 import RemoveVolumeRequest
from flota.v1.objects_pb2 import Network, Secret, Task
from flota.v1.types_pb2 import Driver, FileTarget, HealthConfig, IpamConfig, Mount, NetworkAttachment, TaskState
from tests.cluster.worker.leaks import left
from tests.cluster.worker.machine import Cluster, Machine, eventually, seconds
from tests.unit.dispatcher.swarm import Swarm

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUNNING, SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN
_ENDED = 9
_RUNTIME = "flota.worker.runtime.runtime:Runtime"
_MAKER = "flota.worker.runtime.making:Maker"
_JOURNAL = "flota.worker.tasks.journal:Journal"
# What `make test` looks at; the others are looked at by `make soak`.
_ALWAYS = [
    f"{_MAKER}._finish:after",
    "flota.worker.runtime.oci:Program.start:after",
    f"{_RUNTIME}.signal:after",
]
_POINTS = [
    # Before there is a container.
    f"{_JOURNAL}.assigned:before",
    f"{_JOURNAL}.assigned:after",
    "flota.worker.images.store:ImageStore.provide:before",
    "flota.worker.images.store:ImageStore.hold:after:2",
    "flota.worker.containers.bridges:Bridges.attach:before",
    "flota.overlay.network:Network.attach:after",
    "flota.worker.runtime.root:assemble:after",
    "flota.worker.volumes:Volumes.use:before",
    "flota.worker.volumes:fill:before",
    "flota.worker.volumes:fill:after",
    f"{_MAKER}._write_bundle:before",
    f"{_MAKER}._write_bundle:after",
    "flota.worker.runtime.monitor:launch:before",
    f"{_MAKER}._place:after",
    "flota.worker.runtime.monitor:launch:after",
    "flota.worker.runtime.monitor:Record.write:after",
    # What is remembered of it: READY, STARTING, STARTING (health), RUNNING, SHUTDOWN.
    *(f"{_JOURNAL}.observed:{when}:{number}" for number in range(1, 6) for when in ("before", "after")),
    "flota.worker.logs.chain:_prepare:before",
    "flota.worker.logs.chain:arrange:after",
    # It runs.
    "flota.worker.runtime.oci:Program.start:before",
    "flota.worker.runtime.oci:Program.execute:before",
    "flota.worker.runtime.oci:Program.execute:after",
    # It ends.
    f"{_RUNTIME}.signal:before",
    "flota.worker.containers.bridges:Bridges.detach:before",
    "flota.overlay.network:Network.detach:after",
    f"{_RUNTIME}.remove:before",
    f"{_RUNTIME}._leave_group:after",
    "flota.worker.logs.chain:finish:after",
    "flota.worker.volumes:Volumes.release:before",
    "flota.worker.volumes:Volumes.release:after",
    *(f"flota.worker.runtime.mounts:delete:after:{number}" for number in range(2, 6)),
    f"{_RUNTIME}._delete:before",
    f"{_RUNTIME}._delete:after",
    f"{_RUNTIME}._delete:after:2",
    f"{_JOURNAL}.forget:before",
    f"{_JOURNAL}.forget:after",
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Cluster, dict[str, object]]]:
    """One machine for all points, and what is on it without tasks."""
    directory = tmp_path_factory.mktemp("points")
    machine = Machine(directory)
    try:
        swarm = Swarm(directory, period=0.5, host=machine.gateway)
        async with swarm.serving():
            await swarm.node("w1")
            made = Cluster(swarm, machine)
            secret = Secret(id="s1")
            secret.spec.annotations.name, secret.spec.data = "password", b"hidden"
            ipam = IpamConfig(subnet="10.77.0.0/24", gateway="10.77.0.1")
            await swarm.create(Network(id="n1".ljust(25, "0"), vni=4096, ipam=[ipam]), secret)
            (directory / "door").mkdir()
            try:
                # The network is to stay, and once through it all is for whatever else stays for the next ones.
                await made.boot()
                keeper = made.task("keeper", "sleep", "100000")
                keeper.networks.append(NetworkAttachment(network_id="n1".ljust(25, "0"), addresses=["10.77.0.9/24"]))
                await swarm.create(keeper)
                await made.until(keeper, RUNNING)
                await through(made, task_with_everything(made))
                before = left(made)
                await machine.kill()
                yield made, before
            finally:
                await machine.end()
    finally:
        machine.close()


def task_with_everything(cluster: Cluster) -> Task:
    line = f"echo start >> /door/$ID; trap 'exit {_ENDED}' TERM; while :; do sleep 0.02; done"
    id = new_id()
    check = HealthConfig(test=["CMD", "true"], interval=seconds(0.1), retries=3)
    task = cluster.task(id, line, env=[f"ID={id}"], healthcheck=check, stop_grace_period=seconds(30))
    container = task.spec.container
    container.mounts.add(source=str(cluster.machine.directory / "door"), target="/door")
    container.mounts.add(type=Mount.TYPE_TMPFS, target="/t")
    container.mounts.add(type=Mount.TYPE_VOLUME, source=f"v{id}", target="/etc")
    container.mounts.add(type=Mount.TYPE_VOLUME, target="/nameless")
    container.secrets.add(secret_id="s1", secret_name="password", file=FileTarget(name="password"))
    task.log_driver.CopyFrom(Driver(name="json-file", options={"max-size": "1k", "max-file": "2"}))
    task.networks.append(NetworkAttachment(network_id="n1".ljust(25, "0"), addresses=["10.77.0.5/24"]))
    return task


async def through(cluster: Cluster, task: Task, dying: int = 0) -> None:
    """A task's whole life. The worker `dying`, which dies on the way, is followed by one that does not."""
    machine = cluster.machine
    await cluster.swarm.create(task)
    await eventually(lambda: cluster.status(task).state >= RUNNING or not machine.runs)
    if not machine.runs:
        await cluster.boot()
        await cluster.until(task, RUNNING)
    door = machine.directory / "door" / task.id
    await eventually(door.exists)
    pid = cluster.status(task).container.pid
    assert pid in machine.processes()
    await cluster.want(task, SHUTDOWN)
    await eventually(lambda: cluster.status(task).state > RUNNING or not machine.runs)
    if not machine.runs:
        await cluster.boot()
    status = await cluster.until(task, SHUTDOWN)
    assert status.container.exit_code == _ENDED, status
    await eventually(lambda: not cluster.has_container(task) or not machine.runs)
    await cluster.swarm.remove(task.id)
    if machine.worker == dying:
        await eventually(lambda: not machine.runs)
    await eventually(lambda: is_gone(machine, task) or not machine.runs)
    if not machine.runs:
        await cluster.boot()
    await eventually(lambda: is_gone(machine, task) and not cluster.has_container(task))
    assert door.read_text() == "start\n", "its program was started more than once"
    volume = f"v{task.id}"
    await eventually(lambda: not os.listdir(machine.state / "volumes" / volume / "users"))
    # The image's content came into the volume once, and wholly.
    data = machine.state / "volumes" / volume / "_data"
    assert sorted(os.listdir(data))[:1] == ["group"]
    async with machine.agent() as agent:
        await agent.RemoveVolume(RemoveVolumeRequest(name=volume))


def is_gone(machine: Machine, task: Task) -> bool:
    return not (machine.state / "tasks" / task.id).exists()


@pytest.mark.parametrize("point", [*_ALWAYS, *(pytest.param(one, marks=pytest.mark.soak) for one in _POINTS)])
async def test_killed(scene: tuple[Cluster, dict[str, object]], point: str) -> None:
    cluster, before = scene
    machine = cluster.machine
    await cluster.boot(die_at=point)
    try:
        await through(cluster, task_with_everything(cluster), machine.worker)
        try:
            await eventually(lambda: left(cluster) == before)
        except TimeoutError:
            assert left(cluster) == before
    finally:
        await machine.end()
