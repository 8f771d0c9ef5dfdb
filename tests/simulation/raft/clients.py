"""Clients of a driven group: they write, compare and swap, and read registers, and note what they saw."""

import asyncio
import json
from typing import TYPE_CHECKING

from flota.manager.raft.interface import NotLeader, TooMuchInFlight
from flota.manager.raft.node import RaftNode
from flota.rpc.errors import FlotaError
from tests.simulation.raft.history import Operation

if TYPE_CHECKING:
    from tests.simulation.raft.driven import DrivenWorld

KEYS = ("x", "y")


class Clients:
    """`run` is one of them; `history` is what all of them saw."""

    def __init__(self, world: "DrivenWorld") -> None:
        self._world = world
        self.history: list[Operation] = []
        self._numbers = iter(range(1, 1_000_000))

    async def write(self, key: str) -> bool:
        operation = Operation("write", key, asyncio.get_running_loop().time(), value=next(self._numbers))
        return await self._call(operation, self._world.random.choice(self._world.asked()))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._world.random.uniform(0.0, 0.2))
            asked = self._world.asked()
            if not asked:
                continue
            leaders = [node for node in asked if node.is_leader]
            node = self._world.random.choice(leaders if leaders and self._world.random.random() < 0.7 else asked)
            kind = self._world.random.choice(("write", "cas", "read"))
            operation = Operation(kind, self._world.random.choice(KEYS), asyncio.get_running_loop().time())
            if kind != "read":
                operation.value = next(self._numbers)
                operation.expected = self._world.random.choice([0, *(one.value for one in self.history[-4:])])
            if not await self._call(operation, node) and not operation.failed:
                # What may have happened or not makes the search for an order long: few of them.
                await asyncio.sleep(0.3)

    async def _call(self, operation: Operation, node: RaftNode) -> bool:
        """Whether it was answered; what was refused for certain is marked as failed."""
        self.history.append(operation)
        state = self._world.states[node.member.node_id]
        try:
            if operation.kind == "read":
                await node.read_barrier()
                operation.result = state.values.get(operation.key, 0)
            else:
                fields = ("kind", "key", "value", "expected")
                data = json.dumps({name: getattr(operation, name) for name in fields}).encode()
                operation.result = await node.propose(data)  # type: ignore[assignment]
        except (NotLeader, TooMuchInFlight):
            operation.failed = True
            return False
        except FlotaError:
            # Refused at once: nothing was done.
            operation.failed = asyncio.get_running_loop().time() == operation.called
            return False
        operation.returned = asyncio.get_running_loop().time()
        return True
