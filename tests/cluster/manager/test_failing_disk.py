"""A disk whose syncs fail (failing_disk.py): nothing acknowledged is lost, nothing that is not there is vouched for."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from flota.rpc.channels import local_channel
from flota.v1.control_pb2 import CreateConfigRequest, ListConfigsRequest
from flota.v1.local_pb2 import WatchManagerRequest
from flota.v1.local_pb2_grpc import ManagerHereStub
from flota.v1.specs_pb2 import ConfigSpec
from tests.cluster.manager import log_on_disk
from tests.cluster.manager.failing_disk import FailingDisk, FailingSyncs
from tests.cluster.manager.processes import ManagerProcess

PATIENCE = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    with FailingDisk(tmp_path) as disk:
        yield disk


@pytest.fixture
async def managers(disk: FailingDisk, tmp_path: Path) -> AsyncIterator[list[ManagerProcess]]:
    made = [ManagerProcess(tmp_path, name) for name in ("m1", "m2", "m3")]
    made[0].raft_directory, made[0].prefix = disk.path / "raft", disk.prefix
    yield made
    for manager in made:
        await manager.end()


async def write(manager: ManagerProcess, name: str) -> str:
    """Acknowledged in the end, perhaps at the second attempt."""
    spec = ConfigSpec(data=bytes(4000))
    spec.annotations.name = name
    async with asyncio.timeout(PATIENCE), manager.control() as control:
        while True:
            try:
                await control.CreateConfig(CreateConfigRequest(spec=spec), timeout=10)
                return name
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.ALREADY_EXISTS:
                    return name
            await asyncio.sleep(0.05)


async def names(manager: ManagerProcess) -> set[str]:
    async with asyncio.timeout(PATIENCE), manager.control() as control:
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await control.ListConfigs(ListConfigsRequest(), timeout=10)
                return {config.spec.annotations.name for config in answer.configs}
            await asyncio.sleep(0.05)


async def trouble(manager: ManagerProcess, there: bool) -> str:
    """What the manager tells its daemon, once there is trouble, or none."""
    async with asyncio.timeout(PATIENCE), local_channel(f"unix://{manager.socket}") as channel:
        async for report in ManagerHereStub(channel).WatchManager(WatchManagerRequest()):
            if bool(report.trouble) == there:
                return report.trouble
    raise AssertionError


@pytest.mark.timeout(400)
async def test_a_leader_whose_syncs_fail_steps_down_and_comes_back_with_everything(
    managers: list[ManagerProcess], disk: FailingDisk
) -> None:
    first, second, third = managers
    assert await first.init() == "ready"
    assert await second.join(first) == "ready"
    assert await third.join(first) == "ready"
    acknowledged = {await write(second, f"before{number}") for number in range(5)}
    disk.fail()
    # The last block may have room; then the leader cannot keep what it is asked to, and another one leads.
    acknowledged |= {await write(second, f"meanwhile{number}") for number in range(20)}
    assert "No space left on device" in await trouble(first, there=True)
    assert "the disk cannot be written: not taking part until it can" in (first.directory / "log").read_text()
    assert await names(third) == acknowledged
    # The others know why it does not take part.
    async with asyncio.timeout(PATIENCE):
        while not (told := {node.manager_status.trouble for node in await second.nodes()} - {""}):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert "No space left on device" in told.pop()
    # One more failure, and there is no quorum: nothing is claimed by the one that cannot write.
    await third.kill()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async with first.control() as control:
            await control.CreateConfig(CreateConfigRequest(spec=ConfigSpec(data=b"x")), timeout=60)
    assert refused.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED
    assert await third.start(third.config()) == "ready"
    disk.mend()
    assert await trouble(first, there=False) == ""
    acknowledged.add(await write(first, "afterwards"))
    # All lose power at once.
    for manager in managers:
        await manager.kill()
    disk.lose_power()
    for manager in managers:
        assert await manager.start(manager.config()) == "ready"
    for manager in managers:
        assert await names(manager) == acknowledged


@pytest.mark.skipif(not FailingSyncs.can_be_had(), reason="Debian's libfiu could not be fetched")
@pytest.mark.timeout(400)
async def test_a_leader_whose_disk_is_broken_is_named_by_the_others_and_comes_back_when_it_is_well(
    tmp_path: Path,
) -> None:
    first, second, third = managers = [ManagerProcess(tmp_path, name) for name in ("m1", "m2", "m3")]
    broken = FailingSyncs(tmp_path)
    first.environment = {**first.environment, **broken.environment}

    async def tell(what: Callable[[int], None]) -> None:
        assert first.process is not None
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(what, first.process.pid)

    async def why_not(manager: ManagerProcess) -> str:
        """The first refusal that says who is missing."""
        async with asyncio.timeout(PATIENCE), manager.control() as control:
            while True:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await control.CreateConfig(CreateConfigRequest(spec=ConfigSpec(data=b"x")), timeout=10)
                if "Missing" in (said := refused.value.details() or ""):
                    return said
                await asyncio.sleep(0.05)

    try:
        assert await first.init() == "ready"
        assert await second.join(first) == "ready"
        assert await third.join(first) == "ready"
        acknowledged = {await write(second, f"before{number}") for number in range(3)}
        await tell(broken.fail)
        acknowledged |= {await write(second, f"meanwhile{number}") for number in range(3)}
        assert "Input/output error" in await trouble(first, there=True)
        assert "the disk cannot be written: not taking part until it can" in (first.directory / "log").read_text()
        assert await names(third) == acknowledged
        await third.kill()
        assert "its disk refuses: [Errno 5] Input/output error" in await why_not(second)
        assert await third.start(third.config()) == "ready"
        await tell(broken.mend)
        assert await trouble(first, there=False) == ""
        acknowledged.add(await write(first, "afterwards"))
        # It ends while its disk is broken, and begins on a good one.
        await tell(broken.fail)
        acknowledged |= {await write(second, f"again{number}") for number in range(3)}
        await first.kill()
        assert await first.start(first.config()) == "ready"
        for manager in managers:
            assert await names(manager) == acknowledged
    finally:
        for manager in managers:
            await manager.end()


def test_what_a_failed_sync_left_in_memory_is_not_taken_for_what_is_on_the_disk(disk: FailingDisk) -> None:
    log = [*disk.prefix, sys.executable, log_on_disk.__file__, str(disk.path / "raft")]

    def read() -> list[int]:
        return list(map(int, subprocess.check_output([*log, "read"], text=True).split()))

    with subprocess.Popen([*log, "write"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert [int(writer.stdout.readline()) for _ in range(3)] == [1, 2, 3]
        disk.fail()
        rest, _ = writer.communicate("go on\n")
    on_disk = [1, 2, 3, *map(int, rest.split())]
    assert len(on_disk) < 50
    disk.mend()
    assert read() == on_disk
    disk.lose_power()
    assert read() == on_disk
