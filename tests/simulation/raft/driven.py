"""The real driver (raft/node.py and below it) under faults, on virtual time: only network and clock are made up.

world.py drives the core as the driver does; here the driver does it itself, with everything that asyncio can do to it:
what comes in while the disk is at work, calls that are cancelled, tasks that end in the middle. A call into a thread
takes a while of virtual time, and then happens at once; power may go in the middle of it (power.py). Three or five
members begin, others come, go and are replaced. The invariants (invariants.py) are looked at after each step, what
clients saw must be linearizable, and in the end all must agree. The same seed gives the same story.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from flota.manager.raft.core import Raft, Ready
from flota.manager.raft.interface import NotLeader, RaftConfig, RaftError, TooMuchInFlight
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.node import RaftNode
from flota.manager.raft.storage import Storage
from flota.manager.raft.transport import Receiver
from flota.rpc.errors import FlotaError, Unavailable
from flota.v1.raft_pb2 import Entry, HardState, Member, RaftJoinResponse, RaftMessage, SnapshotMeta
from tests.simulation import virtual_time
from tests.simulation.raft.history import Operation, check
from tests.simulation.raft.invariants import Invariants
from tests.simulation.raft.machine import Registers
from tests.simulation.raft.power import Disks

STORM, CALM = 10.0, 12.0
CLIENTS, KEYS = 4, ("x", "y")
PULSE = 0.2
CONFIG = RaftConfig(snapshot_entries=25, keep_entries=5)
LEASING = RaftConfig(snapshot_entries=25, keep_entries=5, lease=0.4)


@dataclass(eq=False)
class Job:
    """A call that a thread is to make."""

    executor: Any
    call: Callable[[], Any]
    future: "asyncio.Future[Any]"
    timer: asyncio.TimerHandle | None = None


class Loop(virtual_time.VirtualLoop):
    """Threads are made up too: a call takes a while, then it happens at once, unless nobody waits for it any more."""

    takes: Callable[[], float] = staticmethod(lambda: 0.001)

    def __init__(self) -> None:
        super().__init__()
        self._jobs: list[Job] = []
        # Executors of one thread: when it is free.
        self._busy_until: dict[int, float] = {}

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        job = Job(executor, lambda: func(*args), self.create_future())
        begins = self.time() if executor is None else max(self.time(), self._busy_until.get(id(executor), 0.0))
        ends = self._busy_until[id(executor)] = begins + self.takes()
        self._jobs.append(job)

        def run() -> None:
            self._jobs.remove(job)
            if job.future.done():
                return
            try:
                job.future.set_result(job.call())
            except Exception as error:  # noqa: BLE001 - as a thread would hand it on
                job.future.set_exception(error)

        job.timer = self.call_at(ends, run)
        return job.future

    def interrupt(self, executor: Any) -> Callable[[], Any] | None:
        """Stop a thread for good; gives back the call that it is in the middle of."""
        mine = [job for job in self._jobs if job.executor is executor]
        for job in mine:
            self._jobs.remove(job)
            assert job.timer is not None
            job.timer.cancel()
        return mine[0].call if mine else None


class State(Registers):
    """The registers as a state machine of the driver."""

    def apply(self, index: int, data: bytes) -> Any:  # type: ignore[override]
        return super().apply(data)

    def snapshot(self) -> Callable[[], bytes]:
        data = self.dump()
        return lambda: data

    def restore(self, data: bytes, index: int) -> None:
        self.load(data)

    def reader(self, data: bytes, index: int) -> Callable[[], None]:
        return lambda: self.load(data)


class Watched(RaftNode):
    """The real node, looked at after each of its steps."""

    def __init__(self, storage: Storage, member: Member, raft: Raft, *others: Any) -> None:
        super().__init__(storage, member, raft, *others)
        self._world: DrivenWorld = self.transport.world  # type: ignore[attr-defined]
        self.life = self._world.born(self)
        self.durable_index, self.durable_term = raft.log.last_index, raft.term

    @property
    def id(self) -> int:
        return self.raft.id

    @property
    def core(self) -> Raft:
        return self.raft

    def _send_urgent(self) -> None:
        # After each tick and each message.
        self._world.invariants.check(self)
        super()._send_urgent()

    async def _handle(self, ready: Ready) -> None:
        self._world.invariants.note_entries(self, ready.entries)
        await super()._handle(ready)
        self._world.invariants.check(self)

    async def _persist(self, state: HardState | None, entries: list[Entry], restored: int) -> None:
        await super()._persist(state, entries, restored)
        if state is not None:
            self.durable_term = max(self.durable_term, state.term)
        if restored:
            self.durable_index = restored
        if entries:
            self.durable_index = entries[-1].index

    async def _run(self) -> None:
        try:
            await super()._run()
        except* AssertionError as broken:
            # Told by the world: nobody waits for this task before the node ends.
            self._world.broken.append(broken)

    async def _install(self, meta: SnapshotMeta) -> None:
        await super()._install(meta)
        self._world.invariants.note_restored(self, meta)

    def _send(self, messages: list[RaftMessage]) -> None:
        for message in messages:
            self._world.invariants.note_promise(self, message)
        super()._send(messages)

    def _apply(self, entries: list[Entry]) -> None:
        # Before another configuration is in force: what is committed was so by this one.
        self._world.invariants.check(self)
        for entry in entries:
            self._world.invariants.note_applied(self, entry)
        super()._apply(entries)


class Wire:
    """One member's transport: what RaftTransport promises, without a network."""

    def __init__(self, world: "DrivenWorld", name: str) -> None:
        self.world, self.name = world, name
        self.receiver: Receiver | None = None
        self.heard: dict[int, float] = {}
        self._peers: dict[int, str] = {}

    def attach(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def detach(self) -> None:
        self.receiver = None

    async def run(self) -> None:
        while True:
            for name in self._peers.values():
                self.world.pulse(self, name)
            await asyncio.sleep(PULSE)

    def set_peers(self, members: Iterable[Member]) -> None:
        self._peers = {member.raft_id: member.address for member in members if member.address != self.name}

    def reachable(self, raft_id: int) -> bool:
        name = self._peers.get(raft_id)
        return name is not None and self.world.connected(self.name, name)

    def last_heard(self, raft_id: int) -> float:
        return self.heard.get(raft_id, float("-inf"))

    def send(self, message: RaftMessage) -> None:
        self._send(message, None)

    def send_snapshot(self, message: RaftMessage, data: bytes) -> None:
        self._send(message, data)

    def _send(self, message: RaftMessage, data: bytes | None) -> None:
        name, sender = self._peers.get(message.to), self.receiver
        assert sender is not None
        if name is not None:
            self.world.carry(self, sender, name, message.SerializeToString(), data)

    async def check(self, address: str) -> str:
        await asyncio.sleep(0.002)
        if not self.world.connected(self.name, address):
            raise Unavailable("no answer")
        return address

    async def join(self, through: str, address: str, raft_id: int = 0) -> RaftJoinResponse:
        await asyncio.sleep(0.002)
        node = self.world.nodes.get(through)
        if node is None or not self.world.connected(self.name, through):
            raise Unavailable("no answer")
        return await node.changes.join(address, address, raft_id)


class DrivenWorld:
    """See the module's docstring."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = Random(seed)
        self._directory = directory
        self._config = LEASING if seed % 3 == 2 else CONFIG
        self.disks = Disks(self.random)
        # What never may happen and did.
        self.broken: list[BaseException] = []
        self.nodes: dict[str, Watched] = {}
        # By raft id, also those that are down; and how often each was started.
        self._members: dict[int, Watched] = {}
        self.invariants = Invariants(self._members, self._on_election)
        self.states: dict[str, State] = {}
        self._wires: dict[str, Wire] = {}
        self._cut: set[tuple[str, str]] = set()
        # Whose servers answer.
        self._up: set[str] = set()
        self._loss, self._delay = 0.0, (0.001, 0.005)
        self._slow: set[str] = set()
        self.history: list[Operation] = []
        self._numbers = iter(range(1, 1_000_000))
        self.log: list[str] = []
        self.names = [f"m{number}" for number in range(1, (5 if seed % 2 else 3) + 1)]
        # A machine whose disk is empty, and that the others have not taken in anew yet. One at a time: the others must
        # keep a quorum.
        self._lost = ""

    def trace(self, line: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():8.3f}  {line}")

    # Network.

    def connected(self, one: str, other: str) -> bool:
        return {one, other} <= self._up and not {(one, other), (other, one)} & self._cut

    def pulse(self, wire: Wire, name: str) -> None:
        target = self._wires.get(name)
        if target is not None and wire.receiver is not None and (wire.name, name) not in self._cut and name in self._up:
            target.heard[wire.receiver.raft_id] = asyncio.get_running_loop().time()

    def carry(self, wire: Wire, sender: Receiver, name: str, data: bytes, snapshot: bytes | None) -> None:
        message = RaftMessage.FromString(data)
        lost = self.random.random() < self._loss

        def arrive() -> None:
            target = self._wires.get(name)
            receiver = target.receiver if target is not None else None
            gone = lost or receiver is None or (wire.name, name) in self._cut or receiver.raft_id != message.to
            alive = wire.receiver is sender
            if snapshot is not None and alive:
                sender.snapshot_sent(message.to, not gone)
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
            if snapshot is not None:
                receiver.receive_snapshot(message, snapshot)
            else:
                receiver.receive([message])

        asyncio.get_running_loop().call_later(self.random.uniform(*self._delay), arrive)

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
        self._wires[name] = wire
        self._up.add(name)
        try:
            node = await Watched.open(
                self._directory / name, node_id=name, address=name, state_machine=state, transport=wire,  # type: ignore[arg-type]
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
        for executor in (node._disk, node._writer):
            call = loop.interrupt(executor)
            if call is not None and self.random.random() < 0.7:
                self.disks.run_into(call)
        await node.crash()
        self.disks.tear(self._directory / name)

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
            clients = [group.create_task(self._client(number)) for number in range(CLIENTS)]
            await self._storm(began + STORM)
            for client in clients:
                client.cancel()
        await self._settle()
        check(self.history)

    async def _settle(self) -> None:
        self.trace("the storm is over")
        self._cut.clear()
        self._slow.clear()
        self._loss, self._delay = 0.0, (0.001, 0.005)
        for name in self._down():
            await self.start(name)
        async with asyncio.timeout(CALM):
            while not await self._write("x"):  # noqa: ASYNC110 - it tries again
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
        members = {member.node_id for member in leader.members} & set(self.names) - {self._lost}
        return members <= set(self.nodes) and len({self.states[name].dump() for name in members}) == 1

    def _down(self) -> list[str]:
        return [name for name in self.names if name not in self.nodes and name != self._lost]

    def _asked(self) -> list[Watched]:
        """Whom clients may ask: one that was removed has stopped."""
        return [node for node in self.nodes.values() if not node.removed.is_set()]

    # Clients.

    async def _write(self, key: str) -> bool:
        operation = Operation("write", key, asyncio.get_running_loop().time(), value=next(self._numbers))
        return await self._call(operation, self.random.choice(self._asked()))

    async def _client(self, number: int) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.0, 0.2))
            asked = self._asked()
            if not asked:
                continue
            leaders = [node for node in asked if node.is_leader]
            node = self.random.choice(leaders if leaders and self.random.random() < 0.7 else asked)
            kind = self.random.choice(("write", "cas", "read"))
            operation = Operation(kind, self.random.choice(KEYS), asyncio.get_running_loop().time())
            if kind != "read":
                operation.value = next(self._numbers)
                operation.expected = self.random.choice([0, *(one.value for one in self.history[-4:])])
            if not await self._call(operation, node) and not operation.failed:
                # What may have happened or not makes the search for an order long: few of them.
                await asyncio.sleep(0.3)

    async def _call(self, operation: Operation, node: RaftNode) -> bool:
        """Whether it was answered; what was refused for certain is marked as failed."""
        self.history.append(operation)
        state = self.states[node.member.node_id]
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

    # Faults.

    async def _storm(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        kinds: list[tuple[Callable[[], Any], int]] = [
            (self._partition, 4), (self._heal, 4), (self._kill, 4), (self._restart, 6), (self._weather, 2),
            (self._threads, 2), (self._transfer, 2), (self._join, 2), (self._remove, 1), (self._replace, 1),
        ]  # fmt: skip
        while loop.time() < end:
            await asyncio.sleep(self.random.uniform(0.05, 0.8))
            await self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()

    async def _partition(self) -> None:
        names = self.names
        alone = self.random.choice(names)
        pairs = {(alone, name) for name in names} | {(name, alone) for name in names}
        self._cut = pairs if self.random.random() < 0.6 else {pair for pair in pairs if pair[0] == alone}
        self.trace(f"cut around {alone}, {'both ways' if self._cut == pairs else 'from it'}")

    async def _heal(self) -> None:
        self._cut.clear()
        self.trace("no cut")

    async def _kill(self) -> None:
        if self.nodes:
            await self.crash(self.random.choice(list(self.nodes)))

    async def _restart(self) -> None:
        down = self._down()
        if down:
            await self.start(self.random.choice(down))

    async def _weather(self) -> None:
        self._loss = self.random.choice((0.0, 0.05, 0.3))
        self._delay = self.random.choice(((0.001, 0.005), (0.001, 0.1), (0.0, 0.5)))
        self.trace(f"loss {self._loss}, delay {self._delay}")

    async def _threads(self) -> None:
        slowest = self.random.choice((0.001, 0.05, 0.6))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.takes = lambda: self.random.uniform(0.0002, slowest)  # type: ignore[method-assign]
        self.trace(f"a write takes up to {slowest} s")

    async def _transfer(self) -> None:
        for node in list(self.nodes.values()):
            if node.is_leader:
                self.trace(f"{node.member.node_id} hands leadership on")
                try:
                    await node.transfer_leadership()
                except RaftError:
                    return

    def cut_everybody_off(self) -> None:
        """Nobody hears anybody."""
        self._cut = {(one, other) for one in self.names for other in self.names if one != other}

    async def _join(self) -> None:
        leader, name = self.leader(), f"m{len(self._wires) + 1}"
        if leader is not None and len(self.names) < 6:
            self.trace(f"{name} is to join")
            if await self._enter(name, leader):
                self.names.append(name)

    async def _replace(self) -> None:
        """A machine that is down loses its disk, and joins anew."""
        leader = self.leader()
        lost = [self._lost] if self._lost else self._down()
        if leader is not None and lost:
            self._lost = self.random.choice(lost)
            self.trace(f"{self._lost} has an empty disk, and is to join")
            shutil.rmtree(self._directory / self._lost, ignore_errors=True)
            if await self._enter(self._lost, leader):
                self._lost = ""

    async def _enter(self, name: str, leader: Watched) -> bool:
        try:
            await self.start(name, join=leader.member.node_id)
        except FlotaError as error:
            self.trace(f"{name} is not taken in: {error}")
            shutil.rmtree(self._directory / name)
            return False
        return True

    async def _remove(self) -> None:
        leader = self.leader()
        if leader is None or len(leader.raft.conf.voters) <= 3:
            return
        name = self.random.choice([member.node_id for member in leader.members])
        self.trace(f"{name} is to be removed")
        try:
            await leader.remove_member(name)
        except FlotaError as error:
            self.trace(f"{name} is not removed: {error}")


def live(world: DrivenWorld, story: Callable[[], Coroutine[Any, Any, None]], patch: pytest.MonkeyPatch) -> None:
    """Run a story on virtual time, with disks and randomness that are the world's."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        clock = SimpleNamespace(monotonic=loop.time, clock_gettime=lambda _: loop.time(), CLOCK_BOOTTIME=0)
        for module in ("driver", "node", "standing"):
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
