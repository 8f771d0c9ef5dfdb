"""What a simulated cluster looks like, in numbers and in lines for people. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from flota.simulation.cluster import SimulatedCluster
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeState, TaskState

_MOST_REASONS = 5


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
    # Service → nodes it is on.
    spread: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def look(name: str, cluster: SimulatedCluster, rest: tuple[float, bool], lost: int = 0) -> Phase:
    """The cluster as it is now."""
    up = [node for node in cluster.store.nodes if node.status.state == NodeState.NODE_STATE_READY]
    tasks: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    places: dict[str, set[str]] = {}
    running = waiting = completed = 0
    for task in cluster.store.tasks:
        if task.status.state == TaskState.TASK_STATE_COMPLETE:
            completed += 1
        if task.desired_state > TaskState.TASK_STATE_COMPLETE or is_terminal(task):
            continue
        if task.status.state == TaskState.TASK_STATE_RUNNING:
            running += 1
        else:
            waiting += 1
            reasons[task.status.error or task.status.message] += 1
        if task.node_id:
            reserved = task.spec.resources.reservations
            tasks[task.node_id] += 1
            cpu[task.node_id] += reserved.nano_cpus
            memory[task.node_id] += reserved.memory_bytes
            places.setdefault(task.service_annotations.name, set()).add(task.node_id)
    for service in cluster.store.services:
        if service.waits_for:
            reasons[f"service {service.spec.annotations.name} waits for {service.waits_for}"] += 1
    resources = {node.id: node.description.resources for node in up}
    return Phase(
        name, round(rest[0], 1), rest[1], len(up), running, waiting, completed, lost,
        sum(1 for task in cluster.wanted() if task.moves),
        _three([tasks[node.id] for node in up]),
        _three([cpu[id] / each.nano_cpus for id, each in resources.items() if each.nano_cpus]),
        _three([memory[id] / each.memory_bytes for id, each in resources.items() if each.memory_bytes]),
        dict(reasons.most_common()),
        {name: len(nodes) for name, nodes in sorted(places.items())},
    )  # fmt: skip


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
    for reason, count in list(phase.reasons.items())[:_MOST_REASONS]:
        lines.append(f"  {count} ×  {reason}")
    if len(phase.reasons) > _MOST_REASONS:
        lines.append(f"  … and {len(phase.reasons) - _MOST_REASONS} more reasons")
    return "\n".join(lines)
