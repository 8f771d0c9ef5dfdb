"""What a simulated cluster looks like, in numbers and in lines for people. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from flota.simulation.cluster import SimulatedCluster
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeState, TaskState

# With more services people want the numbers above, or --json.
_MOST_SERVICES = 30


@dataclass
class ServicePart:
    """One service: its tasks that run and wait (and, of a job, have completed), and where they are."""

    name: str
    running: int = 0
    waiting: int = 0
    completed: int = 0
    # Nodes that have tasks of it, and the most that one has.
    nodes: int = 0
    most_on_a_node: int = 0
    # Why most of those that wait do so.
    reason: str = ""


@dataclass
class Phase:
    """One step of the scenario, from when it began until nothing changed any more. Seconds are virtual ones."""

    name: str
    seconds: float
    came_to_rest: bool
    nodes: int
    running: int
    waiting: int
    completed: int
    # Tasks lost with their nodes, and tasks that were moved.
    lost: int = 0
    moved: int = 0
    # Fewest, median and most on a node that is up: tasks, shares of CPU and memory that are reserved.
    tasks_per_node: tuple[float, float, float] = (0, 0, 0)
    cpu: tuple[float, float, float] = (0, 0, 0)
    memory: tuple[float, float, float] = (0, 0, 0)
    # Why tasks wait → how many.
    reasons: dict[str, int] = field(default_factory=dict)
    services: list[ServicePart] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def look(name: str, cluster: SimulatedCluster, rest: tuple[float, bool], lost: int = 0) -> Phase:
    """The cluster as it is now."""
    up = {node.id: node.description.resources for node in cluster.store.nodes if _is_up(node)}
    tasks: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    services = []
    for service in sorted(cluster.store.services, key=lambda service: service.spec.annotations.name):
        own = cluster.store.tasks.by("service", service.id)
        part, why = _part(service, own)
        services.append(part)
        reasons.update(why)
        for task in filter(_is_wanted, own):
            reserved = task.spec.resources.reservations
            tasks[task.node_id] += 1
            cpu[task.node_id] += reserved.nano_cpus
            memory[task.node_id] += reserved.memory_bytes
    return Phase(
        name, round(rest[0], 1), rest[1], len(up),
        sum(part.running for part in services),
        sum(part.waiting for part in services),
        sum(part.completed for part in services),
        lost,
        sum(1 for task in cluster.wanted() if task.moves),
        _three([tasks[id] for id in up]),
        _three([cpu[id] / each.nano_cpus for id, each in up.items() if each.nano_cpus]),
        _three([memory[id] / each.memory_bytes for id, each in up.items() if each.memory_bytes]),
        dict(reasons.most_common()),
        services,
    )  # fmt: skip


def _part(service: Service, tasks: Iterable[Task]) -> tuple[ServicePart, Counter[str]]:
    """What becomes of one service, and why its tasks wait → how many."""
    part = ServicePart(service.spec.annotations.name)
    on: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for task in tasks:
        part.completed += task.status.state == TaskState.TASK_STATE_COMPLETE
        if not _is_wanted(task):
            continue
        if task.status.state == TaskState.TASK_STATE_RUNNING:
            part.running += 1
        else:
            part.waiting += 1
            reasons[task.status.error or task.status.message] += 1
        if task.node_id:
            on[task.node_id] += 1
    if service.waits_for:
        reasons[f"service {part.name} waits for {service.waits_for}"] += 1
    part.nodes, part.most_on_a_node = len(on), max(on.values(), default=0)
    part.reason = next((reason for reason, _ in reasons.most_common(1)), "")
    return part, reasons


def _is_up(node: Node) -> bool:
    return node.status.state == NodeState.NODE_STATE_READY


def _is_wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.TASK_STATE_COMPLETE and not is_terminal(task)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    if not values:
        return 0, 0, 0
    return round(min(values), 3), round(median(values), 3), round(max(values), 3)


def in_words(phase: Phase) -> str:
    """For people."""
    rest = f"after {phase.seconds:g} s" if phase.came_to_rest else f"not at rest after {phase.seconds:g} s"
    lines = [f"{phase.name}: {rest}"]
    counts = [f"{phase.running} tasks run"]
    if phase.waiting:
        counts.append(f"{phase.waiting} wait")
    if phase.completed:
        counts.append(f"{phase.completed} have completed")
    if phase.lost:
        counts.append(f"{phase.lost} were lost with their nodes")
    if phase.moved:
        counts.append(f"{phase.moved} were moved")
    lines.append(f"  {', '.join(counts)}; {phase.nodes} nodes are up")
    low, middle, high = phase.tasks_per_node
    lines.append(f"  tasks on a node: {low:g} to {high:g}, median {middle:g}")
    for word, three in (("CPU", phase.cpu), ("memory", phase.memory)):
        if three[2]:
            lines.append(f"  {word} reserved on a node: {three[0]:.0%} to {three[2]:.0%}, median {three[1]:.0%}")
    lines += _table(phase.services)
    return "\n".join(lines)


def _table(services: Sequence[ServicePart]) -> list[str]:
    """A line for each service; with very many for those first that are not whole."""
    shown = sorted(services, key=lambda part: not part.waiting and not part.reason)[:_MOST_SERVICES]
    rows: list[tuple[str, ...]] = [("SERVICE", "RUN", "WAIT", "NODES", "MOST ON ONE", "WHY THEY WAIT")]
    for part in sorted(shown, key=lambda part: part.name):
        run = f"{part.completed} done" if part.completed and not part.running else str(part.running)
        numbers = (str(number) if number else "-" for number in (part.waiting, part.nodes, part.most_on_a_node))
        rows.append((part.name, run, *numbers, part.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if len(services) > len(shown):
        lines.append(f"  … and {len(services) - len(shown)} more services")
    return [line.rstrip() for line in lines]
