"""Where calls go that only the leader answers (rpc.servers.Router), and what becomes of them when the leader changes.

A call that was passed on to a leader that lost power would wait for TCP to give up. Once this manager knows another
leader, calls to the old one may end as long as that one is heard of; when it is not, its channel is closed and they
fail with "try again". When this manager hears neither of its leader nor of a quorum any more, it is closed at once:
nobody will answer.

A connection shows the certificate that it was made with. When this node's certificate was replaced, new calls take a
new connection, for a leader refuses the old certificate when another root has taken over (ca/rotation.py).
"""

import asyncio
import time
from contextlib import suppress
from weakref import WeakSet

import grpc.aio

from flota.manager.raft.node import RaftNode
from flota.rpc.channels import node_channel
from flota.rpc.errors import FlotaError, TurnedAway, Unavailable
from flota.rpc.identity import Identity

# Seconds that calls to a former leader get: at least, and at most while it is heard of.
_GRACE = 0.5
_LONGEST_GRACE = 10.0


class LeaderRouter:
    """One per manager process. Calls are refused with Unavailable until `use` says which Raft member this is."""

    def __init__(self, identity: Identity) -> None:
        """`identity` is the router's own: it has to notice by itself that the certificate was replaced."""
        self._identity = identity
        self._raft: RaftNode | None = None
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        # To the same leader, with certificates of before. Calls go on there; gRPC closes a channel that nobody holds.
        self._former: WeakSet[grpc.aio.Channel] = WeakSet()
        self._closing: set[asyncio.Task[None]] = set()
        # Nobody will answer what was passed on, or nobody waits for it.
        self._hopeless = asyncio.Event()

    def use(self, raft: RaftNode) -> None:
        """The member has started."""
        self._raft = raft

    def check_ready(self) -> None:
        """Raises TurnedAway while this manager is starting, Unavailable when it is none any longer."""
        self._member()

    def _member(self) -> RaftNode:
        if self._raft is None:
            raise TurnedAway("this manager is starting: try again in a moment")
        if self._raft.removed.is_set():
            raise Unavailable("this node was removed from the swarm's managers")
        return self._raft

    async def leader_channel(self) -> grpc.aio.Channel | None:
        """None when this manager leads. Raises Unavailable when it is starting or stopping, NoQuorum."""
        address = await self._member().wait_for_leader()
        if not address:
            return None
        if address != self._address:
            self._forget()
        if self._channel is not None and self._identity.reload():
            self._former.add(self._channel)
            self._channel = None
        if self._channel is None:
            self._address, self._channel = address, node_channel(self._identity, address)
        return self._channel

    def trouble(self) -> FlotaError | None:
        """Why nothing can be decided at the moment; None when it can, as far as is known."""
        return self._raft.trouble if self._raft is not None else None

    async def run(self) -> None:
        """Let go of leaders that lead no longer, until cancelled."""
        assert self._raft is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_leader(self._raft))
                group.create_task(self._give_up(self._raft))
        finally:
            self._hopeless.set()
            self._forget()
            if self._closing:
                await asyncio.wait(self._closing)

    async def _follow_leader(self, raft: RaftNode) -> None:
        async for address in raft.leaders():
            if address != self._address:
                # One that handed leadership on still answers what it was asked; nobody waits for that.
                self._forget()

    async def _give_up(self, raft: RaftNode) -> None:
        async for hope in raft.watch_hope():
            if hope:
                self._hopeless.clear()
            else:
                self._hopeless.set()
                self._forget()

    def _forget(self) -> None:
        channels = [*self._former, *([self._channel] if self._channel is not None else [])]
        address = self._address
        self._former.clear()
        self._channel, self._address = None, ""
        for channel in channels:
            self._closing.add(closing := asyncio.create_task(self._close(channel, address)))
            closing.add_done_callback(self._closing.discard)

    async def _close(self, channel: grpc.aio.Channel, address: str) -> None:
        limit = time.monotonic() + _LONGEST_GRACE
        while not self._hopeless.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self._hopeless.wait()
            if time.monotonic() > limit or not self._member_hears(address):
                break
        await channel.close()

    def _member_hears(self, address: str) -> bool:
        return self._raft is not None and self._raft.hears(address)
