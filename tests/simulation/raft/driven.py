"""The real driver (raft/node.py and below it) under faults, on virtual time: only network and clock are made up.

world.py drives the core as the driver does; here the driver does it itself, with everything that asyncio can do to it:
what comes in while the disk is at work, calls that are cancelled, tasks that end in the middle. A call into a thread
takes a while of virtual time, and then happens at once; power may go in the middle of it (power.py). Three or five
members begin, others come, go and are replaced. The invariants (invariants.py) are looked at after each step, what
clients saw must be linearizable, and in the end all must agree. The same seed gives the same story.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from flota.manager.raft.interface import RaftConfig
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.transport import Receiver
from flota.rpc.errors import FlotaError, Unavailable
from flota.v1.raft_pb2 import RaftMessage
from tests.simulation.raft.clients import Clients
from tests.simulation.raft.history import check
from tests.simulation.raft.invariants import Invariants
from tests.simulation.raft.members import PIECE, State, Watched, Wire
from tests.simulation.raft.power import Disks
from tests.simulation.raft.storm import Storm
from tests.simulation.raft.threads import Loop

STORM, CALM = 10.0, 12.0
CLIENTS = 4
CONFIG = RaftConfig(snapshot_entries=25, keep_entries=5)
LEASING = RaftConfig(snapshot_entries=25, keep_entries=5, lease=0.4)


class DrivenWorld:
    """See the module's docstring."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = Random(seed)
        self.directory = directory
        self._config = LEASING if seed % 3 == 2 else CONFIG
        self.disks = Disks(self.random)
        # What never may happen and did.
        self.broken: list[BaseException] = []
        self.nodes: dict[str, Watched] = {}
        # By raft id, also those that are down; and how often each was started.
        self._members: dict[int, Watched] = {}
        self.invariants = Invariants(self._members, self._on_election)
        self.states: dict[str, State] = {}
        self.wires: dict[str, Wire] = {}
        self.cut: set[tuple[str, str]] = set()
        # Whose servers answer.
        self._up: set[str] = set()
        self.loss, self.delay = 0.0, (0.001, 0.005)
        self.clients = Clients(self)
        self.log: list[str] = []
        self.names = [f"m{number}" for number in range(1, (5 if seed % 2 else 3) + 1)]
        # A machine whose disk is empty, and that the others have not taken in anew yet. One at a time: the others must
        # keep a quorum.
        self.lost = ""

    def trace(self, line: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():8.3f}  {line}")

    # Network.

    def connected(self, one: str, other: str) -> bool:
        return {one, other} <= self._up and not {(one, other), (other, one)} & self.cut

    def pulse(self, wire: Wire, name: str) -> None:
        target = self.wires.get(name)
        if target is not None and wire.receiver is not None and (wire.name, name) not in self.cut and name in self._up:
            target.heard[wire.receiver.raft_id] = asyncio.get_running_loop().time()

    def carry(self, wire: Wire, sender: Receiver, name: str, data: bytes) -> None:
        message = RaftMessage.FromString(data)
        lost = self.random.random() < self.loss

        def arrive() -> None:
            target = self.wires.get(name)
            receiver = target.receiver if target is not None else None
            gone = lost or receiver is None or (wire.name, name) in self.cut or receiver.raft_id != message.to
            alive = wire.receiver is sender
            if gone:
                if alive and message.type == RaftMessage.TYPE_APPEND:
                    sender.unreachable(message.to)
                return
            assert receiver is not None
            if receiver.was_removed(sender.raft_id):
                if alive:
                    sender.told_removed("removed")
                return
            assert target is not None
            target.heard[sender.raft_id] = asyncio.get_running_loop().time()
            receiver.introduced(sender.member)
            receiver.receive([message])

        asyncio.get_running_loop().call_later(self.random.uniform(*self.delay), arrive)

    async def on_the_way(self, wire: Wire, sender: Receiver, name: str, receiver: Receiver | None) -> None:
        """A piece of a snapshot takes its time, and arrives, or the call is broken. Raises Unavailable."""
        lost = self.random.random() < self.loss / 4
        await asyncio.sleep(self.random.uniform(*self.delay) / 4)
        target = self.wires[name]
        if lost or receiver is None or target.receiver is not receiver or wire.receiver is not sender:
            raise Unavailable("the call was broken")
        if (wire.name, name) in self.cut or receiver.was_removed(sender.raft_id):
            raise Unavailable("no way there")
        target.heard[sender.raft_id] = asyncio.get_running_loop().time()

    # Life.

    def born(self, node: Watched) -> int:
        """A member begins a life: what it kept of the one before must be there. Gives back how many it had."""
        before = self._members.get(node.id)
        self._members[node.id] = node
        if before is None:
            return 1
        assert node.raft.term >= before.durable_term, f"{node.member.node_id} forgot a term that was on its disk"
        there = node.raft.log.last_index
        assert there >= before.durable_index, (
            f"{node.member.node_id} forgot entries {there + 1} to {before.durable_index}"
        )
        return before.life + 1

    def _on_election(self, node: Watched) -> None:
        self.trace(f"{node.member.node_id} leads in term {node.raft.term}")

    async def start(self, name: str, join: str | None = None) -> None:
        wire, state = Wire(self, name), State()
        self.wires[name] = wire
        self._up.add(name)
        try:
            node = await Watched.open(
                self.directory / name, node_id=name, address=name, state_machine=state, transport=wire,  # type: ignore[arg-type]
                join=join, config=self._config, random=Random(self.random.getrandbits(32)),
                metrics=RaftMetrics(CollectorRegistry()),
            )  # fmt: skip
        except FlotaError:
            self._up.discard(name)
            raise
        assert isinstance(node, Watched)
        self.nodes[name], self.states[name] = node, state
        self.trace(f"{name} starts in term {node.raft.term}")

    async def crash(self, name: str) -> None:
        """Lose power: what is being written may be there, in part, or not at all."""
        self.trace(f"{name} crashes")
        self._up.discard(name)
        node, loop = self.nodes.pop(name), asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        for executor in (node._disk, node._writer, node._carrier):
            call = loop.interrupt(executor)
            if call is not None and self.random.random() < 0.7:
                self.disks.run_into(call)
        await node.crash()
        self.disks.tear(self.directory / name)

    def leader(self) -> Watched | None:
        """Whoever leads in the newest term."""
        leading = [node for node in self.nodes.values() if node.is_leader]
        return max(leading, key=lambda node: node.raft.term, default=None)

    async def found(self) -> None:
        """A group of voters."""
        first, *others = self.names
        await self.start(first)
        await self.nodes[first].wait_for_leader()
        for name in others:
            await self.start(name, join=first)
            await self.nodes[name].wait_until_voter()
        self.trace(f"{len(self.names)} voters")

    async def run(self) -> None:
        """Raises AssertionError when something happened that never may."""
        await self.found()
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(self.clients.run()) for _ in range(CLIENTS)]
            await Storm(self).rage(began + STORM)
            for client in clients:
                client.cancel()
        await self._settle()
        check(self.clients.history)

    async def _settle(self) -> None:
        self.trace("the storm is over")
        self.cut.clear()
        self.loss, self.delay = 0.0, (0.001, 0.005)
        for name in self.down():
            await self.start(name)
        async with asyncio.timeout(CALM):
            while not await self.clients.write("x"):  # noqa: ASYNC110 - it tries again
                await asyncio.sleep(0.1)
            while not self._agree():  # noqa: ASYNC110 - several states
                await asyncio.sleep(0.05)
        for node in self.nodes.values():
            await node.crash()

    def _agree(self) -> bool:
        leader = self.leader()
        if leader is None:
            return False
        # Others asked to join and were not told that they did, or are lost.
        members = {member.node_id for member in leader.members} & set(self.names) - {self.lost}
        return members <= set(self.nodes) and len({self.states[name].dump() for name in members}) == 1

    def down(self) -> list[str]:
        return [name for name in self.names if name not in self.nodes and name != self.lost]

    def asked(self) -> list[Watched]:
        """Whom clients may ask: one that was removed has stopped."""
        return [node for node in self.nodes.values() if not node.removed.is_set()]

    def cut_everybody_off(self) -> None:
        """Nobody hears anybody."""
        self.cut = {(one, other) for one in self.names for other in self.names if one != other}


