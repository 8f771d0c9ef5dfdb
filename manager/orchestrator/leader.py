"""Everything the leader's manager runs over the store: orchestrators, allocator, scheduler, reaper, enforcer.

The assembly starts each loop as a task of one TaskGroup when this manager becomes leader and cancels them all when it
no longer is. A loop holds nothing that the store does not: a new leader's loops begin by reading everything.
"""

from random import Random
from typing import Protocol

from flota.manager.clock import Clock
from flota.manager.store import Store


class LeaderLoop(Protocol):
    """One loop of the leader."""

    @property
    def name(self) -> str:
        """For logs."""
        ...

    async def run(self) -> None:
        """Runs until cancelled."""
        ...


def leader_loops(store: Store, clock: Clock, rng: Random) -> list[LeaderLoop]:
    """Make the loops afresh; call it every time leadership is won. `rng` breaks ties and makes ids."""
    from flota.manager.allocator.loop import Allocator
    from flota.manager.orchestrator.enforcer import ConstraintEnforcer
    from flota.manager.orchestrator.loop import Orchestrator
    from flota.manager.orchestrator.reaper import TaskReaper
    from flota.manager.orchestrator.rebalancer import Rebalancer
    from flota.manager.scheduler.loop import Scheduler

    return [
        Allocator(store, clock),
        Orchestrator(store, clock, rng),
        Scheduler(store, clock, rng),
        ConstraintEnforcer(store, clock),
        TaskReaper(store, clock),
        Rebalancer(store, clock, rng),
    ]
