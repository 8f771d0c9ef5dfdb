"""A member of a driven group: the real node, looked at after each of its steps, over a transport without a network."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from flota.manager.raft.arrival import Arrival
from flota.manager.raft.core import Raft, Ready
from flota.manager.raft.node import RaftNode
from flota.manager.raft.storage import Storage
from flota.manager.raft.transport import Receiver
from flota.rpc.errors import Unavailable
from flota.v1.raft_pb2 import Entry, HardState, Member, RaftJoinResponse, RaftMessage, SnapshotMeta
from tests.simulation.raft.machine import Registers

if TYPE_CHECKING:
    from tests.simulation.raft.driven import DrivenWorld

T = TypeVar("T")
PULSE = 0.2
# Bytes of a state that are written, sent and read in one go.
PIECE = 8


class State(Registers):
    """The registers as a state machine of the driver."""

    def apply(self, index: int, data: bytes) -> Any:  # type: ignore[override]
        return super().apply(data)

    def snapshot(self) -> Callable[[], Iterable[bytes]]:
        data = self.dump()
        return lambda: (data[at : at + PIECE] for at in range(0, len(data), PIECE))

    def restore(self, pieces: Iterable[bytes], index: int) -> None:
        self.load(b"".join(pieces))

    def reader(self, pieces: Iterable[bytes], index: int) -> Callable[[], None]:
        data = b"".join(pieces)
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

    def _on_disk(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self._disk, call)  # type: ignore[arg-type]
        return future

    async def _persist(
        self, state: HardState | None, entries: list[Entry], restored: int, meanwhile: Callable[[], None]
    ) -> None:
        await super()._persist(state, entries, restored, meanwhile)
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

    def trouble_of(self, raft_id: int) -> str:
        return ""

    async def deliver_snapshot(self, message: RaftMessage, pieces: AsyncIterator[bytes]) -> None:
        """Between any two pieces everything can happen that happens to messages, or to either machine."""
        name, sender = self._peers.get(message.to), self.receiver
        if name is None or sender is None:
            raise Unavailable("it is no member")
        receiver = self.world.wires[name].receiver
        arrival: Arrival | None = None
        try:
            async for piece in pieces:
                await self.world.on_the_way(self, sender, name, receiver)
                assert receiver is not None
                arrival = arrival or receiver.begin_snapshot(message)
                await arrival.write(piece)
            assert arrival is not None
            await arrival.finish()
            await self.world.on_the_way(self, sender, name, receiver)
            assert receiver is not None
            receiver.introduced(sender.member)
            receiver.receive_snapshot(RaftMessage.FromString(message.SerializeToString()), arrival)
            arrival = None
        except OSError as error:
            raise Unavailable(str(error)) from None
        finally:
            if arrival is not None:
                arrival.discard()

    def send(self, message: RaftMessage) -> None:
        name, sender = self._peers.get(message.to), self.receiver
        assert sender is not None
        if name is not None:
            self.world.carry(self, sender, name, message.SerializeToString())

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
