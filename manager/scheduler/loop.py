"""The scheduler's loop: PENDING tasks get a node and become ASSIGNED, or an explanation why not.

It keeps a `NodeSet` up to date from events and reacts to them at once: what arrives while a transaction is on its way
is taken together in the next round, so bursts coalesce by themselves (Swarm waits 50 ms instead). Decisions are
committed in transactions of at most 200 tasks, which hold only if the tasks and nodes are still as they were. Tasks
without a suitable node wait until a node changes or something becomes free. Decisions are never revisited.
"""

import asyncio
import time
from collections.abc import Iterable
from random import Random

import structlog

from flota.manager.clock import Clock, seconds, timestamp
from flota.manager.scheduler.affinity import Affinities
from flota.manager.scheduler.demand import SPREAD, Demand, bound_volumes
from flota.manager.scheduler.metrics import DECISIONS, LATENCY, PASS
from flota.manager.scheduler.nodes import NodeInfo, NodeSet
from flota.manager.scheduler.placement import Group, Outcome, Placed, Placement, Why
from flota.manager.store import Event, Store, StoreError, Transaction
from flota.manager.watch_loop import RETRY_DELAY, WatchLoop
from flota.rpc.errors import FlotaError
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.store_pb2 import StoreAction
from flota.v1.types_pb2 import TaskState

_log = structlog.get_logger("scheduler")
_TASKS_PER_TRANSACTION = 200
_BYTES_PER_TRANSACTION = 1_000_000
_TRANSACTIONS_AT_ONCE = 4
_WANTED = TaskState.TASK_STATE_RUNNING
# Seconds between looks at old failures.
_FORGET_EVERY = 60.0


