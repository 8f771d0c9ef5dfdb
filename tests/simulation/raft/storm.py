"""What befalls a driven group: cuts, losses of power, bad weather, slow disks; members come, go and are replaced."""

import asyncio
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flota.manager.raft.interface import RaftError
from flota.rpc.errors import FlotaError
from tests.simulation.raft.members import Watched
from tests.simulation.raft.threads import Loop

if TYPE_CHECKING:
    from tests.simulation.raft.driven import DrivenWorld


class Storm:
    """`rage`, until a moment."""

    def __init__(self, world: "DrivenWorld") -> None:
        self._world = world

    async def rage(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        kinds: list[tuple[Callable[[], Any], int]] = [
            (self._partition, 4), (self._heal, 4), (self._kill, 4), (self._restart, 6), (self._weather, 2),
            (self._threads, 2), (self._transfer, 2), (self._join, 2), (self._remove, 1), (self._replace, 1),
        ]  # fmt: skip
        while loop.time() < end:
            await asyncio.sleep(self._world.random.uniform(0.05, 0.8))
            await self._world.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()

    async def _partition(self) -> None:
        names = self._world.names
        alone = self._world.random.choice(names)
        pairs = {(alone, name) for name in names} | {(name, alone) for name in names}
        self._world.cut = pairs if self._world.random.random() < 0.6 else {pair for pair in pairs if pair[0] == alone}
        self._world.trace(f"cut around {alone}, {'both ways' if self._world.cut == pairs else 'from it'}")

    async def _heal(self) -> None:
        self._world.cut.clear()
        self._world.trace("no cut")

    async def _kill(self) -> None:
        if self._world.nodes:
            await self._world.crash(self._world.random.choice(list(self._world.nodes)))

    async def _restart(self) -> None:
        down = self._world.down()
        if down:
            await self._world.start(self._world.random.choice(down))

    async def _weather(self) -> None:
        self._world.loss = self._world.random.choice((0.0, 0.05, 0.3))
        self._world.delay = self._world.random.choice(((0.001, 0.005), (0.001, 0.1), (0.0, 0.5)))
        self._world.trace(f"loss {self._world.loss}, delay {self._world.delay}")

    async def _threads(self) -> None:
        slowest = self._world.random.choice((0.001, 0.05, 0.6))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.takes = lambda: self._world.random.uniform(0.0002, slowest)  # type: ignore[method-assign]
        self._world.trace(f"a write takes up to {slowest} s")

    async def _transfer(self) -> None:
        for node in list(self._world.nodes.values()):
            if node.is_leader:
                self._world.trace(f"{node.member.node_id} hands leadership on")
                try:
                    await node.transfer_leadership()
                except RaftError:
                    return

    async def _join(self) -> None:
        leader, name = self._world.leader(), f"m{len(self._world.wires) + 1}"
        if leader is not None and len(self._world.names) < 6:
            self._world.trace(f"{name} is to join")
            if await self._enter(name, leader):
                self._world.names.append(name)

    async def _replace(self) -> None:
        """A machine that is down loses its disk, and joins anew."""
        leader = self._world.leader()
        lost = [self._world.lost] if self._world.lost else self._world.down()
        if leader is not None and lost:
            self._world.lost = self._world.random.choice(lost)
            self._world.trace(f"{self._world.lost} has an empty disk, and is to join")
            shutil.rmtree(self._world.directory / self._world.lost, ignore_errors=True)
            if await self._enter(self._world.lost, leader):
                self._world.lost = ""

    async def _enter(self, name: str, leader: Watched) -> bool:
        try:
            await self._world.start(name, join=leader.member.node_id)
        except FlotaError as error:
            self._world.trace(f"{name} is not taken in: {error}")
            shutil.rmtree(self._world.directory / name)
            return False
        return True

    async def _remove(self) -> None:
        leader = self._world.leader()
        if leader is None or len(leader.raft.conf.voters) <= 3:
            return
        name = self._world.random.choice([member.node_id for member in leader.members])
        self._world.trace(f"{name} is to be removed")
        try:
            await leader.remove_member(name)
        except FlotaError as error:
            self._world.trace(f"{name} is not removed: {error}")
