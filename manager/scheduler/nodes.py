"""The scheduler's picture of the nodes: what is free on each, and how many tasks of each service it has.

Kept up to date from events, each in time independent of the number of nodes and tasks. It decides nothing. A task
holds its node's resources from ASSIGNED until it has stopped; it counts for ranking only while it is wanted (SwarmKit's
NodeInfo). A task whose slot has a younger one, which is to take its place (start-first), is on its way out: it counts
for every filter, but not for ranking, so that updates leave services as evenly spread as stopping first would.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from flota.manager.clock import seconds
from flota.manager.constraint import node_fits, normal_architecture
from flota.manager.scheduler.demand import Demand, GenericPool, Port, host_ports
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import GenericResource, NodeAvailability, NodeState, TaskState

# Seconds a failure counts, and how many make a node the last choice (SwarmKit's monitorFailures and maxFailures).
FAILURES_COUNT_FOR = 300.0
TOO_MANY_FAILURES = 5

ServiceVersion = tuple[str, int]


@dataclass(slots=True)
class Held:
    """What one task holds on its node."""

    node_id: str
    service_id: str
    cpu: int
    memory: int
    ports: tuple[Port, ...]
    generic: tuple[GenericResource, ...]
    active: bool
    leaving: bool = False


class NodeInfo:
    """One node as the scheduler sees it. CPU (billionths) and memory (bytes) are what is free."""

    __slots__ = ("active", "cpu", "failures", "generic", "id", "memory", "node", "offered", "ports", "ready", "version")

    def __init__(self, node: Node) -> None:
        self.id = node.id
        self.active = 0
        self.ports: dict[Port, int] = {}
        self.failures: dict[ServiceVersion, list[float]] = {}
        self.describe(node, ())

    @property
    def volumes(self) -> frozenset[str]:
        """Names of the volumes it has."""
        return frozenset(volume.name for volume in self.node.description.volumes)

    def describe(self, node: Node, held: Iterable[Held]) -> None:
        """Take over what the node now says of itself; `held` is what its tasks hold."""
        self.node = node
        self.version = node.meta.version.index
        self.ready = (
            node.status.state == NodeState.NODE_STATE_READY
            and node.spec.availability == NodeAvailability.NODE_AVAILABILITY_ACTIVE
            # It keeps what it has; more would hurt that, too.
            and not node.description.pressures
        )
        resources = node.description.resources
        self.cpu = resources.nano_cpus
        self.memory = resources.memory_bytes
        self.generic = GenericPool(resources)
        self.offered = {(thing.kind, thing.name): True for thing in resources.generic if thing.name}
        for one in held:
            self.cpu -= one.cpu
            self.memory -= one.memory
            self.generic.take(one.generic)

    def recent_failures(self, of: ServiceVersion, now: float) -> int:
        """How many tasks of this service version failed here in the last five minutes."""
        times = self.failures.get(of)
        if not times:
            return 0
        while times and times[0] < now - FAILURES_COUNT_FOR:
            times.pop(0)
        if not times:
            del self.failures[of]
        return len(times)


class NodeSet:
    """All nodes, and what every task holds."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        # Active tasks: service -> node -> count.
        self.by_service: dict[str, dict[str, int]] = {}
        # Those of them that are on their way out.
        self.leaving: dict[str, dict[str, int]] = {}
        # Service versions that failed somewhere lately.
        self.failed: set[ServiceVersion] = set()
        # Named volumes: on which nodes they are.
        self.holders: dict[str, set[str]] = {}
        # Changes whenever it may matter which nodes pass the filters that do not depend on tasks.
        self.epoch = 0
        # Changes whenever a task that found no node may find one.
        self.room = 0
        # Services beside whose tasks others want to be: one more of theirs is room for those.
        self.attracting: set[str] = set()
        self._held: dict[str, Held] = {}
        self._on_node: dict[str, set[str]] = {}

    def put_node(self, node: Node) -> None:
        """A node is new or has changed."""
        info = self.nodes.get(node.id)
        before = info.volumes if info is not None else frozenset()
        if info is None:
            info = self.nodes[node.id] = NodeInfo(node)
        self._note_volumes(node.id, before, frozenset(volume.name for volume in node.description.volumes))
        held = [self._held[task_id] for task_id in self._on_node.get(node.id, ())]
        info.describe(node, held)
        self.epoch += 1
        self.room += 1

    def drop_node(self, node_id: str) -> None:
        """A node is gone; what its tasks hold is forgotten."""
        info = self.nodes.pop(node_id, None)
        if info is not None:
            self._note_volumes(node_id, info.volumes, frozenset())
        for task_id in list(self._on_node.get(node_id, ())):
            self.release(task_id)
        self.epoch += 1

    def _note_volumes(self, node_id: str, before: frozenset[str], now: frozenset[str]) -> None:
        for name in before - now:
            self.holders[name].discard(node_id)
            if not self.holders[name]:
                del self.holders[name]
        for name in now - before:
            self.holders.setdefault(name, set()).add(node_id)

    def has_volumes(self, node_id: str, names: Iterable[str]) -> bool:
        """Whether the node has all of these volumes that any node has."""
        return all(node_id in self.holders.get(name, (node_id,)) for name in names)

    def hostnames_of(self, volume: str) -> list[str]:
        """Where a volume is, for people."""
        return sorted(self.nodes[one].node.description.hostname or one for one in self.holders.get(volume, ()))

    def put_task(self, task: Task) -> None:
        """A task is new or has changed: account for what it holds."""
        state = task.status.state
        holds = TaskState.TASK_STATE_ASSIGNED <= state <= TaskState.TASK_STATE_RUNNING and bool(task.node_id)
        held = self._held.get(task.id)
        if not holds:
            if held is not None:
                self.release(task.id)
            return
        active = task.desired_state <= TaskState.TASK_STATE_COMPLETE
        if held is not None and held.node_id == task.node_id:
            if held.active != active:
                held.active = active
                self._count(held, 1 if active else -1)
                self.room += 1
            return
        if task.node_id not in self.nodes:
            return
        reserved = task.spec.resources.reservations
        info = self.nodes[task.node_id]
        given = tuple(task.assigned_generic)
        info.generic.take(given)
        self._hold(
            task.id,
            info,
            Held(
                task.node_id,
                task.service_id,
                reserved.nano_cpus,
                reserved.memory_bytes,
                host_ports(task),
                given,
                active,
            ),
        )

    def assume(self, task_id: str, info: NodeInfo, demand: Demand) -> tuple[GenericResource, ...]:
        """A task of this demand was given to a node: account for it before anything is committed."""
        given = tuple(info.generic.claim(demand.generic)) if demand.generic else ()
        self._hold(
            task_id, info, Held(info.id, demand.service_id, demand.cpu, demand.memory, demand.ports, given, True)
        )
        return given

    def _hold(self, task_id: str, info: NodeInfo, held: Held) -> None:
        self._held[task_id] = held
        on_node = self._on_node.get(info.id)
        if on_node is None:
            self._on_node[info.id] = {task_id}
        else:
            on_node.add(task_id)
        info.cpu -= held.cpu
        info.memory -= held.memory
        for port in held.ports:
            info.ports[port] = info.ports.get(port, 0) + 1
        if held.active:
            self._count(held, 1)

    def note_leaving(self, task_id: str, leaving: bool) -> None:
        """Whether a task is on its way out because another is to take its place."""
        held = self._held.get(task_id)
        if held is None or held.leaving == leaving:
            return
        held.leaving = leaving
        if held.active:
            self._count_leaving(held, 1 if leaving else -1)

    def _count(self, held: Held, by: int) -> None:
        info = self.nodes.get(held.node_id)
        if info is not None:
            info.active += by
        _add(self.by_service.setdefault(held.service_id, {}), held.node_id, by)
        if held.leaving:
            self._count_leaving(held, by)
        if by > 0 and held.service_id in self.attracting:
            self.room += 1

    def _count_leaving(self, held: Held, by: int) -> None:
        counts = self.leaving.setdefault(held.service_id, {})
        _add(counts, held.node_id, by)
        if not counts:
            del self.leaving[held.service_id]

    def release(self, task_id: str) -> None:
        """The task holds nothing any longer: it stopped, is gone, or was not assigned after all."""
        held = self._held.pop(task_id, None)
        if held is None:
            return
        self._on_node[held.node_id].discard(task_id)
        if held.active:
            self._count(held, -1)
        info = self.nodes.get(held.node_id)
        if info is not None:
            info.cpu += held.cpu
            info.memory += held.memory
            info.generic.give_back(held.generic, info.offered)
            for port in held.ports:
                info.ports[port] -= 1
                if not info.ports[port]:
                    del info.ports[port]
        self.room += 1

    def forget_service(self, service_id: str) -> None:
        """A service is gone and has no tasks left that count."""
        if not self.by_service.get(service_id, True):
            del self.by_service[service_id]

    def holds(self, task_id: str) -> bool:
        """Whether the task is accounted for."""
        return task_id in self._held

    def note_failure(self, task: Task) -> None:
        """A task failed by itself on its node."""
        info = self.nodes.get(task.node_id)
        if info is not None and task.service_id:
            of = (task.service_id, task.spec_version.index)
            when = seconds(task.status.applied_at if task.status.HasField("applied_at") else task.status.timestamp)
            info.failures.setdefault(of, []).append(when)
            self.failed.add(of)

    def forget_failures(self, now: float) -> None:
        """Drop failures that are too old to count."""
        self.failed = {of for of in self.failed if any(info.recent_failures(of, now) for info in self.nodes.values())}


