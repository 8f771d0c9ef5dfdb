"""Images of a real worker that go by themselves, and those that do not: they came from a real registry."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flota.v1.local_pb2 import ListImagesRequest
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import TaskState
from tests.cluster.images.registry import Registry
from tests.cluster.worker.machine import PATIENCE, Cluster, alive, eventually, run, seconds
from tests.unit.images.making import MadeImage, directory, entry, link, tar

READY, RUNNING, COMPLETE = TaskState.TASK_STATE_READY, TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_COMPLETE
BUSYBOX = Path("/usr/bin/busybox").read_bytes()
SHELL = tar([directory("bin"), (entry("bin/busybox", mode=0o755), BUSYBOX), link("bin/sh", "busybox")])


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path / "registry", host=cluster.machine.gateway)
    made.start()
    for name in ("web", "other"):
        made.push(MadeImage([SHELL, tar([(name, b"")])]), f"shop/{name}:1")
    yield made
    made.stop()


async def names_of(cluster: Cluster) -> set[str]:
    """The images of the node, by the last part of their names."""
    async with cluster.machine.agent() as agent:
        images = (await agent.ListImages(ListImagesRequest())).images
    return {name.rpartition("/")[2] for image in images for name in image.references}


async def until_images_are(cluster: Cluster, *names: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await names_of(cluster) != set(names):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def pulling(cluster: Cluster, registry: Registry, id: str, image: str, *command: str) -> Task:
    """A task that needs an image of the registry."""
    task = cluster.task(id, *command, stop_grace_period=seconds(0))
    task.spec.container.image = f"{registry.address}/{image}"
    return task


async def test_images_go_by_age_but_none_that_a_task_needs(cluster: Cluster, registry: Registry) -> None:
    await cluster.boot(insecure_registries=[registry.address], image_max_age_seconds=2)
    runs = pulling(cluster, registry, "runs", "shop/web:1", "sh", "-c", "while :; do :; done")
    ends = pulling(cluster, registry, "ends", "shop/other:1", "sh", "-c", "exit 0")
    runs.spec.resources.limits.nano_cpus = 20_000_000
    waits = pulling(cluster, registry, "waits", "shop/web:1", "sh")
    waits.desired_state = READY
    await cluster.swarm.create(runs, waits)
    pid = (await cluster.until(runs, RUNNING)).container.pid
    await cluster.until(waits, READY)
    # The former is older by now, and needed.
    await cluster.swarm.create(ends)
    await cluster.until(ends, COMPLETE)
    # By now it may be gone, or not yet.
    assert await names_of(cluster) - {"other:1"} == {"busybox:latest", "web:1"}
    await until_images_are(cluster, "busybox:latest", "web:1")
    # Also for the next worker it is needed.
    await cluster.machine.kill()
    await cluster.boot(insecure_registries=[registry.address], image_max_age_seconds=2)
    again = pulling(cluster, registry, "again", "shop/other:1", "sh", "-c", "exit 0")
    await cluster.swarm.create(again)
    await cluster.until(again, COMPLETE)
    await until_images_are(cluster, "busybox:latest", "web:1")
    assert alive(pid)
    # One task still needs it, and then none does.
    await cluster.swarm.remove(runs.id)
    await eventually(lambda: not alive(pid))
    await cluster.want(waits, RUNNING)
    await cluster.until(waits, COMPLETE)
    await cluster.swarm.remove(waits.id)
    # Whoever loaded the other one could not load it again.
    await until_images_are(cluster, "busybox:latest")


async def test_a_task_s_image_takes_the_place_of_what_no_task_needs(cluster: Cluster, registry: Registry) -> None:
    for name in ("first", "second"):
        registry.push(MadeImage([SHELL, tar([("data", os.urandom(5 << 20))])]), f"shop/{name}:1")
    images = cluster.machine.state / "images"
    images.mkdir(parents=True)
    run(*cluster.machine.entering("mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(images)))
    await cluster.boot(insecure_registries=[registry.address])
    first = pulling(cluster, registry, "first", "shop/first:1", "sh", "-c", "while :; do :; done")
    first.spec.resources.limits.nano_cpus = 20_000_000
    await cluster.swarm.create(first)
    pid = (await cluster.until(first, RUNNING)).container.pid
    # An hour later.
    assert await cluster.machine.stop() == 0
    index = Path(f"/proc/{cluster.machine.pid}/root{images}/index.json")
    make_older(index, 3600)
    await cluster.boot(insecure_registries=[registry.address])
    second = pulling(cluster, registry, "second", "shop/second:1", "sh", "-c", "exit 0")
    await cluster.swarm.create(second)
    async with asyncio.timeout(PATIENCE):
        while "no space is left for images on this node" not in cluster.status(second).error:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await names_of(cluster) == {"busybox:latest", "first:1"}, "a task needs it"
    assert alive(pid)
    files = cluster.machine.state / "tasks" / first.id
    assert files.exists()
    await cluster.swarm.remove(first.id)
    # Not only ended: a container that is still there needs its image.
    await eventually(lambda: not files.exists())
    assert await cluster.machine.stop() == 0
    make_older(index, 3600)
    await cluster.boot(insecure_registries=[registry.address])
    third = pulling(cluster, registry, "third", "shop/second:1", "sh", "-c", "exit 0")
    await cluster.swarm.create(third)
    await cluster.until(third, COMPLETE)
    assert await names_of(cluster) == {"busybox:latest", "second:1"}


def make_older(index: Path, seconds: float) -> None:
    """As if images had last been needed that much earlier."""
    document = json.loads(index.read_text())
    for one in document["images"].values():
        one["used"] -= seconds
    index.write_text(json.dumps(document))
