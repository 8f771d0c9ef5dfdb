"""All managers are restarted one after the other, as an upgrade does it, while clients go on asking."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from tests.cluster.daemon.daemons import Daemon, eventually, is_ready, is_voter
from tests.cluster.daemon.test_backup import create_service, services


class Client:
    """Asks the managers in turn; a call that fails is made once more, through the next of them."""

    def __init__(self, daemons: list[Daemon], name: str) -> None:
        self._daemons = itertools.cycle(daemons)
        self._name = name
        self.written: set[str] = set()
        self.failures: list[str] = []

    async def run(self, done: asyncio.Event) -> None:
        for number in itertools.count():
            if done.is_set():
                return
            name = f"{self._name}-{number}"
            await self._twice(lambda daemon, name=name: self._write(daemon, name))
            await self._twice(self._read)

    async def _twice(self, call: Callable[[Daemon], Awaitable[None]]) -> None:
        refusals: list[str] = []
        while len(refusals) < 2:
            daemon = next(self._daemons)
            try:
                return await call(daemon)
            except grpc.aio.AioRpcError as error:
                refusals.append(f"{daemon.directory.name}: {error.code().name}: {error.details()}")
        self.failures.append("; then ".join(refusals))
        return None

    async def _write(self, daemon: Daemon, name: str) -> None:
        try:
            await create_service(daemon, name)
        except grpc.aio.AioRpcError as error:
            # The first try was carried out, and its answer was lost.
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
        self.written.add(name)

    async def _read(self, daemon: Daemon) -> None:
        missing = self.written - await services(daemon)
        if missing:
            self.failures.append(f"written, and not read: {sorted(missing)}")


async def test_a_rolling_restart_is_not_seen_by_clients_that_ask_twice(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    await asyncio.gather(*(daemon.join(begun.tokens.manager, begun.address) for daemon in (second, third)))
    clients = [Client(daemons[turn:] + daemons[:turn], f"c{turn}") for turn in range(3)]
    done = asyncio.Event()

    async def whole() -> bool:
        nodes = await first.nodes()
        return len(nodes) == 3 and all(is_voter(node) and is_ready(node) for node in nodes.values())

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(done))
        for daemon in daemons:
            before = len(clients[0].written)
            await daemon.stop()
            await daemon.start()
            await eventually(whole, 60)

            async def goes_on(before: int = before) -> bool:
                return len(clients[0].written) > before + 3

            await eventually(goes_on)
        done.set()
    assert [client.failures for client in clients] == [[], [], []]
    written = set().union(*(client.written for client in clients))
    assert await services(first) == written
