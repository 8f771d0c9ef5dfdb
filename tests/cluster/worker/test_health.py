"""Health checks of a real image, in containers of a real worker, and what the node shows of them."""

import asyncio
import json
import tarfile
from pathlib import Path

from flota.v1.local_pb2 import ImportImageRequest, ListLocalTasksRequest, LocalContainer
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import ContainerHealth, HealthConfig, Mount, TaskState
from tests.cluster.worker.machine import PATIENCE, Cluster, alive, eventually, seconds

STARTING, RUNNING, FAILED = TaskState.TASK_STATE_STARTING, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_FAILED


async def make_image(cluster: Cluster, *changes: str) -> None:
    """An image `checked`: busybox, and what Dockerfile instructions add to it."""
    with tarfile.open(cluster.machine.directory / "busybox.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        root = archive.extractfile(json.load(manifest)[0]["Layers"][0])
        assert root is not None
        data = root.read()
    async with cluster.machine.agent() as agent:
        options = ImportImageRequest.Options(reference="checked", changes=changes)
        await agent.ImportImage(iter([ImportImageRequest(options=options), ImportImageRequest(data=data)]))


async def shown(cluster: Cluster, task: Task) -> LocalContainer:
    """What the node knows of the task's container."""
    async with cluster.machine.agent() as agent:
        return (await agent.ListTasks(ListLocalTasksRequest())).containers[task.id]


async def test_the_images_check_alone_decides_when_a_task_runs_and_that_it_fails(
    cluster: Cluster, tmp_path: Path
) -> None:
    await cluster.boot()
    await make_image(
        cluster,
        "HEALTHCHECK --interval=100ms --start-period=10m --start-interval=50ms --retries=2 "
        "CMD test -e /door/well && echo fine || { echo not well; exit 3; }",
    )
    door = Mount(type=Mount.TYPE_BIND, source=str(tmp_path), target="/door")
    task = cluster.task("checked", "sleep", "1000", mounts=[door], stop_grace_period=seconds(0))
    unchecked = cluster.task("unchecked", "sleep", "1000", healthcheck=HealthConfig(test=["NONE"]))
    for one in (task, unchecked):
        one.spec.container.image = "checked"
    await cluster.swarm.create(task, unchecked)
    await cluster.until(unchecked, RUNNING)
    assert not (await shown(cluster, unchecked)).HasField("health"), "--no-healthcheck turns the image's off"
    pid = (await cluster.until(task, STARTING)).container.pid
    assert alive(pid)
    async with asyncio.timeout(PATIENCE):
        health = ContainerHealth()
        while len(health.log) < 5:
            await asyncio.sleep(0.02)
            health = (await shown(cluster, task)).health
    # Failures of the start period do not count.
    assert (health.state, health.failing_streak) == (ContainerHealth.STATE_STARTING, 0)
    assert {(probe.exit_code, probe.output) for probe in health.log} == {(3, "not well")}
    times = [(probe.started_at.ToNanoseconds(), probe.ended_at.ToNanoseconds()) for probe in health.log]
    assert all(begun < ended for begun, ended in times)
    assert times == sorted(times)
    (tmp_path / "well").touch()
    await cluster.until(task, RUNNING)
    health = (await shown(cluster, task)).health
    assert (health.state, health.log[-1].exit_code, health.log[-1].output) == (ContainerHealth.STATE_HEALTHY, 0, "fine")
    assert len(health.log) == 5

    # The next worker knows that it was healthy, and goes on.
    await cluster.machine.kill()
    await cluster.boot()
    await eventually(lambda: cluster.node().status.state)
    assert (await shown(cluster, task)).health.state == ContainerHealth.STATE_HEALTHY
    (tmp_path / "well").unlink()
    status = await cluster.until(task, FAILED)
    assert status.error == "unhealthy: the health check failed 2 times in a row, at last: exit code 3: not well"
    assert not alive(pid)
    # What it failed of can still be looked at.
    health = (await shown(cluster, task)).health
    assert (health.state, health.failing_streak) == (ContainerHealth.STATE_UNHEALTHY, 2)
    assert [probe.exit_code for probe in health.log][-2:] == [3, 3]
