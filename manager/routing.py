"""Where calls go that only the leader answers (rpc.servers.Router), and what becomes of them when the leader changes.

A call that was passed on to a leader that lost power would wait for TCP to give up. As soon as this manager knows
another leader, the channel to the old one is closed, and what still waits on it a moment later fails with "try again".
"""

import asyncio
from collections.abc import Callable

import grpc.aio

from flota.manager.raft.node import RaftNode
from flota.rpc.errors import TurnedAway, Unavailable

# Seconds that calls to a former leader get.
_GRACE = 0.5


class LeaderRouter:
    """One per manager process. Calls are refused with Unavailable until `use` says which Raft member this is."""

    def __init__(self, channel_for: Callable[[str], grpc.aio.Channel]) -> None:
        self._channel_for = channel_for
        self._raft: RaftNode | None = None
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

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
            await self._forget()
        if self._channel is None:
            self._address, self._channel = address, self._channel_for(address)
        return self._channel

    async def run(self) -> None:
        """Let go of leaders that lead no longer, until cancelled."""
        assert self._raft is not None
        try:
            async for address in self._raft.leaders():
                if address != self._address:
                    await self._forget()
        finally:
            await self._forget()
            if self._closing:
                await asyncio.wait(self._closing)

    async def _forget(self) -> None:
        channel, self._channel, self._address = self._channel, None, ""
        if channel is not None:
            # One that handed leadership on still answers what it was asked. Whoever needs the new one does not wait.
            self._closing.add(closing := asyncio.create_task(channel.close(_GRACE)))
            closing.add_done_callback(self._closing.discard)
