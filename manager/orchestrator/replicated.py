"""Replicated services: have as many live slots as the service wants.

Pure: given a service, its tasks and its nodes, what is to be written. Semantics: SwarmKit's
manager/orchestrator/replicated.
"""

from flota.manager.orchestrator import moves, update
from flota.manager.orchestrator.slots import Decision, Key, Slot, World, by_slot, drop, fill, tend
from flota.v1.objects_pb2 import Service
from flota.v1.types_pb2 import TaskState


def replicas_of(service: Service) -> int:
    """How many slots the service wants."""
    replicated = service.spec.replicated
    return replicated.replicas if replicated.HasField("replicas") else 1


def decide(service: Service, world: World) -> Decision:
    """What to write so that the service gets nearer to its spec."""
    decision = Decision()
    slots = by_slot(service, world.tables.tasks.by("service", service.id), per_node=False)
    live = [slot for slot in slots.values() if slot.live]
    dead = {slot.key: slot for slot in slots.values() if not slot.live}
    missing = replicas_of(service) - len(live)
    if missing > 0:
        for key in lowest_free({slot.key for slot in live}, missing):
            dead.pop(key, None)
            why = f"{replicas_of(service)} replicas are wanted, and slot {key} had no task"
            decision.groups.append(fill(service, key, world, why=why))
    elif missing < 0:
        ordered = keep_order(live)
        live, cut = ordered[:missing], ordered[missing:]
        for slot in cut:
            why = f"scaled down to {replicas_of(service)}"
            decision.groups += drop(service, slot.tasks, TaskState.TASK_STATE_REMOVE, world, why)
    for slot in dead.values():
        decision.groups += drop(service, slot.tasks, TaskState.TASK_STATE_REMOVE, world)
    at_rest = [
        slot
        for slot in live
        if not moves.tend(service, slot, world, decision) and not tend(service, slot, world, decision)
    ]
    update.decide(service, live, at_rest, world, decision)
    return decision


def lowest_free(taken: set[Key], count: int) -> list[int]:
    """The `count` lowest slot numbers from 1 that are not taken."""
    free: list[int] = []
    number = 0
    while len(free) < count:
        number += 1
        if number not in taken:
            free.append(number)
    return free


def keep_order(slots: list[Slot]) -> list[Slot]:
    """Slots in the order in which they are kept when there are too many; the last ones go first.

    Running ones stay before others, lower numbers before higher ones; above all, the nth copy on a node goes before
    any (n-1)th, and what has no node yet goes before everything.
    """
    by_rank = sorted(slots, key=lambda slot: (not _runs(slot), slot.key))
    copies: dict[str, int] = {}
    order: list[tuple[float, Slot]] = []
    for slot in by_rank:
        node_id = next((task.node_id for task in slot.live if task.node_id), "")
        if not node_id:
            order.append((float("inf"), slot))
            continue
        copies[node_id] = nth = copies.get(node_id, 0) + 1
        order.append((nth, slot))
    order.sort(key=lambda entry: entry[0])
    return [slot for _, slot in order]


def _runs(slot: Slot) -> bool:
    return any(task.status.state == TaskState.TASK_STATE_RUNNING for task in slot.live)
