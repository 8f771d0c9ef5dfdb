"""Where tasks go: groups of identical tasks onto nodes, spread evenly.

Pure over a `NodeSet`, which it updates as it goes. Rank of nodes, as in SwarmKit's manager/scheduler (nodeLess): nodes
where this service version failed five times in five minutes go last; then fewer tasks of this service first, then
fewer tasks in all; ties by chance. Unlike there, tasks that are about to be replaced (start-first) do not count: an
update leaves a service as even as it found it. With the strategy binpack: the fullest node that has room. Spread
preferences make a tree, one level for each; every level deals tasks so that its branches have equally many of the
service, counting what is there already, and a branch that is full passes its share on.

Speed: what does not depend on tasks (ready, constraints, platform, the tree) is worked out once per kind of demand and
kept until a node changes. A node's rank is one integer (failures, tasks of the service, tasks in all, place in the
list), so a group costs one pass over the nodes and a heap operation per task.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from flota.manager.scheduler.demand import Demand
from flota.manager.scheduler.filters import explain, first_refusal
from flota.manager.scheduler.nodes import (
    TOO_MANY_FAILURES,
    NodeInfo,
    NodeSet,
    affinity_fits,
    fullness,
    statically_fits,
)
from flota.v1.types_pb2 import GenericResource

# The fields of a rank, from its lowest bit.
_PLACE_BITS = 20
_ACTIVE = 1 << _PLACE_BITS
_ACTIVE_BITS = 24
_OF_SERVICE = 1 << (_PLACE_BITS + _ACTIVE_BITS)
_FAILURE = 1 << (_PLACE_BITS + _ACTIVE_BITS + 24)
_PLACE_MASK = _ACTIVE - 1
_ONE_MORE = _OF_SERVICE + _ACTIVE

_NODE_LABEL = "node.labels."
_ENGINE_LABEL = "engine.labels."

# Of the node a task was given: nodes that could have taken it, tasks of its service there before, tasks there before.
Why = tuple[int, int, int]
Placed = tuple[str, NodeInfo, tuple[GenericResource, ...], Why]


@dataclass
class Group:
    """Identical tasks: same service, same spec version."""

    demand: Demand
    task_ids: list[str]


@dataclass
class Outcome:
    """Which task goes where, and why the others go nowhere."""

    placed: list[Placed] = field(default_factory=list)
    unplaced: list[tuple[str, str]] = field(default_factory=list)


class _Branch:
    """A branch of the spread tree for one kind of demand: sub-branches by label value, or nodes."""

    __slots__ = ("children", "nodes")

    def __init__(self) -> None:
        self.children: list[_Branch] = []
        self.nodes: list[NodeInfo] = []


class Placement:
    """Places groups; keeps what it worked out about the nodes until they change."""

    def __init__(self, nodes: NodeSet, rng: Random) -> None:
        self._nodes = nodes
        self._rng = rng
        self._epoch = -1
        self._trees: dict[tuple[object, ...], tuple[_Branch, dict[str, list[_Branch]]]] = {}

    def place(self, groups: Iterable[Group], now: float) -> Outcome:
        """Place all groups, one after the other. `now` is wall time in seconds (failures age)."""
        outcome = Outcome()
        for group in groups:
            self._place_group(group, now, outcome)
        return outcome

    def place_on(self, task_id: str, demand: Demand, node_id: str, outcome: Outcome) -> None:
        """A task whose node is fixed (global services): only check whether it fits."""
        info = self._nodes.nodes.get(node_id)
        if info is None:
            outcome.unplaced.append((task_id, "no suitable node (its node is gone)"))
        elif first_refusal(demand, info, self._nodes) is not None:
            outcome.unplaced.append((task_id, explain(demand, [info], self._nodes)))
        else:
            why = (1, self._nodes.by_service.get(demand.service_id, {}).get(node_id, 0), info.active)
            outcome.placed.append((task_id, info, self._nodes.assume(task_id, info, demand), why))

    def _place_group(self, group: Group, now: float, outcome: Outcome) -> None:
        demand = group.demand
        if demand.service_id in demand.near and not self._nodes.by_service.get(demand.service_id):
            # The first one decides where the others go.
            first, rest = group.task_ids[:1], group.task_ids[1:]
            self._place_alike(Group(demand, first), now, outcome)
            group = Group(demand, rest)
        if group.task_ids:
            self._place_alike(group, now, outcome)

    def _place_alike(self, group: Group, now: float, outcome: Outcome) -> None:
        demand = group.demand
        tree, paths = self._tree(demand)
        run = _Run(self._nodes, demand, group.task_ids, now, outcome.placed)
        if tree.children:
            leaving = self._nodes.leaving.get(demand.service_id, {})
            for node_id, count in self._nodes.by_service.get(demand.service_id, {}).items():
                for branch in paths.get(node_id, ()):
                    run.counts[branch] = run.counts.get(branch, 0) + count - leaving.get(node_id, 0)
        placed = run.fill(tree, len(group.task_ids))
        if placed < len(group.task_ids):
            why = explain(demand, self._nodes.nodes.values(), self._nodes)
            outcome.unplaced += [(task_id, why) for task_id in group.task_ids[placed:]]

    def _tree(self, demand: Demand) -> tuple[_Branch, dict[str, list[_Branch]]]:
        """The usable nodes in branches, and for every node the branches it is in (also if it is not usable)."""
        if self._epoch != self._nodes.epoch:
            self._trees.clear()
            self._epoch = self._nodes.epoch
        key = (demand.constraints, demand.platforms, demand.preferences, demand.volumes)
        found = self._trees.get(key)
        if found is None:
            found = self._trees[key] = self._grow(demand)
        return found

    def _grow(self, demand: Demand) -> tuple[_Branch, dict[str, list[_Branch]]]:
        levels = [one for one in demand.preferences if is_label(one)]
        root = _Branch()
        by_values: dict[tuple[str, ...], _Branch] = {(): root}
        paths: dict[str, list[_Branch]] = {}
        infos = list(self._nodes.nodes.values())
        self._rng.shuffle(infos)
        for info in infos:
            usable = statically_fits(demand, info, self._nodes)
            if not usable and not levels:
                continue
            values: tuple[str, ...] = ()
            branch = root
            path: list[_Branch] = []
            for level in levels:
                values += (label_of(level, info),)
                deeper = by_values.get(values)
                if deeper is None:
                    deeper = by_values[values] = _Branch()
                    branch.children.append(deeper)
                branch = deeper
                path.append(branch)
            if levels:
                paths[info.id] = path
            if usable:
                branch.nodes.append(info)
        return root, paths


def is_label(descriptor: str) -> bool:
    return descriptor.startswith((_NODE_LABEL, _ENGINE_LABEL))


def label_of(descriptor: str, info: NodeInfo) -> str:
    if descriptor.startswith(_NODE_LABEL):
        return info.node.spec.annotations.labels.get(descriptor[len(_NODE_LABEL) :], "")
    return info.node.description.engine.labels.get(descriptor[len(_ENGINE_LABEL) :], "")


class _Run:
    """The placing of one group: what is left to place, and the heaps of the leaves visited so far."""

    def __init__(
        self, nodes: NodeSet, demand: Demand, task_ids: Sequence[str], now: float, placed: list[Placed]
    ) -> None:
        self._nodes = nodes
        self._demand = demand
        self._task_ids = task_ids
        self._next = 0
        self._now = now
        self._placed = placed
        self._heaps: dict[_Branch, list[int]] = {}
        # No demand = no lower bound, also on a node that has less than nothing left.
        self._cpu = demand.cpu or -(1 << 62)
        self._memory = demand.memory or -(1 << 62)
        self._only_resources = not (
            demand.generic or demand.ports or demand.max_replicas or demand.near or demand.apart
        )
        self._candidates = 0
        self._undemanding = self._only_resources and not demand.cpu and not demand.memory
        # The service's own counts; filled by NodeSet as tasks are given.
        self._of_service = nodes.by_service.setdefault(demand.service_id, {})
        # Tasks of the service per branch, also on nodes that cannot take more.
        self.counts: dict[_Branch, int] = {}

    def fill(self, branch: _Branch, wanted: int) -> int:
        """Place up to `wanted` tasks below `branch`; gives back how many were placed."""
        if not branch.children:
            return self._fill_nodes(branch, wanted)
        counts = self.counts
        usable = list(branch.children)
        done = 0
        while done < wanted and usable:
            usable.sort(key=lambda child: counts.get(child, 0))
            shares = level([counts.get(child, 0) for child in usable], wanted - done)
            full: set[_Branch] = set()
            for child, share in zip(usable, shares, strict=True):
                if not share:
                    break
                placed = self.fill(child, share)
                counts[child] = counts.get(child, 0) + placed
                done += placed
                if placed < share:
                    full.add(child)
            if not full:
                break
            usable = [child for child in usable if child not in full]
        return done

    def _fill_nodes(self, branch: _Branch, wanted: int) -> int:
        infos = branch.nodes
        if self._demand.binpack:
            return self._pack_nodes(infos, wanted)
        heap = self._heaps.get(branch)
        if heap is None:
            heap = self._ranks(infos)
            self._candidates += len(heap)
            if wanted == 1 and heap and len(self._task_ids) == 1:
                # One task is all there is: no need to order the rest.
                self._give(infos[min(heap) & _PLACE_MASK])
                return 1
            heapq.heapify(heap)
            self._heaps[branch] = heap
        done = 0
        give, fits = self._give, self._fits
        while done < wanted and heap:
            rank = heap[0]
            info = infos[rank & _PLACE_MASK]
            give(info)
            done += 1
            if fits(info):
                heapq.heapreplace(heap, rank + _ONE_MORE)
            else:
                heapq.heappop(heap)
        return done

    def _pack_nodes(self, infos: list[NodeInfo], wanted: int) -> int:
        """Binpack: one node after the other, the fullest first."""
        usable = [info for info in infos if self._fits(info)]
        self._candidates = max(self._candidates, len(usable))
        of = (self._demand.service_id, self._demand.version)
        failed = of in self._nodes.failed

        def rank(info: NodeInfo) -> tuple[bool, float, int]:
            bad = failed and info.recent_failures(of, self._now) >= TOO_MANY_FAILURES
            return bad, -fullness(info), -info.active

        done = 0
        for info in [min(usable, key=rank)] if wanted == 1 and usable else sorted(usable, key=rank):
            while done < wanted and self._fits(info):
                self._give(info)
                done += 1
        return done

    def _give(self, info: NodeInfo) -> None:
        task_id = self._task_ids[self._next]
        self._next += 1
        why = (self._candidates, self._of_service.get(info.id, 0), info.active)
        self._placed.append((task_id, info, self._nodes.assume(task_id, info, self._demand), why))

    def _fits(self, info: NodeInfo) -> bool:
        """Whether a statically fitting node has room for one (more) task of this group."""
        if self._undemanding:
            return True
        demand = self._demand
        return (
            info.cpu >= self._cpu
            and info.memory >= self._memory
            and (not demand.generic or info.generic.has(demand.generic))
            and not any(port in info.ports for port in demand.ports)
            and (not demand.max_replicas or self._of_service.get(info.id, 0) < demand.max_replicas)
            and (not (demand.near or demand.apart) or affinity_fits(demand, info, self._nodes))
        )

    def _ranks(self, infos: list[NodeInfo]) -> list[int]:
        """A rank for every node with room, in no order. Written out by case: this is the scheduler's inner loop."""
        count = self._of_service.get
        if self._undemanding:
            ranks = [
                place + info.active * _ACTIVE + count(info.id, 0) * _OF_SERVICE for place, info in enumerate(infos)
            ]
        elif self._only_resources:
            cpu, memory = self._cpu, self._memory
            ranks = [
                place + info.active * _ACTIVE + count(info.id, 0) * _OF_SERVICE
                for place, info in enumerate(infos)
                if info.cpu >= cpu and info.memory >= memory
            ]
        else:
            fits = self._fits
            ranks = [
                place + info.active * _ACTIVE + count(info.id, 0) * _OF_SERVICE
                for place, info in enumerate(infos)
                if fits(info)
            ]
        leaving = self._nodes.leaving.get(self._demand.service_id)
        if leaving is not None:
            ranks = [rank - leaving.get(infos[rank & _PLACE_MASK].id, 0) * _ONE_MORE for rank in ranks]
        of = (self._demand.service_id, self._demand.version)
        if of in self._nodes.failed:
            for at, rank in enumerate(ranks):
                failures = infos[rank & _PLACE_MASK].recent_failures(of, self._now)
                if failures >= TOO_MANY_FAILURES:
                    ranks[at] = rank + failures * _FAILURE
        return ranks


def level(counts: Sequence[int], extra: int) -> list[int]:
    """How to deal `extra` things over piles of `counts` (ascending) so that they end up as even as can be.

    A remainder goes to the smallest piles, one each.
    """
    reach = 0
    total = 0
    # How many of the smallest piles get anything: as long as the next one is below the level they would reach.
    for count in counts:
        if reach and count * reach >= total + extra:
            break
        reach += 1
        total += count
    height, remainder = divmod(total + extra, reach)
    shares = [height - counts[at] + (1 if at < remainder else 0) for at in range(reach)]
    return shares + [0] * (len(counts) - reach)
