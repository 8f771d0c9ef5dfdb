"""Manager processes over mutual TLS with real files: a swarm begins, grows, loses its leader, comes back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from flota.rpc.staleness import stale_reason
from flota.v1.control_pb2 import CreateServiceRequest, ListServicesRequest
from flota.v1.objects_pb2 import ManagerStatus
from flota.v1.specs_pb2 import ServiceSpec
from tests.cluster.manager.processes import ManagerProcess


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[list[ManagerProcess]]:
    made = [ManagerProcess(tmp_path, name) for name in ("m1", "m2", "m3")]
    yield made
    for manager in made:
        await manager.end()


async def eventually(what: Callable[[], Awaitable[bool]], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while True:
            try:
                if await what():
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.02)


def spec(name: str) -> ServiceSpec:
    made = ServiceSpec()
    made.annotations.name = name
    made.task.container.image = "busybox"
    made.replicated.replicas = 0
    return made


async def names(manager: ManagerProcess) -> set[str]:
    async with manager.control() as control:
        answer = await control.ListServices(ListServicesRequest())
    return {service.spec.annotations.name for service in answer.services}


async def test_a_swarm_of_three_managers_survives_its_leader(managers: list[ManagerProcess]) -> None:
    first, second, third = managers
    assert [await first.init(), await second.join(first), await third.join(first)] == ["ready"] * 3

    async def three_reachable() -> bool:
        nodes = await third.nodes()
        return [node.manager_status.reachability for node in nodes] == [ManagerStatus.REACHABILITY_REACHABLE] * 3

    await eventually(three_reachable)
    async with third.control() as control:
        created = await control.CreateService(CreateServiceRequest(spec=spec("web")))
    assert created.service.id
    assert await names(second) == {"web"}

    await first.kill()

    # No error in between: whoever asks waits for the election.
    assert await names(second) == {"web"}
    async with second.control() as control:
        await control.CreateService(CreateServiceRequest(spec=spec("after")))

    assert await first.start(first.config()) == "ready"
    assert await names(first) == {"web", "after"}
    nodes = await first.nodes()
    assert sum(node.manager_status.leader for node in nodes) == 1
    assert {node.manager_status.address for node in nodes} == {manager.address for manager in managers}


async def test_everything_is_there_after_all_stopped_and_started_again(managers: list[ManagerProcess]) -> None:
    first, second, third = managers
    assert await first.init() == "ready"
    assert await asyncio.gather(second.join(first), third.join(first)) == ["ready", "ready"]
    async with first.control() as control:
        await control.CreateService(CreateServiceRequest(spec=spec("web")))
    for manager in managers:
        assert await manager.stop() == 0
    said = await asyncio.gather(*(manager.start(manager.config()) for manager in managers))
    assert said == ["ready"] * 3

    async def back() -> bool:
        return await names(second) == {"web"}

    await eventually(back)


async def test_a_port_that_is_taken_is_one_sentence(managers: list[ManagerProcess]) -> None:
    first, second, _ = managers
    assert await first.init() == "ready"
    second.address = first.address
    assert (await second.init()).startswith(f"failed cannot listen on {first.address}")


async def test_without_a_quorum_reads_are_old_and_writes_say_who_is_missing(managers: list[ManagerProcess]) -> None:
    first, second, third = managers
    assert [await first.init(), await second.join(first), await third.join(first)] == ["ready"] * 3
    async with first.control() as control:
        await control.CreateService(CreateServiceRequest(spec=spec("kept")))
    await asyncio.gather(second.kill(), third.kill())

    async def lost() -> bool:
        async with first.control() as control:
            call = control.ListServices(ListServicesRequest())
            assert len((await call).services) == 1
            return "lost its quorum: 1 of 3 managers can be reached" in stale_reason(await call.trailing_metadata())

    await eventually(lost)
    async with asyncio.timeout(60), first.control() as control:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control.CreateService(CreateServiceRequest(spec=spec("web")))
    assert "--force-new-cluster" in (caught.value.details() or "")