def live(world: DrivenWorld, story: Callable[[], Coroutine[Any, Any, None]], patch: pytest.MonkeyPatch) -> None:
    """Run a story on virtual time, with disks and randomness that are the world's."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        clock = SimpleNamespace(monotonic=loop.time, clock_gettime=lambda _: loop.time(), CLOCK_BOOTTIME=0)
        patch.setattr("flota.manager.raft.snapshots.CHUNK", PIECE)
        for module in ("driver", "node", "persistence", "snapshotting", "standing"):
            patch.setattr(f"flota.manager.raft.{module}.time", clock)
        for module in ("changes", "standing"):
            patch.setattr(f"flota.manager.raft.{module}.SystemRandom", lambda: world.random)
        world.disks.take_over(patch)
        runner.run(story())


def run_driven(seed: int, directory: Path, patch: pytest.MonkeyPatch) -> DrivenWorld:
    """Live through one seed. Raises AssertionError with the story."""
    world = DrivenWorld(seed, directory)
    try:
        try:
            live(world, world.run, patch)
        finally:
            if world.broken:
                raise world.broken[0]
    except BaseException as error:
        story = "\n".join(world.log[-30:])
        replay = f"python -m tests.simulation.raft.driven {seed}"
        raise AssertionError(f"seed {seed}: {_words(error)}\n{story}\nreplay: {replay}") from error
    return world


def _words(error: BaseException) -> str:
    """What failed first, out of the groups that it came in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__} {error}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where, pytest.MonkeyPatch.context() as context:
        print("\n".join(run_driven(int(sys.argv[1]), Path(where) / "raft", context).log))
