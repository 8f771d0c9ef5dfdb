"""The rebalancer's loop: begins the moves of rebalance.py, at the pace of each service's update configuration.

A service is due when it was asked for (`Service.rebalance_asked`: by a person, or here when a node came (arrivals.py)
and its policy is on-join), or, with the policy always, whenever something changed. Moves are begun only while every
task of the service runs and is healthy, at most `parallelism` at a time, and `delay` after the last ones; moves.py
finishes them, always start-first. With no policy set anywhere this loop only notes which nodes came.
"""

import math
from collections.abc import Iterable
from random import Random

from flota.manager.clock import Clock, timestamp
from flota.manager.orchestrator import records
from flota.manager.orchestrator.arrivals import Arrivals
from flota.manager.orchestrator.changes import Group, commit
from flota.manager.orchestrator.moves import successor
from flota.manager.orchestrator.rebalance import MOST_MOVES, Move, plan, settled
from flota.manager.orchestrator.slots import Slot, World
from flota.manager.orchestrator.update import Plan
from flota.manager.scheduler.picture import picture_of
from flota.manager.store import Event, Store
from flota.manager.watch_loop import RETRY_DELAY, WatchLoop
from flota.v1.objects_pb2 import Cluster, Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import RebalancePolicy, TaskState

# Seconds between two looks.
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


class Rebalancer(WatchLoop):
    """A loop of the leader."""

    name = "rebalancer"
    kinds = ("service", "node", "task", "cluster")

    def __init__(self, store: Store, clock: Clock, rng: Random) -> None:
        super().__init__(store, clock)
        self._rng = rng
        # Something happened since the last look.
        self._dirty = True
        self._moved_at: dict[str, float] = {}
        self._alarm = math.inf
        self._looked_at = 0.0

    def _begin(self) -> None:
        self._dirty = True
        self._arrivals = Arrivals()
        for node in self._store.nodes:
            self._arrivals.note(node, self._clock.now())

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            thing, old = event.object, event.old
            if isinstance(thing, Task):
                # A mere step of a task changes nothing here, unless it is the last one up or down.
                if not isinstance(old, Task) or old.status.state != thing.status.state >= TaskState.TASK_STATE_RUNNING:
                    self._dirty = True
                continue
            self._dirty = True
            if isinstance(thing, Node) and event.kind == StoreAction.KIND_REMOVE:
                self._arrivals.forget(thing.id)
            elif isinstance(thing, Node):
                self._arrivals.note(thing, self._clock.now())

    def _is_due(self) -> bool:
        at = self._wake_at()
        return self._dirty or (at is not None and at <= self._clock.now())

    def _wake_at(self) -> float | None:
        at = min(self._arrivals.due_at or math.inf, self._alarm)
        return None if at == math.inf else at

    async def _round(self) -> float:
        """Ask for what is due because of nodes that came, and begin the moves that were asked for."""
        self._dirty = False
        self._alarm = math.inf
        failed = await self._commit(self._arrivals.leavers(self._store))
        due_at = self._arrivals.due_at
        if not failed and due_at is not None and due_at <= self._clock.now():
            failed = await self._commit(self._askings()) or await self._commit(self._arrivals.comers(self._store))
        if not failed:
            failed = await self._commit(await self._moves(self._due()))
        return GAP + (RETRY_DELAY if failed else 0.0)

    async def _commit(self, groups: list[Group]) -> bool:
        """Whether some were not taken; then there is another look."""
        stale, failed = await commit(self._store, groups)
        self._dirty |= bool(stale or failed)
        return bool(stale or failed)

    def _askings(self) -> list[Group]:
        """A node came: the services that are to be rebalanced then."""
        return [
            _asked(service, self._clock.now())
            for service in self._store.services
            if policy_of(service, self._store.cluster) == _Policy.REBALANCE_POLICY_ON_JOIN
            and not service.HasField("rebalance_asked")
        ]

    def _due(self) -> list[Service]:
        """The services for which moves were asked, and from time to time those with the policy always."""
        now = self._clock.now()
        look_at_all = now >= self._looked_at + ALWAYS_GAP
        due = []
        for service in self._store.services:
            always = policy_of(service, self._store.cluster) == _Policy.REBALANCE_POLICY_ALWAYS
            if service.HasField("rebalance_asked") or (always and look_at_all):
                due.append(service)
            elif always:
                self._alarm = min(self._alarm, self._looked_at + ALWAYS_GAP)
        if look_at_all:
            self._looked_at = now
        return due

    async def _moves(self, due: list[Service]) -> list[Group]:
        """The first moves of each service, and the end of what was asked for where there are none."""
        now = self._clock.now()
        ready = []
        for service in due:
            calm = self._moved_at.get(service.id, 0.0) + Plan.of(service).delay
            if not settled(service, self._store):
                continue
            if calm > now:
                self._alarm = min(self._alarm, calm)
                continue
            ready.append(service)
        if not ready:
            return []
        picture = await picture_of(self._store)
        moves = await plan(ready, self._store, picture, now, at_once)
        groups: list[Group] = []
        for service in ready:
            mine = [move for move in moves if move.task.service_id == service.id]
            now_there = self._store.services.get(service.id)
            if now_there is None or now_there.meta.version != service.meta.version or not settled(service, self._store):
                # Something happened while the plan was made: there will be another one.
                self._dirty = True
            elif mine:
                self._moved_at[service.id] = now
                groups += [self._start(service, move) for move in mine]
            elif not moves and service.HasField("rebalance_asked"):
                # While others still move, there may yet be one for the sake of all together.
                groups.append(_done(service, now))
        return groups

    def _start(self, service: Service, move: Move) -> Group:
        world = World(self._store, self._clock.now(), self._rng)
        old = move.task
        name = move.target.node.description.hostname or move.target.id
        why = f"rebalance: moves {records.short(old.id)} to {name}, as {move.why}"
        new = successor(service, Slot(old.slot, [old]), old, world, move.target.id, why)
        return Group(service.id, create=[new])


def at_once(service: Service) -> int:
    """How many tasks of the service may be moved at the same time."""
    return Plan.of(service).parallelism or MOST_MOVES


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
