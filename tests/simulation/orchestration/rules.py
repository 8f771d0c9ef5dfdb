"""The rules that hold after every transaction of a simulation, whatever happens in it.

1. Never more running than asked: a slot of a service that stops first has one container, but while a task moves.
2. What runs on a node that lives is known to the managers.
3. No task is put where its constraints fail; where they fail later, it does not stay.
4. What is on a node that is down is given up.
5. CPU, memory, generic resources and host ports are never given away twice; no node has more tasks of a service than
   `max_replicas` says.
6. No two addresses are the same.

How many have to run (the budget) depends on the story: test_budget.py.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flota.manager.constraint import node_fits
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeAvailability, NodeState, PortConfig, TaskState, UpdateConfig

if TYPE_CHECKING:
    from tests.simulation.orchestration.world import World

_RUNNING = TaskState.TASK_STATE_RUNNING
# Seconds in which a leader has to tell a task to stop that must not stay where it is, or is lost there.
_EVICTED_WITHIN = 3.0
# A successor that was still waiting for its restart delay is given up after that.
_GIVEN_UP_WITHIN = 8.0


class BrokenRule(AssertionError):
    """A rule that must hold at every step did not."""


class Rules:
    """Looks at a world; remembers the most containers of each service that stops first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.most_running: Counter[str] = Counter()
        # Rules that tasks break for the moment, and since when.
        self._breaking: dict[tuple[str, str], float] = {}
        self._rejected: set[str] = set()

    def check(self) -> None:
        """All of them; raises BrokenRule."""
        self._check_running()
        for node in self._world.store.nodes:
            tasks = [
                task
                for task in self._world.store.tasks.by("node", node.id)
                if TaskState.TASK_STATE_ASSIGNED <= task.status.state <= _RUNNING
            ]
            for task in tasks:
                self._check_place(node, task)
            self._check_reservations(node, tasks)
            self._check_most(node, tasks)
        self._check_addresses()

    def _broken(self, what: str) -> BrokenRule:
        return BrokenRule(f"at {self._world.clock.now():.3f}: {what}\n{self._world.picture()}")

    def _check_running(self) -> None:
        containers: Counter[tuple[str, int | str]] = Counter()
        for agent in self._world.agents.values():
            for task_id in agent.running if agent.alive else ():
                task = self._world.store.tasks.get(task_id)
                if task is None:
                    if task_id not in self._rejected:
                        raise self._broken(f"{task_id} runs and was deleted")
                    continue
                if task.status.state == TaskState.TASK_STATE_REJECTED:
                    # By the enforcer: it has stopped as far as managers care.
                    self._rejected.add(task_id)
                    continue
                service = self._world.store.services.get(task.service_id)
                if service is None or _starts_first(service) or self._takes_over(task):
                    continue
                slot = task.service_id, task.slot or task.node_id
                containers[slot] += 1
                if containers[slot] > 1:
                    raise self._broken(f"two running in slot {slot[1]}")
        for service_id in {service_id for service_id, _ in containers}:
            running = sum(count for (owner, _), count in containers.items() if owner == service_id)
            self.most_running[service_id] = max(self.most_running[service_id], running)

    def _takes_over(self, task: Task) -> bool:
        """Whether it runs beside the one it takes the place of: that is what a move is."""
        return task.moves and any(task.replaces in other.running for other in self._world.agents.values())

    def _check_place(self, node: Node, task: Task) -> None:
        wanted = task.desired_state <= TaskState.TASK_STATE_COMPLETE
        fits = node_fits(task.spec.placement.constraints, node)
        if not fits and task.status.state == TaskState.TASK_STATE_ASSIGNED and _version(task) > _version(node):
            raise self._broken(f"task {task.id} was put where its constraints fail")
        takes_tasks = (
            node.spec.availability == NodeAvailability.NODE_AVAILABILITY_ACTIVE
            and node.status.state == NodeState.NODE_STATE_READY
        )
        misplaced = wanted and takes_tasks and not fits
        self._check_for_how_long(task, misplaced, "stays where its constraints fail", _EVICTED_WITHIN)
        lost = wanted and node.status.state == NodeState.NODE_STATE_DOWN
        self._check_for_how_long(task, lost, "is wanted on a node that is down", _GIVEN_UP_WITHIN)

    def _check_for_how_long(self, task: Task, breaking: bool, what: str, most: float) -> None:
        """Break the rule `what` when the task has been `breaking` it for more than `most` seconds with a leader."""
        if not breaking:
            self._breaking.pop((task.id, what), None)
            return
        now, leader_since = self._world.clock.now(), self._world.leader_since
        since = self._breaking.setdefault((task.id, what), now)
        if leader_since is not None and now - max(since, leader_since) > most:
            raise self._broken(f"task {task.id} {what}")

    def _check_reservations(self, node: Node, tasks: list[Task]) -> None:
        offered = node.description.resources
        cpu, memory = offered.nano_cpus, offered.memory_bytes
        generic = Counter({thing.kind: thing.count for thing in offered.generic})
        ports: Counter[tuple[int, int]] = Counter()
        for task in tasks:
            reserved = task.spec.resources.reservations
            cpu -= reserved.nano_cpus
            memory -= reserved.memory_bytes
            generic.subtract({thing.kind: thing.count for thing in reserved.generic})
            ports.update(
                (port.protocol, port.published_port)
                for port in task.endpoint.ports
                if port.publish_mode == PortConfig.PUBLISH_MODE_HOST
            )
        for what, left in (("CPUs", cpu), ("memory", memory), *generic.items()):
            if left < 0:
                raise self._broken(f"node {node.id} is overcommitted: {left} {what} are left")
        if any(count > 1 for count in ports.values()):
            raise self._broken(f"a host port is used twice on {node.id}")

    def _check_most(self, node: Node, tasks: list[Task]) -> None:
        wanted = Counter(task.service_id for task in tasks if task.desired_state <= TaskState.TASK_STATE_COMPLETE)
        for task in tasks:
            most = task.spec.placement.max_replicas
            if most and wanted[task.service_id] > most:
                raise self._broken(f"{wanted[task.service_id]} tasks of a service on {node.id}, {most} are allowed")

    def _check_addresses(self) -> None:
        seen: dict[tuple[str, str], str] = {}
        for service in self._world.store.services:
            for vip in service.endpoint.virtual_ips:
                seen[vip.network_id, vip.address] = service.id
        for task in self._world.store.tasks:
            if is_terminal(task):
                continue
            for attachment in task.networks:
                for address in attachment.addresses:
                    other = seen.setdefault((attachment.network_id, address), task.id)
                    if other != task.id:
                        raise self._broken(f"{address} belongs to {other} and {task.id}")


def _starts_first(service: Service) -> bool:
    return UpdateConfig.ORDER_START_FIRST in (service.spec.update.order, service.spec.rollback.order)


def _version(thing: Node | Task) -> int:
    return thing.meta.version.index
