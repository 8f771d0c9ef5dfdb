"""The rebalancer's loop: begins the moves of rebalance.py, at the pace of each service's update configuration.

A service is due when it was asked for (`Service.rebalance_asked`: by a person, or here when a node came and its policy
is on-join), or, with the policy always, whenever something changed. Moves are begun only while every task of the
service runs and is healthy, at most `parallelism` at a time, and `delay` after the last ones; moves.py finishes them,
always start-first. With no policy set anywhere this loop only listens.
"""

import asyncio
from collections.abc import Iterable
from random import Random

from flota.manager.clock import Clock, timestamp
from flota.manager.orchestrator import records
from flota.manager.orchestrator.changes import RETRY_DELAY, Group, commit
from flota.manager.orchestrator.moves import successor
from flota.manager.orchestrator.rebalance import Move, plan, settled
from flota.manager.orchestrator.slots import Slot, World
from flota.manager.orchestrator.update import Plan
from flota.manager.scheduler.picture import picture_of
from flota.manager.store import Event, Store, WatchClosed
from flota.v1.objects_pb2 import Cluster, Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import NodeAvailability, NodeState, RebalancePolicy, TaskState

# Seconds for which a node has to be there before tasks are moved because of it, and between two looks.
SETTLE = 3.0
GAP = 1.0
# Likewise for services with the policy always, which are looked at although nobody asked.
ALWAYS_GAP = 5.0

_Policy = RebalancePolicy


def policy_of(service: Service, cluster: Cluster | None) -> "RebalancePolicy.ValueType":
    """The service's own, else the cluster's, else off."""
    own = service.spec.rebalance
    if own == _Policy.REBALANCE_POLICY_UNSPECIFIED and cluster is not None:
        own = cluster.spec.rebalance
    return own or _Policy.REBALANCE_POLICY_OFF


def takes_tasks(node: Node) -> bool:
    """Whether the scheduler may use the node."""
    return (
        node.status.state == NodeState.NODE_STATE_READY
        and node.spec.availability == NodeAvailability.NODE_AVAILABILITY_ACTIVE
    )


class Rebalancer:
    """A loop of the leader."""

    name = "rebalancer"

    def __init__(self, store: Store, clock: Clock, rng: Random) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        # When a node's coming is to be looked at; 0 = none came.
        self._joined = 0.0
        # Something happened since the last look.
        self._dirty = True
        self._moved_at: dict[str, float] = {}
        self._wake = 0.0
        self._looked_at = 0.0

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                await self._follow()
            except WatchClosed:
                continue

    async def _follow(self) -> None:
        with self._store.watch("service", "node", "task", "cluster") as changes:
            self._dirty = True
            while True:
                self._note(changes.drain())
                now = self._clock.now()
                join_due, alarm = bool(self._joined) and self._joined <= now, bool(self._wake) and self._wake <= now
                if self._dirty or join_due or alarm:
                    if not await self._look(join_due):
                        await asyncio.sleep(RETRY_DELAY)
                    await asyncio.sleep(GAP)
                    continue
                at = min((when for when in (self._joined, self._wake) if when), default=None)
                try:
                    async with asyncio.timeout(None if at is None else max(at - now, 0.001)):
                        self._note(await changes.next())
                except TimeoutError:
                    continue

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            thing, old = event.object, event.old
            if isinstance(thing, Task):
                # A mere step of a task changes nothing here, unless it is the last one up or down.
                if not isinstance(old, Task) or old.status.state != thing.status.state >= TaskState.TASK_STATE_RUNNING:
                    self._dirty = True
                continue
            self._dirty = True
            if not isinstance(thing, Node) or event.kind == StoreAction.KIND_REMOVE or not takes_tasks(thing):
                continue
            # A new leader hears of every node anew: that is no coming.
            unknown = isinstance(old, Node) and old.status.state == NodeState.NODE_STATE_UNKNOWN
            if not unknown and not (isinstance(old, Node) and takes_tasks(old)):
                self._joined = self._clock.now() + SETTLE

    async def _look(self, joined: bool) -> bool:
        """Ask for what is due and begin moves; False when consensus cannot take it at the moment."""
        self._dirty = False
        self._wake = 0.0
        cluster = self._store.cluster
        asked, due = [], []
        now = self._clock.now()
        always = now >= self._looked_at + ALWAYS_GAP
        for service in self._store.services:
            policy = policy_of(service, cluster)
            if service.HasField("rebalance_asked"):
                due.append(service)
            elif policy == _Policy.REBALANCE_POLICY_ALWAYS and always:
                self._looked_at = now
                due.append(service)
            elif policy == _Policy.REBALANCE_POLICY_ALWAYS:
                self._wake = self._looked_at + ALWAYS_GAP
            elif joined and policy == _Policy.REBALANCE_POLICY_ON_JOIN:
                asked.append(service)
        if joined:
            self._joined = 0.0
        groups = [_asked(service, self._clock.now()) for service in asked]
        if due:
            groups += await self._begin(due)
        if not groups:
            return True
        stale, failed = await commit(self._store, groups)
        if stale:
            self._dirty = True
        if failed:
            self._dirty = True
            if joined:
                self._joined = self._clock.now()
        return not failed

    async def _begin(self, due: list[Service]) -> list[Group]:
        """The first moves of each service, and the end of what was asked for where there are none."""
        now = self._clock.now()
        ready = []
        for service in due:
            calm = self._moved_at.get(service.id, 0.0) + Plan.of(service).delay
            if not settled(service, self._store):
                continue
            if calm > now:
                self._wake = min(self._wake or calm, calm)
                continue
            ready.append(service)
        if not ready:
            return []
        picture = await picture_of(self._store)
        # What happened while the picture was made is in the tables, and makes commits stale where it matters.
        moves = plan(ready, self._store, picture, now)
        groups: list[Group] = []
        for service in ready:
            mine = [move for move in moves if move.task.service_id == service.id]
            if mine:
                self._moved_at[service.id] = now
                for move in mine[: Plan.of(service).parallelism or None]:
                    groups.append(self._start(service, move))
            elif service.HasField("rebalance_asked"):
                groups.append(_done(service, now))
        return groups

    def _start(self, service: Service, move: Move) -> Group:
        world = World(self._store, self._clock.now(), self._rng)
        old = move.task
        name = move.target.node.description.hostname or move.target.id
        why = f"rebalance: moves {records.short(old.id)} to {name}, as {move.why}"
        new = successor(service, Slot(old.slot, [old]), old, world, move.target.id, why)
        return Group(service.id, create=[new])


def _asked(service: Service, now: float) -> Group:
    changed = Service()
    changed.CopyFrom(service)
    changed.rebalance_asked.CopyFrom(timestamp(now))
    return Group(service.id, update=[changed])


def _done(service: Service, now: float) -> Group:
    changed = Service()
    changed.CopyFrom(service)
    changed.ClearField("rebalance_asked")
    records.note(changed, records.MOVE, "rebalanced: nothing is left to move", now)
    return Group(service.id, update=[changed])
