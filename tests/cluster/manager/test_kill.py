"""Managers are killed with -9 in turn, under load: every write that was acknowledged is found again, on every one."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from flota.v1.control_pb2 import CreateConfigRequest, ListConfigsRequest
from flota.v1.specs_pb2 import ConfigSpec
from tests.cluster.manager.processes import ManagerProcess

CLIENTS = 4
# Acknowledged writes between two kills.
BETWEEN = 25


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[list[ManagerProcess]]:
    made = [ManagerProcess(tmp_path, name) for name in ("m1", "m2", "m3")]
    yield made
    for manager in made:
        await manager.end()


class Load:
    """Clients that write through whichever manager is up, and remember what was acknowledged."""

    def __init__(self, managers: list[ManagerProcess]) -> None:
        self.acknowledged: set[str] = set()
        self._managers = managers
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    async def client(self, number: int) -> None:
        for turn in itertools.count(number):
            # A manager that was killed is no place to go; any other one passes the call on to the leader.
            with suppress(grpc.aio.AioRpcError):
                async with self._managers[turn % len(self._managers)].control() as control:
                    while True:
                        name = f"w{next(self._numbers)}"
                        spec = ConfigSpec(data=name.encode())
                        spec.annotations.name = name
                        await control.CreateConfig(CreateConfigRequest(spec=spec), timeout=10)
                        self.acknowledged.add(name)
                        self._news.set()
            await asyncio.sleep(0.01)

    async def more(self, count: int) -> None:
        """Wait until so many more writes are acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(60):
            while len(self.acknowledged) < wanted:
                self._news.clear()
                await self._news.wait()


async def names(manager: ManagerProcess) -> list[str]:
    """Names of all configs, read linearizably, once the manager can."""
    async with asyncio.timeout(60), manager.control() as control:
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await control.ListConfigs(ListConfigsRequest(), timeout=10)
                return [config.spec.annotations.name for config in answer.configs]
            await asyncio.sleep(0.05)


async def kill_in_turn(managers: list[ManagerProcess], rounds: int) -> None:
    first, *rest = managers
    assert await first.init() == "ready"
    for other in rest:
        assert await other.join(first) == "ready"
    load = Load(managers)
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(load.client(number)) for number in range(CLIENTS)]
        for number in range(rounds):
            victim = managers[number % len(managers)]
            await load.more(BETWEEN)
            await victim.kill()
            # The other two go on.
            await load.more(BETWEEN)
            assert await victim.start(victim.config()) == "ready"
        await load.more(BETWEEN)
        for client in clients:
            client.cancel()
    for manager in managers:
        found = await names(manager)
        assert len(set(found)) == len(found)
        missing = load.acknowledged - set(found)
        assert not missing, f"{manager.name} has lost {sorted(missing)}"


@pytest.mark.timeout(300)
async def test_every_acknowledged_write_outlives_managers_that_are_killed(managers: list[ManagerProcess]) -> None:
    await kill_in_turn(managers, rounds=3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_twenty_rounds_of_it(managers: list[ManagerProcess]) -> None:
    await kill_in_turn(managers, rounds=60)
