"""Which tasks would move where, so that services are spread evenly again; as few as that takes.

Pure over a picture of the nodes, which is as before when `plan` returns. Two aims, one after the other:

1. Each service by itself: within every level of its spread tree, and then among nodes, no two branches (nodes) differ
   by two or more of its tasks, where a task could go from the fuller to the emptier. Every such move takes the
   difference down, so there are no more of them than needed.
2. All of them together: nodes have about equally many tasks, by moves that leave the first aim as it is. So services of
   one task use a new node as well.

A move goes only where every filter lets the task in and no move of the service failed lately; services that binpack,
follow their volumes or keep their addresses are left alone. Docker never moves a running task (moby#24103, open since
2016).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from flota.manager.orchestrator.restart import stopped_at, stopping
from flota.manager.orchestrator.slots import by_slot
from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.filters import first_refusal
from flota.manager.scheduler.nodes import FAILURES_COUNT_FOR, NodeInfo, statically_fits
from flota.manager.scheduler.picture import Picture
from flota.manager.scheduler.placement import is_label, label_of
from flota.manager.store import ReadTables
from flota.v1.network_options import keeps_address
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import TaskState, UpdateStatus

# Beyond what a person reads and one plan needs; the next one goes on from there.
MOST_MOVES = 1000

_RUNNING = TaskState.TASK_STATE_RUNNING
_BUSY = (UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_ROLLBACK_STARTED)


@dataclass(frozen=True)
class Move:
    """One task, from a node to another one."""

    task: Task
    source: NodeInfo
    target: NodeInfo
    why: str


def settled(service: Service, tables: ReadTables) -> bool:
    """Whether tasks of the service may be moved: none follows its volume, each slot has one, which runs and is healthy.

    Not during an update, and not while a task that was replaced still runs.
    """
    if service.spec.WhichOneof("mode") not in (None, "replicated") or service.spec.stopped:
        return False
    if any(map(keeps_address, service.spec.task.networks)):
        return False
    if any(mount.volume_node_affinity for mount in service.spec.task.container.mounts):
        return False
    if service.update_status.state in _BUSY:
        return False
    tasks = tables.tasks.by("service", service.id)
    if stopping("", tasks, tables.nodes.get):
        return False
    slots = by_slot(service, tasks, per_node=False)
    return all(
        len(slot.live) == 1 and slot.live[0].status.state == _RUNNING and not slot.live[0].status.unready
        for slot in slots.values()
    )


async def plan(
    services: Iterable[Service],
    tables: ReadTables,
    picture: Picture,
    now: float,
    most: Callable[[Service], int] = lambda service: MOST_MOVES,
) -> list[Move]:
    """The first moves for these services, in the order in which they should be made.

    `most` says how many of each service are wanted, so that not more is worked out than will be begun. Other work of
    the event loop goes on between two moves; what the plan rests on is of the moment of the call.
    """
    parts = [part for service in services if (part := _Part.of(service, tables, picture, now)) is not None]
    moves: list[Move] = []
    try:
        for part in parts:
            for move in islice(part.even_out(), max(0, min(most(part.service), MOST_MOVES - len(moves)))):
                moves.append(move)
                await asyncio.sleep(0)
        # The second aim is looked at when the first one is reached.
        if not any(part.moves >= most(part.service) for part in parts):
            for move in islice(_even_out_all(parts, most), max(0, MOST_MOVES - len(moves))):
                moves.append(move)
                await asyncio.sleep(0)
        return moves
    finally:
        for part in parts:
            part.undo()


class _Part:
    """One service: its tasks that can move, and the moves that were decided."""

    def __init__(
        self, service: Service, tasks: list[Task], demand: Demand, picture: Picture, avoided: set[str]
    ) -> None:
        """`avoided` are nodes where a move of this service failed a moment ago."""
        self.service = service
        self.demand = demand
        self._nodes = picture.nodes
        self._counts = picture.nodes.by_service.setdefault(service.id, {})
        self._on: dict[str, list[Task]] = {}
        for task in sorted(tasks, key=lambda task: task.slot):
            self._on.setdefault(task.node_id, []).append(task)
        self.usable = [
            info
            for info in picture.nodes.nodes.values()
            if statically_fits(demand, info, picture.nodes) and info.id not in avoided
        ]
        self._usable_ids = {info.id for info in self.usable}
        self._levels = [one for one in demand.preferences if is_label(one)]
        self._moved: list[Task] = []
        # Of each branch of the spread tree (the labels' values that lead there): tasks on its usable nodes.
        self._in_branch: Counter[tuple[str, ...]] = Counter()
        for info in self.usable:
            self._count(info, self.count(info))

    @classmethod
    def of(cls, service: Service, tables: ReadTables, picture: Picture, now: float) -> "_Part | None":
        """None when there is nothing to move."""
        if not settled(service, tables):
            return None
        all_tasks = tables.tasks.by("service", service.id)
        tasks = [task for task in all_tasks if task.desired_state == _RUNNING]
        if not tasks:
            return None
        demand = picture.demand_of(tasks[0])
        if demand.binpack:
            return None
        avoided = {task.node_id for task in all_tasks if _failed_to_move(task, tables, now)}
        return cls(service, tasks, demand, picture, avoided)

    @property
    def moves(self) -> int:
        """How many were decided."""
        return len(self._moved)

    def can_use(self, info: NodeInfo) -> bool:
        """Whether the node takes tasks of the service, but for what runs there."""
        return info.id in self._usable_ids

    def _branches(self, info: NodeInfo) -> list[tuple[str, ...]]:
        """The branches a node is in, outermost first."""
        values = [label_of(level, info) for level in self._levels]
        return [tuple(values[: depth + 1]) for depth in range(len(values))]

    def _count(self, info: NodeInfo, by: int) -> None:
        if self.can_use(info):
            for branch in self._branches(info):
                self._in_branch[branch] += by

    def count(self, info: NodeInfo) -> int:
        """Tasks of the service on a node."""
        return self._counts.get(info.id, 0)

    def even_out(self) -> Iterator[Move]:
        """Aim 1."""
        while (pair := self._improvement(self.usable, self._levels)) is not None:
            source, target = pair
            gap = f"{self.count(source)} of its tasks are on {_name(source)}, {self.count(target)} on {_name(target)}"
            yield self.move(source, target, gap)

    def _improvement(self, infos: Sequence[NodeInfo], levels: Sequence[str]) -> tuple[NodeInfo, NodeInfo] | None:
        groups: dict[str, list[NodeInfo]] = {}
        for info in infos:
            groups.setdefault(label_of(levels[0], info) if levels else info.id, []).append(info)
        ordered = sorted(groups.values(), key=self._sum)
        for high in reversed(ordered):
            source = self._source(high)
            if source is None:
                continue
            for low in ordered:
                if self._sum(high) - self._sum(low) < 2:
                    break
                target = self._target(low)
                if target is not None:
                    return source, target
        if levels:
            for group in ordered:
                found = self._improvement(group, levels[1:])
                if found is not None:
                    return found
        return None

    def _sum(self, infos: Iterable[NodeInfo]) -> int:
        return sum(self.count(info) for info in infos)

    def _source(self, infos: Iterable[NodeInfo]) -> NodeInfo | None:
        there = [info for info in infos if self._on.get(info.id)]
        return max(there, key=lambda info: (self.count(info), info.active, info.id), default=None)

    def _target(self, infos: Iterable[NodeInfo]) -> NodeInfo | None:
        fit = [info for info in infos if self.fits(info)]
        return min(fit, key=lambda info: (self.count(info), info.active, info.id), default=None)

    def fits(self, info: NodeInfo) -> bool:
        """Whether one more task of the service can go there."""
        return first_refusal(self.demand, info, self._nodes) is None

    def has(self, info: NodeInfo) -> bool:
        """Whether a task there can be moved away."""
        return bool(self._on.get(info.id))

    def harmless(self, source: NodeInfo, target: NodeInfo) -> bool:
        """Whether a task can go from one to the other without making the service less even."""
        for here, there in zip(self._branches(source), self._branches(target), strict=True):
            if here != there:
                return self._in_branch[here] > self._in_branch[there]
        return self.count(source) > self.count(target)

    def move(self, source: NodeInfo, target: NodeInfo, why: str) -> Move:
        """Take one task over in the picture."""
        task = self._on[source.id].pop()
        self._nodes.release(task.id)
        self._nodes.assume(_mark(task), target, self.demand)
        self._count(source, -1)
        self._count(target, 1)
        self._moved.append(task)
        return Move(task, source, target, why)

    def undo(self) -> None:
        """Put the picture back."""
        for task in self._moved:
            self._nodes.release(_mark(task))
        for task in self._moved:
            self._nodes.put_task(task)


def _even_out_all(parts: Sequence[_Part], most: Callable[[Service], int]) -> Iterator[Move]:
    """Aim 2."""
    usable = {info.id: info for part in parts for info in part.usable}
    infos: list[NodeInfo] = list(usable.values())
    while True:
        infos.sort(key=lambda info: (info.active, info.id))
        found = _pair_of_all([part for part in parts if part.moves < most(part.service)], infos)
        if found is None:
            return
        part, source, target = found
        why = f"{source.active} tasks are on {_name(source)}, {target.active} on {_name(target)}"
        yield part.move(source, target, why)


def _pair_of_all(parts: Sequence[_Part], infos: Sequence[NodeInfo]) -> tuple[_Part, NodeInfo, NodeInfo] | None:
    for source in reversed(infos):
        having = [part for part in parts if part.has(source)]
        for target in infos:
            if source.active - target.active < 2:
                break
            for part in having:
                if part.can_use(target) and part.harmless(source, target) and part.fits(target):
                    return part, source, target
    return None


def _failed_to_move(task: Task, tables: ReadTables, now: float) -> bool:
    """Whether it was to take the place of a task that runs on, and failed a moment ago."""
    if not task.moves or task.status.state not in (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED):
        return False
    old = tables.tasks.get(task.replaces)
    return old is not None and old.desired_state == _RUNNING and stopped_at(task) > now - FAILURES_COUNT_FOR


def _mark(task: Task) -> str:
    return f"moved {task.id}"


def _name(info: NodeInfo) -> str:
    return info.node.description.hostname or info.id
