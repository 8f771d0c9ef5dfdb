"""aiodocker against real daemons and containers, one kind of thing after the other."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiodocker
import pytest
from aiodocker.exceptions import DockerError

from flota.node.lab import Lab
from tests.cluster.daemon.daemons import eventually

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("gateway")]


@pytest.fixture
async def aio(swarm: Lab) -> AsyncIterator[aiodocker.Docker]:
    async with aiodocker.Docker(url=f"unix://{swarm.nodes['m1'].run_directory}/flota/docker.sock") as made:
        yield made


async def test_the_swarm_and_its_nodes(aio: aiodocker.Docker) -> None:
    assert (await aio.swarm.inspect())["JoinTokens"]["Manager"].startswith("SWMTKN-1-")
    assert (await aio.system.info())["Swarm"]["LocalNodeState"] == "active"
    (node,) = await aio.nodes.list(filters={"role": "manager"})
    assert node["Description"]["Hostname"] == "m1"
    spec = node["Spec"] | {"Labels": {"zone": "west"}}
    await aio.nodes.update(node_id=node["ID"], version=node["Version"]["Index"], spec=spec)
    assert (await aio.nodes.inspect(node_id=node["ID"]))["Spec"]["Labels"] == {"zone": "west"}
    with pytest.raises(DockerError, match="update out of sequence") as refused:
        await aio.nodes.update(node_id=node["ID"], version=node["Version"]["Index"], spec=spec)
    assert refused.value.status == 500


async def test_services_tasks_their_logs_and_commands_in_them(client: Any, aio: aiodocker.Docker) -> None:
    container = {"Image": "busybox", "Command": ["sh", "-c", "echo hello; exec sleep 1000"], "Init": True}
    asked = {"service": "aio", "desired-state": "running"}
    await aio.services.create(task_template={"ContainerSpec": container}, name="aio")

    async def has_said_hello() -> bool:
        states = [task["Status"]["State"] for task in await aio.tasks.list(filters=asked)]
        return states == ["running"] and await aio.services.logs("aio", stdout=True) == ["hello\n"]

    await eventually(has_said_hello)
    (found,) = await aio.containers.list()
    command = await found.exec(["sh", "-c", "echo out; exit 4"])
    async with command.start() as wire:
        message = await wire.read_out()
        assert message is not None
        assert message.data == b"out\n"
        assert await wire.read_out() is None
    assert (await command.inspect())["ExitCode"] == 4
    await aio.services.delete("aio")


@pytest.mark.parametrize("kind", ["secrets", "configs"])
async def test_secrets_and_configs(aio: aiodocker.Docker, kind: str) -> None:
    things = getattr(aio, kind)
    made = await things.create("page", "shown", labels={"a": "b"})
    assert [each["ID"] for each in await things.list(filters={"label": "a=b"})] == [made["ID"]]
    shown = await things.inspect("page")
    assert shown["Spec"]["Name"] == "page"
    assert shown["Spec"].get("Data") == ("c2hvd24=" if kind == "configs" else None)
    await things.delete("page")
    with pytest.raises(DockerError) as refused:
        await things.inspect("page")
    assert refused.value.status == 404


async def test_networks(aio: aiodocker.Docker) -> None:
    made = await aio.networks.create({"Name": "back", "Driver": "overlay", "Attachable": True})
    shown = await made.show()
    assert (shown["Name"], shown["Scope"], shown["Attachable"]) == ("back", "swarm", True)
    assert [each["Id"] for each in await aio.networks.list(filters={"name": "back"})] == [made.id]
    await made.delete()
    with pytest.raises(DockerError) as refused:
        await aio.networks.get("back")
    assert refused.value.status == 404


async def test_volumes(aio: aiodocker.Docker) -> None:
    made = await aio.volumes.create({"Name": "data", "Labels": {"a": "b"}})
    assert (await made.show())["Labels"] == {"a": "b"}
    found = await aio.volumes.list(filters={"label": "a=b"})
    assert [each["Name"] for each in found["Volumes"]] == ["data"]
    await made.delete()


async def test_images(aio: aiodocker.Docker) -> None:
    image = await aio.images.inspect("busybox")
    await aio.images.tag("busybox", "example.com/box", tag="2")
    listed = await aio.images.list(filters={"reference": ["example.com/box"]})
    assert [each["Id"] for each in listed] == [image["Id"]]
    await aio.images.delete("example.com/box:2")
    with pytest.raises(DockerError) as refused:
        await aio.images.inspect("example.com/box:2")
    assert refused.value.status == 404


async def test_events(aio: aiodocker.Docker) -> None:
    # Nobody is told when the subscription has reached the server: what was before it counts, too.
    since = str(time.time() - 10)
    told = aio.events.subscribe(filters='{"type":["config"],"config":["told"]}', since=since)
    made = await aio.configs.create("told", "x")
    await aio.configs.delete(made["ID"])
    actions = [(await asyncio.wait_for(told.get(), 60))["Action"] for _ in range(2)]
    assert actions == ["create", "remove"]
