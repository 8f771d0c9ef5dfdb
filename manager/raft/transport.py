"""Carries Raft messages between managers: one gRPC stream per ordered pair, snapshots on calls of their own.

Sending never blocks and never fails: Raft repeats what is lost. Messages that gather while a batch is being written
leave together in the next one. A stream with nothing to say carries an empty batch now and then, so that members who
hear nothing from each other otherwise (two followers) know of each other's end long before TCP does. Batches also tell
when their sender's disk refuses: it answers then, but decides nothing with the others. A broken stream is
opened again after a jittered, growing pause; what was queued is dropped and the member reported unreachable, so that
the core probes instead of pushing.
"""

import asyncio
import contextlib
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from random import Random
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from flota.manager.raft.arrival import Arrival
from flota.manager.raft.state import sender_of
from flota.rpc.errors import FailedPrecondition, Unavailable, error_from
from flota.v1.raft_pb2 import (
    Member,
    RaftBatch,
    RaftCheckRequest,
    RaftCheckResponse,
    RaftJoinRequest,
    RaftJoinResponse,
    RaftLeaveRequest,
    RaftMessage,
    RaftStreamReply,
    SnapshotChunk,
    SnapshotReply,
)
from flota.v1.raft_pb2_grpc import RaftMembershipStub, RaftTransportServicer, RaftTransportStub

_log = structlog.get_logger("raft.transport")

ChannelFor = Callable[[str], grpc.aio.Channel]
_BATCH_MESSAGES = 512
_BATCH_BYTES = 8 << 20
_QUEUE_BYTES = 64 << 20
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# Seconds between two signs of life on a stream that carries nothing else, at most.
_PULSE = 0.2
_CONNECT = 2.0
# SwarmKit's, for a joiner that is called back.
_CALL_BACK = 5.0
_CALL = 10.0
_SNAPSHOT_TIMEOUT = 600.0


class Receiver(Protocol):
    """The driver, as the transport sees it. All calls come from the event loop and return at once."""

    @property
    def raft_id(self) -> int:
        """Who we are."""
        ...

    @property
    def member(self) -> Member:
        """Who we are, with the address that others reach us under."""
        ...

    @property
    def disk_trouble(self) -> str:
        """Why we cannot write, and so take no part; empty when we can."""
        ...

    def receive(self, messages: Iterable[RaftMessage]) -> None:
        """Messages arrived."""
        ...

    def introduced(self, member: Member) -> None:
        """A member that sends to us has said who it is."""
        ...

    def begin_snapshot(self, message: RaftMessage) -> Arrival:
        """A snapshot begins to arrive."""
        ...

    def receive_snapshot(self, message: RaftMessage, arrival: Arrival) -> None:
        """A whole snapshot arrived, and is on the disk; it is the driver's from now on."""
        ...

    def unreachable(self, raft_id: int) -> None:
        """Messages to this member were lost."""
        ...

    def was_removed(self, raft_id: int) -> bool:
        """Whether this member was taken out of the group."""
        ...

    def told_removed(self, reason: str) -> None:
        """Another member says that we were removed."""
        ...


class _Peer:
    """The way to one member."""

    def __init__(self, member: Member, transport: "RaftTransport") -> None:
        self.member = member
        self.connected = False
        self._transport = transport
        self._queue: deque[RaftMessage] = deque()
        self._queued_bytes = 0
        # What the writer waits for when there is nothing to write.
        self._news: asyncio.Future[None] | None = None
        self._written = False
        self.task: asyncio.Task[None] | None = None

    def send(self, message: RaftMessage) -> None:
        size = message.ByteSize()
        if not self.connected or self._queued_bytes + size > _QUEUE_BYTES:
            if message.type == RaftMessage.TYPE_APPEND:
                self._transport.lost(self.member.raft_id)
            return
        self._queue.append(message)
        self._queued_bytes += size
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _pulse(self) -> None:
        """Have the writer give a sign of life when it has written nothing for a while."""
        while True:
            self._written = False
            await asyncio.sleep(_PULSE / 2)
            if not self._written:
                self._wake()

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                channel = self._transport.channel_for(self.member.address)
                try:
                    call = RaftTransportStub(channel).Stream()
                    async with asyncio.timeout(_CONNECT):
                        await call.wait_for_connection()
                    self.connected = True
                    pause = _FIRST_PAUSE
                    await self._converse(call)
                finally:
                    self.connected = False
                    self._queue.clear()
                    self._queued_bytes = 0
                    await channel.close()
            self._transport.lost(self.member.raft_id)
            await asyncio.sleep(pause * self._transport.random.uniform(0.5, 1.5))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _converse(self, call: Any) -> None:
        writing = asyncio.create_task(self._write(call))
        reading = asyncio.create_task(self._read(call))
        pulsing = asyncio.create_task(self._pulse())
        try:
            done, _ = await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            writing.cancel()
            reading.cancel()
            pulsing.cancel()
            call.cancel()
            await asyncio.gather(writing, reading, pulsing, return_exceptions=True)

    async def _write(self, call: Any) -> None:
        # Says who we are, so that a removed member is told at once, and anybody else can answer.
        hello = RaftMessage(to=self.member.raft_id)
        setattr(hello, "from", self._transport.own_id)
        transport = self._transport
        await call.write(RaftBatch(messages=[hello], sender=transport.own_member, trouble=transport.own_trouble))
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._news = loop.create_future()
                await self._news
            # Without anything in it, if only the pulse woke us.
            await call.write(self._next_batch())
            self._written = True

    def _next_batch(self) -> RaftBatch:
        batch: list[RaftMessage] = []
        size = 0
        while self._queue and len(batch) < _BATCH_MESSAGES and size < _BATCH_BYTES:
            message = self._queue.popleft()
            batch.append(message)
            size += message.ByteSize()
        self._queued_bytes = max(0, self._queued_bytes - size)
        return RaftBatch(messages=batch, trouble=self._transport.own_trouble)

    async def _read(self, call: Any) -> None:
        while (reply := await call.read()) is not grpc.aio.EOF:
            if reply.error:
                self._transport.told(reply.error)