def _add(counts: dict[str, int], key: str, by: int) -> None:
    """Change a count; what is none is left out."""
    left = counts.get(key, 0) + by
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)


def platform_fits(platforms: tuple[tuple[str, str], ...], node: Node) -> bool:
    """Whether one of the platforms (os, architecture) is the node's; empty words match anything."""
    if not platforms:
        return True
    own = node.description.platform
    return any(
        (not os or os.lower() == own.os.lower())
        and (not arch or normal_architecture(arch) == normal_architecture(own.architecture))
        for os, arch in platforms
    )


def affinity_fits(demand: Demand, info: NodeInfo, nodes: NodeSet) -> bool:
    """Whether the tasks on a node are such company as the demand asks for."""
    for service_id in demand.apart:
        if nodes.by_service.get(service_id, {}).get(info.id):
            return False
    for service_id in demand.near:
        counts = nodes.by_service.get(service_id, {})
        if not counts.get(info.id) and (counts or service_id != demand.service_id):
            return False
    return True


def fullness(info: NodeInfo) -> float:
    """How much of a node is reserved: of CPU or memory, whichever is more; 0 to 1 (and over, if it shrank)."""
    resources = info.node.description.resources
    cpu, memory = resources.nano_cpus, resources.memory_bytes
    return max(1 - info.cpu / cpu if cpu else 0.0, 1 - info.memory / memory if memory else 0.0)


def statically_fits(demand: Demand, info: NodeInfo, nodes: NodeSet) -> bool:
    """Whether a node passes the filters that do not depend on what runs there."""
    return (
        info.ready
        and (not demand.volumes or nodes.has_volumes(info.id, demand.volumes))
        and (not demand.constraints or node_fits(demand.constraints, info.node))
        and platform_fits(demand.platforms, info.node)
    )
