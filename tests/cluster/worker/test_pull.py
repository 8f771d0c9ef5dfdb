"""A real worker that needs an image from a real registry, on the other end of its machine's cable."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from flota.manager.dispatcher.registry_auth import Helpers
from flota.rpc.errors import PermissionDenied, error_from
from flota.v1.local_pb2 import PullImageRequest
from flota.v1.types_pb2 import TaskState
from tests.cluster.images.proxy import proxy
from tests.cluster.images.registry import PASSWORD, USER, Registry, registry_auth
from tests.cluster.worker.machine import Cluster, eventually
from tests.unit.images.making import MadeImage, directory, entry, link, sha256, tar

if TYPE_CHECKING:
    from flota.v1.local_pb2_grpc import AgentAsyncStub

COMPLETE, REJECTED = TaskState.TASK_STATE_COMPLETE, TaskState.TASK_STATE_REJECTED
BUSYBOX = Path("/usr/bin/busybox").read_bytes()
SHELL = tar([directory("bin"), (entry("bin/busybox", mode=0o755), BUSYBOX), link("bin/sh", "busybox")])
IMAGE = MadeImage([SHELL, tar([("said", b"from a registry\n")])], {"Cmd": ["sh", "-c", "busybox cat /said"]})


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path / "registry", auth=True, host=cluster.machine.gateway)
    made.start()
    made.push(IMAGE, "shop/web:1")
    yield made
    made.stop()


async def test_tasks_pull_what_is_not_here(cluster: Cluster, registry: Registry) -> None:
    await cluster.boot(insecure_registries=[registry.address])
    name = f"{registry.address}/shop/web:1"
    tasks = [cluster.task(id) for id in ("one", "two")]
    for task in tasks:
        task.spec.container.image = name
        task.spec.container.registry_auth = registry_auth()
    stranger, wrong = cluster.task("stranger"), cluster.task("wrong")
    stranger.spec.container.image = f"{registry.address}/shop/web:2"
    wrong.spec.container.image = f"{registry.address}/shop/none:1"
    wrong.spec.container.registry_auth = registry_auth()
    await cluster.swarm.create(*tasks, stranger, wrong)
    for task in tasks:
        await cluster.until(task, COMPLETE)
        assert cluster.output(task) == ["from a registry"]
    assert f"refuses {registry.address}/shop/web:2" in (await cluster.until(stranger, REJECTED)).error
    assert f"no such image: {registry.address}/shop/none:1" in (await cluster.until(wrong, REJECTED)).error


async def test_people_pull_and_see_how_it_goes(cluster: Cluster, registry: Registry) -> None:
    await cluster.boot(insecure_registries=[registry.address])
    name = f"{registry.address}/shop/web:1"
    async with cluster.machine.agent() as agent:
        request = PullImageRequest(reference=name, registry_auth=registry_auth())
        messages = [message async for message in agent.PullImage(request)]
        assert messages[0].line == f"Pulling from {registry.address}/shop/web"
        assert (messages[-1].image.id, list(messages[-1].image.references)) == (IMAGE.id, [name])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [message async for message in agent.PullImage(PullImageRequest(reference=f"{name}9"))]
        error = error_from(caught.value)
        assert isinstance(error, PermissionDenied)
        assert f"refuses {name}9" in str(error)


async def test_a_worker_that_is_killed_in_the_middle_goes_on_there(cluster: Cluster, tmp_path: Path) -> None:
    far = 2_000_000
    layer = tar([("large", os.urandom(2 * far))])
    image = MadeImage([layer])
    registry = Registry(tmp_path / "open", host=cluster.machine.gateway)
    registry.start()
    try:
        registry.push(image, "shop/large:1")
        with proxy(registry.address, cluster.machine.gateway) as between:
            reached = threading.Event()

            def hold() -> None:
                reached.set()
                between.give_up.wait(60)

            between.cuts, between.at_cut = [far], hold
            await cluster.boot(insecure_registries=[between.address])
            name = f"{between.address}/shop/large:1"
            partial = cluster.machine.state / "images/partial" / sha256(layer).removeprefix("sha256:")
            async with cluster.machine.agent() as agent:
                begun = asyncio.create_task(_pulled(agent, name))
                await eventually(lambda: reached.is_set() and partial.stat().st_size == far)
                await cluster.machine.kill()
                with pytest.raises(grpc.aio.AioRpcError):
                    await begun
            between.give_up.set()
            await cluster.boot(insecure_registries=[between.address])
            async with cluster.machine.agent() as agent:
                assert await _pulled(agent, name) == image.id
            asked = [one for one in between.sent if one.path.endswith(sha256(layer))]
            assert [one.range for one in asked] == ["", f"bytes={far}-"]
            assert sum(one.bytes for one in asked) == len(layer)
            assert not partial.exists()
    finally:
        registry.stop()


async def _pulled(agent: "AgentAsyncStub", name: str) -> str:
    return [message async for message in agent.PullImage(PullImageRequest(reference=name))][-1].image.id


async def test_credentials_that_have_run_out_are_made_anew_by_a_helper_of_the_managers(
    cluster: Cluster, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-cloud"
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\ncat >'{tmp_path}/asked'\necho '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cluster.swarm.dispatcher._helpers = Helpers({registry.address: "cloud"})
    await cluster.boot(insecure_registries=[registry.address])
    task = cluster.task("fresh")
    task.spec.container.image = f"{registry.address}/shop/web:1"
    # What a person gave when the service was made.
    task.spec.container.registry_auth = registry_auth(password="of yesterday")
    await cluster.swarm.create(task)
    await cluster.until(task, COMPLETE)
    assert (tmp_path / "asked").read_text() == registry.address
    # A helper that fails is no worse than none.
    helper.write_text("#!/bin/sh\nexit 1\n")
    cluster.swarm.dispatcher._helpers = Helpers({registry.address: "cloud"})
    other = cluster.task("other")
    other.spec.container.image = f"{registry.address}/shop/web:2"
    await cluster.swarm.create(other)
    assert "refuses" in (await cluster.until(other, REJECTED)).error
