"""Brings the kernel after what is wanted, in rounds: one background task for all networks of the node.

    touch ──► dirty networks ──► a round ─┬► kernel thread: the ingress network, tunnels, forwarding entries
                   ▲                      └► nftables threads: virtual addresses, published ports
                   └── refused by the kernel (tried again), or put off for a moment (balancer.PACE)

What changes during a round is the next one's. `in_force` counts rounds: a node says that it has taken over what was
withdrawn only when its kernel uses it no longer.

Never decides what should be (wanted.py), nor which tasks are attached.
"""

import asyncio
import logging
from collections.abc import Iterable, Set

from flota.overlay.balancer import PACE, Balancer
from flota.overlay.encryption import Encryption
from flota.overlay.errors import OverlayError
from flota.overlay.kernel import KernelThread
from flota.overlay.publisher import Publisher
from flota.overlay.segments import Segments
from flota.overlay.wanted import Wanted

log = logging.getLogger(__name__)

# Seconds after which a refused change is tried again.
_RETRY = 1.0


class Programmer:
    """Owned by one Network, which runs it. All methods on the event loop."""

    def __init__(
        self,
        wanted: Wanted,
        encryption: Encryption,
        kernel: KernelThread,
        segments: Segments,
        balancer: Balancer,
        publisher: Publisher,
    ) -> None:
        """`segments` are only ever used on the thread `kernel`."""
        self._wanted = wanted
        self._encryption = encryption
        self._kernel = kernel
        self._segments = segments
        self._balancer = balancer
        self._publisher = publisher
        self._held: set[str] = set()
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        # Networks with tasks whose rules may wait for a moment, and the moment's end.
        self._waiting: set[str] = set()
        self._paced: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        # How often the kernel was brought after the model, and who waits for which time.
        self._rounds = 0
        self._in_round = False
        self._round_over = asyncio.Condition()

    def touch(self, networks: Iterable[str]) -> None:
        """Have the kernel's entries of these networks compared with the model's."""
        self._dirty.update(networks)
        self._idle.clear()
        self._wake.set()

    async def settled(self) -> None:
        """Wait until there is nothing to do, nor anything put off (what was refused is tried again later)."""
        await self._idle.wait()

    async def in_force(self) -> None:
        """Wait until the kernel has (or has refused) what was touched so far, but for what is put off."""
        # The round that is under way, and the one that was asked for meanwhile.
        wanted = self._rounds + self._in_round + self._wake.is_set()
        async with self._round_over:
            await self._round_over.wait_for(lambda: self._rounds >= wanted)

    async def hold_none(self) -> None:
        """The node answers published ports no longer: it needs no network without a task."""
        await self._kernel.call(self._segments.hold, {}, {})
        self._held = set()

    async def run(self) -> None:
        """Runs until cancelled. A defect in a round is raised."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._in_round = True
                dirty, self._dirty = self._dirty, set()
                refused = await self._round(dirty)
                if refused:
                    asyncio.get_running_loop().call_later(_RETRY, self.touch, refused)
                self._in_round = False
                self._rounds += 1
                async with self._round_over:
                    self._round_over.notify_all()
                if not self._wake.is_set() and self._paced is None:
                    self._idle.set()
        finally:
            if self._paced is not None:
                self._paced.cancel()

    async def _round(self, dirty: set[str]) -> set[str]:
        """Everything for the networks `dirty`; returns those where the kernel refused."""
        # Until a manager has spoken the model is empty, and the entries of before a restart are the best there are.
        if not self._wanted.model.complete:
            return set()
        refused: set[str] = set()
        refused |= await self._hold(dirty)
        networks = dirty & self._wanted.in_use()
        refused |= await self._encryption.follow(dirty, self._wanted.in_use())
        for network_id in networks:
            refused |= await self._program_network(network_id)
        alive = self._wanted.alive()
        # In other namespaces each, and the kernel takes its time in both.
        return refused.union(*await asyncio.gather(self._program_balance(networks, alive), self._publish(dirty, alive)))

    async def _hold(self, dirty: set[str]) -> set[str]:
        """Have the ingress network here, or no longer; returns `dirty` if the kernel refused."""
        networks = self._wanted.ingress()
        if networks.keys() == self._held:
            return set()
        forwardings = {network_id: self._wanted.forwarding(network_id) for network_id in networks}
        try:
            await self._kernel.call(self._segments.hold, networks, forwardings)
        except (OverlayError, OSError) as error:
            log.warning("ingress network: %s", error)
            return dirty
        self._held = set(networks)
        return set()

    async def _program_network(self, network_id: str) -> set[str]:
        """Forwarding entries of one network; returns it if the kernel refused."""
        try:
            await self._kernel.call(self._segments.program, network_id, self._wanted.forwarding(network_id))
        except (OverlayError, OSError) as error:
            log.warning("network %s: %s", network_id, error)
            return {network_id}
        return set()

    async def _program_balance(self, networks: Set[str], alive: Set[str]) -> set[str]:
        """Virtual addresses for every task on one of `networks`; returns those of tasks where the kernel refused."""
        of_network = {network_id: self._wanted.balance([network_id]) for network_id in self._wanted.in_use()}
        updates = {}
        for task in self._wanted.tasks.values():
            on = {attachment.network_id for attachment in task.networks}
            if on & networks:
                wanted = {address: behind for one in on for address, behind in of_network[one].items()}
                if self._balancer.may_wait(task.id, wanted):
                    self._waiting |= on
                    continue
                updates[task.id] = (on, self._balancer.update(task.id, wanted, alive))
        if self._waiting and self._paced is None:
            self._paced = asyncio.get_running_loop().call_later(PACE, self._end_wait)
        results = await asyncio.gather(*(update for _, update in updates.values()), return_exceptions=True)
        refused: set[str] = set()
        for (task_id, (on, _)), result in zip(updates.items(), results, strict=True):
            # A task that was detached meanwhile has no namespace to be changed.
            if isinstance(result, OverlayError | OSError) and task_id in self._wanted.tasks:
                log.warning("task %s: %s", task_id, result)
                refused |= on
            elif isinstance(result, BaseException) and not isinstance(result, OverlayError | OSError):
                raise result
        return refused

    async def _publish(self, dirty: set[str], alive: Set[str]) -> set[str]:
        """Published ports; returns `dirty` if the kernel refused."""
        mesh = self._wanted.mesh()
        if not mesh and self._publisher.is_idle():
            return set()
        try:
            await self._publisher.update(mesh, await self._kernel.call(self._segments.ways_in), alive)
        except (OverlayError, OSError) as error:
            log.warning("published ports: %s", error)
            return dirty
        return set()

    def _end_wait(self) -> None:
        waiting, self._waiting, self._paced = self._waiting, set(), None
        self.touch(waiting)