class Scheduler(WatchLoop):
    """A loop of the leader."""

    name = "scheduler"
    kinds = ("task", "node", "service")

    def __init__(self, store: Store, clock: Clock, rng: Random) -> None:
        super().__init__(store, clock)
        self._rng = rng
        self._forget_all()

    def _forget_all(self) -> None:
        self._nodes = NodeSet()
        self._placement = Placement(self._nodes, self._rng)
        self._affinities = Affinities(self._nodes)
        # Tasks to place now, and tasks for which there was no node; by id, oldest first.
        self._waiting: dict[str, Task] = {}
        self._stuck: dict[str, Task] = {}
        self._room_seen = 0
        self._forget_at = 0.0

    def _begin(self) -> None:
        self._forget_all()
        for node in self._store.nodes:
            self._nodes.put_node(node)
        for service in self._store.services:
            self._affinities.note(service)
        for task in sorted(self._store.tasks, key=lambda task: task.meta.version.index):
            self._note_task(task, None)
            self._note_succession(task)
            if task.status.state in (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED):
                self._nodes.note_failure(task)

    # Events.

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            removed = event.kind == StoreAction.KIND_REMOVE
            if isinstance(event.object, Task):
                if removed:
                    self._forget_task(event.object.id)
                else:
                    self._note_task(event.object, event.old)
                self._note_succession(event.object)
            elif isinstance(event.object, Node):
                self._note_node(event.object, event.old, removed)
            elif isinstance(event.object, Service) and removed:
                self._nodes.forget_service(event.object.id)
                self._affinities.forget(event.object.id)
            elif isinstance(event.object, Service):
                self._affinities.note(event.object)

    def _note_task(self, task: Task, old: object) -> None:
        state = task.status.state
        if state == TaskState.TASK_STATE_PENDING and task.desired_state <= TaskState.TASK_STATE_COMPLETE:
            known = self._stuck.get(task.id)
            if known is not None:
                # Our own explanation came back, or what is wanted of it changed: neither finds it a node.
                self._stuck[task.id] = task
            else:
                self._waiting[task.id] = task
            return
        self._waiting.pop(task.id, None)
        self._stuck.pop(task.id, None)
        self._nodes.put_task(task)
        if (
            state in (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED)
            and isinstance(old, Task)
            and old.status.state != state
            # What nobody wanted any longer (it was lost with its node, say) says nothing against the node.
            and old.desired_state <= TaskState.TASK_STATE_COMPLETE
        ):
            self._nodes.note_failure(task)

    def _note_succession(self, task: Task) -> None:
        """A task of this one's slot may be on its way out now, or not any more. Global tasks keep to their node."""
        if not task.slot:
            return
        in_slot = self._store.tasks.by("slot", (task.service_id, task.slot))
        live = [one for one in in_slot if one.desired_state <= _WANTED and one.status.state <= _WANTED]
        youngest = max(live, key=lambda one: one.meta.created_at.ToNanoseconds(), default=None)
        for one in live:
            self._nodes.note_leaving(one.id, one is not youngest)

    def _forget_task(self, task_id: str) -> None:
        self._waiting.pop(task_id, None)
        self._stuck.pop(task_id, None)
        self._nodes.release(task_id)

    def _note_node(self, node: Node, old: object, removed: bool) -> None:
        if removed:
            self._nodes.drop_node(node.id)
            return
        info = self._nodes.nodes.get(node.id)
        if (
            info is not None
            and isinstance(old, Node)
            and old.spec == node.spec
            and old.status == node.status
            and old.description == node.description
            and old.role == node.role
        ):
            # A new certificate, say: nothing here depends on it, but commits name the version.
            info.version, info.node = node.meta.version.index, node
            return
        self._nodes.put_node(node)

    # Decisions.

    def _is_due(self) -> bool:
        if self._stuck and self._nodes.room != self._room_seen:
            self._waiting |= self._stuck
            self._stuck.clear()
        return bool(self._waiting)

    async def _round(self) -> float:
        """Place what waits and commit it."""
        began = time.perf_counter()
        now = self._clock.now()
        if now >= self._forget_at:
            self._nodes.forget_failures(now)
            self._forget_at = now + _FORGET_EVERY
        tasks, self._waiting = self._waiting, {}
        self._room_seen = self._nodes.room
        outcome = self.decide(tasks.values(), now)
        PASS.observe(time.perf_counter() - began)
        packs = list(_packed(outcome.placed, tasks))
        in_order = asyncio.Semaphore(_TRANSACTIONS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            commits = [group.create_task(self._commit(pack, tasks, in_order)) for pack in packs]
            commits.append(group.create_task(self._explain(outcome.unplaced, tasks, in_order)))
        return 0.0 if all(commit.result() for commit in commits) else RETRY_DELAY

    def decide(self, tasks: Iterable[Task], now: float) -> Outcome:
        """Choose nodes; accounts for what it chose. Commits nothing."""
        outcome = Outcome()
        groups: dict[tuple[str, int, tuple[str, ...]], Group] = {}
        cluster = self._store.cluster
        strategy = cluster.spec.strategy if cluster is not None else SPREAD
        for task in tasks:
            if task.node_id:
                demand = self._affinities.of(task, Demand.of(task, strategy))
                self._placement.place_on(task.id, demand, task.node_id, outcome)
                continue
            key = (task.service_id or task.id, task.spec_version.index, bound_volumes(task))
            group = groups.get(key)
            if group is None:
                groups[key] = group = Group(self._affinities.of(task, Demand.of(task, strategy)), [])
            group.task_ids.append(task.id)
        placed = self._placement.place(groups.values(), now)
        outcome.placed += placed.placed
        outcome.unplaced += placed.unplaced
        return outcome

    async def _commit(self, pack: list[Placed], tasks: dict[str, Task], turn: asyncio.Semaphore) -> bool:
        def change(tx: Transaction) -> list[tuple[Placed, bool]]:
            now = timestamp(self._clock.now())
            dropped: list[tuple[Placed, bool]] = []
            for placed in pack:
                task_id, info, given, why = placed
                stored = tx.tasks.get(task_id)
                if (
                    stored is None
                    or stored.status.state != TaskState.TASK_STATE_PENDING
                    or stored.desired_state > TaskState.TASK_STATE_COMPLETE
                ):
                    dropped.append((placed, False))
                    continue
                node = tx.nodes.get(info.id)
                if node is None or node.meta.version.index != info.version:
                    dropped.append((placed, True))
                    continue
                tx.require(node)
                assigned = Task()
                assigned.CopyFrom(stored)
                assigned.node_id = info.id
                assigned.assigned_generic.extend(given)
                status = assigned.status
                status.state = TaskState.TASK_STATE_ASSIGNED
                status.timestamp.CopyFrom(now)
                status.applied_at.CopyFrom(now)
                status.message = "scheduler assigned task to node"
                status.error = ""
                assigned.decisions.add(at=now, by="scheduler", text=_why(stored, info, why))
                tx.update(assigned)
            return dropped

        async with turn:
            try:
                dropped = await self._store.update(change)
            except (StoreError, FlotaError) as error:
                _log.warning("cannot commit", reason=str(error), tasks=len(pack))
                for task_id, *_ in pack:
                    self._again(task_id, tasks)
                return False
        for (task_id, *_), again in dropped:
            DECISIONS.labels("stale").inc()
            if again:
                self._again(task_id, tasks)
            else:
                self._nodes.release(task_id)
        now = self._clock.now()
        left_out = {task_id for (task_id, *_), _ in dropped}
        for task_id, *_ in pack:
            if task_id not in left_out:
                LATENCY.observe(max(0.0, now - seconds(tasks[task_id].meta.created_at)))
        DECISIONS.labels("assigned").inc(len(pack) - len(left_out))
        return True

    def _again(self, task_id: str, tasks: dict[str, Task]) -> None:
        self._nodes.release(task_id)
        stored = self._store.tasks.get(task_id)
        if stored is None:
            return
        # Its commit may have been applied after all: then it is accounted for, not placed again.
        self._note_task(stored, None)

    async def _explain(self, unplaced: list[tuple[str, str]], tasks: dict[str, Task], turn: asyncio.Semaphore) -> bool:
        """Tell people why tasks wait. A message that stands already is not written again."""
        for task_id, _ in unplaced:
            self._stuck[task_id] = tasks[task_id]
        DECISIONS.labels("no_node").inc(len(unplaced))
        news = [(task_id, why) for task_id, why in unplaced if tasks[task_id].status.message != why]

        for start in range(0, len(news), _TASKS_PER_TRANSACTION):
            pack = news[start : start + _TASKS_PER_TRANSACTION]

            def change(tx: Transaction, pack: list[tuple[str, str]] = pack) -> None:
                for task_id, why in pack:
                    stored = tx.tasks.get(task_id)
                    if stored is None or stored.status.state != TaskState.TASK_STATE_PENDING:
                        continue
                    explained = Task()
                    explained.CopyFrom(stored)
                    explained.status.message = explained.status.error = why
                    tx.update(explained)

            async with turn:
                try:
                    await self._store.update(change)
                except (StoreError, FlotaError) as error:
                    _log.warning("cannot commit explanations", reason=str(error), tasks=len(pack))
                    return False
        return True


def _why(task: Task, info: NodeInfo, why: Why) -> str:
    """For people: why the task goes to this node."""
    name = info.node.description.hostname or info.id
    candidates, of_service, active = why
    if task.node_id:
        return f"on {name}, where it was meant for"
    return f"on {name}, one of {candidates} nodes that fit: it had {of_service} tasks of the service, {active} in all"


def _packed(placed: list[Placed], tasks: dict[str, Task]) -> Iterable[list[Placed]]:
    pack: list[Placed] = []
    size = 0
    for one in placed:
        bytes_ = tasks[one[0]].ByteSize()
        if pack and (len(pack) == _TASKS_PER_TRANSACTION or size + bytes_ > _BYTES_PER_TRANSACTION):
            yield pack
            pack, size = [], 0
        pack.append(one)
        size += bytes_
    if pack:
        yield pack