class RaftTransport:
    """Both directions; see the module's docstring. `run` owns all its tasks."""

    def __init__(self, node_id: str, channel_for: ChannelFor, random: Random | None = None) -> None:
        self.channel_for = channel_for
        self.random = random or Random()
        self.servicer = TransportServicer(node_id)
        self._receiver: Receiver | None = None
        self._peers: dict[int, _Peer] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def attach(self, receiver: Receiver) -> None:
        """Say who takes messages; until then other members are told to wait."""
        self._receiver = self.servicer.receiver = receiver

    def detach(self) -> None:
        """Stop taking messages."""
        self._receiver = self.servicer.receiver = None

    async def run(self) -> None:
        """Keep the streams open until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for peer in self._peers.values():
                    peer.task = self._tasks.create_task(peer.run())
                await asyncio.Event().wait()
        finally:
            self._tasks = None

    def set_peers(self, members: Iterable[Member]) -> None:
        """All members but ourselves, with their newest addresses."""
        own = self.own_id
        wanted = {member.raft_id: member for member in members if member.raft_id != own and member.address}
        for raft_id, peer in list(self._peers.items()):
            member = wanted.get(raft_id)
            if member is None or member.address != peer.member.address:
                del self._peers[raft_id]
                if peer.task is not None:
                    peer.task.cancel()
        for raft_id, member in wanted.items():
            if raft_id not in self._peers:
                peer = self._peers[raft_id] = _Peer(member, self)
                if self._tasks is not None:
                    peer.task = self._tasks.create_task(peer.run())

    def reachable(self, raft_id: int) -> bool:
        """Whether there is a stream to this member."""
        peer = self._peers.get(raft_id)
        return peer is not None and peer.connected

    def last_heard(self, raft_id: int) -> float:
        """When (time.monotonic) something came from this member while it took part; minus infinity for never."""
        return self.servicer.heard.get(raft_id, float("-inf"))

    def trouble_of(self, raft_id: int) -> str:
        """Why this member, although it answers, takes no part; empty when it does."""
        return self.servicer.troubles.get(raft_id, "")

    def send(self, message: RaftMessage) -> None:
        """Queue a message; it is dropped when its member cannot be reached."""
        peer = self._peers.get(message.to)
        if peer is not None:
            peer.send(message)

    async def deliver_snapshot(self, message: RaftMessage, pieces: AsyncIterator[bytes]) -> None:
        """Send a snapshot on a call of its own, no faster than its receiver writes it. Raises a FlotaError."""
        peer = self._peers.get(message.to)
        if peer is None:
            raise Unavailable("it is no member")
        channel = self.channel_for(peer.member.address)
        try:
            async with asyncio.timeout(_SNAPSHOT_TIMEOUT):
                call = RaftTransportStub(channel).SendSnapshot()
                try:
                    async for chunk in _chunks(message, pieces):
                        await call.write(chunk)
                    await call.done_writing()
                    await call
                except asyncio.InvalidStateError:
                    # It ended before all was written: why, its status says.
                    await call
                    raise
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        except (TimeoutError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"it took too long, or its receiver did not take all of it ({error})") from None
        finally:
            await channel.close()

    # From peers to the driver.

    @property
    def own_id(self) -> int:
        """Our id in the group; 0 before there is a driver."""
        return self._receiver.raft_id if self._receiver is not None else 0

    @property
    def own_member(self) -> Member | None:
        """Who we are; None before there is a driver."""
        return self._receiver.member if self._receiver is not None else None

    @property
    def own_trouble(self) -> str:
        """Why we take no part."""
        return self._receiver.disk_trouble if self._receiver is not None else ""

    def lost(self, raft_id: int) -> None:
        """Tell the driver that messages to this member were lost."""
        if self._receiver is not None:
            self._receiver.unreachable(raft_id)

    def told(self, reason: str) -> None:
        """Tell the driver that it was removed."""
        if self._receiver is not None:
            self._receiver.told_removed(reason)

    # Single calls.

    async def check(self, address: str) -> str:
        """Node id of the manager whose Raft service answers at `address`. Raises FailedPrecondition."""
        channel = self.channel_for(address)
        try:
            answer = await RaftTransportStub(channel).Check(RaftCheckRequest(), timeout=_CALL_BACK)
        except grpc.aio.AioRpcError as error:
            why = "no answer" if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else error.details()
            raise FailedPrecondition(
                f"the swarm's managers cannot reach this one at {address} ({why}): give the address that they reach it "
                "under with --advertise-addr, and let them through to that port"
            ) from None
        finally:
            await channel.close()
        return answer.node_id

    async def join(self, through: str, address: str, raft_id: int = 0) -> RaftJoinResponse:
        """Ask the manager at `through` for membership. Raises a FlotaError."""
        channel = self.channel_for(through)
        try:
            request = RaftJoinRequest(address=address, raft_id=raft_id)
            return await RaftMembershipStub(channel).Join(request, timeout=_CALL)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        finally:
            await channel.close()

    async def leave(self, through: str, node_id: str) -> None:
        """Ask the manager at `through` to take `node_id` out. Raises a FlotaError."""
        channel = self.channel_for(through)
        try:
            await RaftMembershipStub(channel).Leave(RaftLeaveRequest(node_id=node_id), timeout=_CALL)
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None
        finally:
            await channel.close()


async def _chunks(message: RaftMessage, pieces: AsyncIterator[bytes]) -> AsyncIterator[SnapshotChunk]:
    """The message is in the first, and the last is empty: whoever reads pieces does not know which one is last."""
    crc = 0
    yield SnapshotChunk(message=message)
    async for piece in pieces:
        crc = zlib.crc32(piece, crc)
        yield SnapshotChunk(data=piece, checksum=crc)
    yield SnapshotChunk(checksum=crc, last=True)


class TransportServicer(RaftTransportServicer):
    """The receiving side. Added to the server before the driver is there: a joiner must answer `Check` first."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self.receiver: Receiver | None = None
        # When something came from each member that took part at that time, and why others do not.
        self.heard: dict[int, float] = {}
        self.troubles: dict[int, str] = {}

    async def Stream(self, request_iterator: Any, context: Any) -> AsyncIterator[RaftStreamReply]:
        """Take batches until the other side goes."""
        sender = 0
        try:
            async for batch in request_iterator:
                receiver = self.receiver
                if receiver is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "this manager is starting or stopping")
                    return
                if batch.messages:
                    sender = sender_of(batch.messages[0])
                self._note(sender, batch.trouble)
                if receiver.was_removed(sender):
                    yield RaftStreamReply(error=f"member {sender:x} was removed from the swarm's managers")
                    return
                if batch.HasField("sender"):
                    receiver.introduced(batch.sender)
                if batch.messages:
                    own = receiver.raft_id
                    receiver.receive([message for message in batch.messages if message.to == own])
        finally:
            self.troubles.pop(sender, None)

    def _note(self, sender: int, trouble: str) -> None:
        if trouble:
            self.troubles[sender] = trouble
        else:
            self.heard[sender] = time.monotonic()
            self.troubles.pop(sender, None)

    async def SendSnapshot(self, request_iterator: Any, context: Any) -> SnapshotReply:
        """Take one snapshot."""
        receiver, arrival = self.receiver, None
        crc, complete = 0, False
        message = RaftMessage()
        try:
            async for chunk in request_iterator:
                if receiver is None or self.receiver is not receiver:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "this manager is starting or stopping")
                    return SnapshotReply()
                if chunk.HasField("message"):
                    message = chunk.message
                if message.to != receiver.raft_id:
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the snapshot is for another member")
                crc = zlib.crc32(chunk.data, crc)
                if crc != chunk.checksum:
                    await context.abort(grpc.StatusCode.DATA_LOSS, "a chunk has a wrong checksum")
                arrival = arrival or receiver.begin_snapshot(message)
                await arrival.write(chunk.data)
                complete = chunk.last
            if arrival is None or not complete:
                await context.abort(grpc.StatusCode.DATA_LOSS, "the snapshot is not complete")
            elif receiver is not None:
                await arrival.finish()
                if self.receiver is receiver:
                    receiver.receive_snapshot(message, arrival)
                    arrival = None
        except OSError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the snapshot cannot be written: {error}")
        finally:
            if arrival is not None:
                arrival.discard()
        return SnapshotReply()

    async def Check(self, request: RaftCheckRequest, context: Any) -> RaftCheckResponse:
        """We are here."""
        return RaftCheckResponse(node_id=self._node_id)
