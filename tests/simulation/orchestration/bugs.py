"""Seeded bugs: each is a mistake one could make in an orchestrator or scheduler. The rules must find every one of them.

A bug is a set of replacements: where, the name, and what stands there instead.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flota.manager.allocator import addresses
from flota.manager.orchestrator import enforcer, loop, moves, reaper, slots, update
from flota.manager.orchestrator.changes import commit
from flota.manager.scheduler import demand as demands
from flota.manager.scheduler import filters, nodes
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NodeAvailability, TaskState

Replacement = tuple[Any, str, Any]
_SHUTDOWN = TaskState.TASK_STATE_SHUTDOWN


def _asks_for_less(**less: Any) -> list[Replacement]:
    """The scheduler does not see something that tasks ask for."""
    read: Callable[..., demands.Demand] = demands.Demand.of
    return [(demands.Demand, "of", staticmethod(lambda *arguments: replace(read(*arguments), **less)))]


def _plan_of(**other: Any) -> list[Replacement]:
    """The updater reads its configuration wrongly."""
    read = update.Plan.of
    return [(update.Plan, "of", staticmethod(lambda service: replace(read(service), **other)))]


def _one_more_at_once() -> list[Replacement]:
    read = update.Plan.of

    def more(service: Any) -> update.Plan:
        plan = read(service)
        return replace(plan, parallelism=plan.parallelism + 1 if plan.parallelism else 0)

    return [(update.Plan, "of", staticmethod(more))]


def _moves_stop_first() -> list[Replacement]:
    make = moves.successor

    def begin(service: Any, slot: Any, world: Any, decision: Any) -> bool:
        old = slot.live[0] if len(slot.live) == 1 else None
        if old is None or not moves.is_draining(world.node(old.node_id)):
            return False
        group = moves.Group(service.id, create=[make(service, slot, old, world, "", "")])
        group.update.append(moves.wanted(old, _SHUTDOWN, world.now))
        decision.groups.append(group)
        return True

    return [(moves, "_begin", begin)]


def _deletes_what_runs() -> list[Replacement]:
    def surplus(slot: list[Task], limit: int, tables: Any) -> list[Task]:
        return [task for task in slot if task.desired_state > TaskState.TASK_STATE_COMPLETE]

    return [(reaper, "surplus", surplus)]


def _stays_when_down(node: Any) -> bool:
    return node is None or node.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN


# Name → what is replaced. First those that a storm must find (rules.py, and that services converge after it) …
STORMS: dict[str, Callable[[], list[Replacement]]] = {
    "StartsBeforeTheOldOneHasStopped": lambda: [(slots, "may_start_at", lambda task, slot, node_of: 0.0)],
    "ForgetsReservedCpu": lambda: _asks_for_less(cpu=0),
    "ForgetsReservedMemory": lambda: _asks_for_less(memory=0),
    "ForgetsGenericResources": lambda: _asks_for_less(generic=()),
    "ForgetsHostPorts": lambda: _asks_for_less(ports=()),
    "ForgetsMaxReplicas": lambda: _asks_for_less(max_replicas=0),
    "ForgetsConstraints": lambda: [
        (nodes, "node_fits", lambda *_: True),
        (filters, "node_fits", lambda *_: True),
    ],
    "NeverEvicts": lambda: [(enforcer, "evicted", lambda *_: [])],
    "DeletesWhatRuns": _deletes_what_runs,
    "GivesAddressesTwice": lambda: [(addresses.Subnet, "give", _always_the_tenth)],
    "LeavesTasksOnNodesThatAreDown": lambda: [(slots, "must_leave", _stays_when_down)],
    "NeverWakes": lambda: [(loop.Orchestrator, "_set_alarm", lambda *_: None)],
    "ForgetsWhatConsensusRefused": lambda: [(loop, "commit", _commit_and_forget)],
    "NeverEndsAnUpdate": lambda: [(update, "_settle", lambda *_: [])],
}
# … then those that break what a configuration promises (test_budget.py).
BUDGETS: dict[str, Callable[[], list[Replacement]]] = {
    "OneMoreAtOnceThanAllowed": _one_more_at_once,
    "StopsFirstAlways": lambda: _plan_of(start_first=False),
    "MovesStopFirst": _moves_stop_first,
    "AnUpdateForgetsTheOneBefore": lambda: [(update, "_serves", lambda slot: True)],
}


def _always_the_tenth(subnet: addresses.Subnet) -> str:
    return f"{subnet.network[10]}/{subnet.network.prefixlen}"


async def _commit_and_forget(store: Any, groups: Any) -> tuple[set[str], set[str]]:
    await commit(store, groups)
    return set(), set()
