"""Moves: a running task goes elsewhere without its service having one less meanwhile.

The new task (`Task.moves`) is wanted RUNNING beside the one it `replaces`, which is told to stop when the new one runs
and is healthy. Drains of services with update order start-first begin moves here; the rebalancer begins the others
(rebalancer.py). A new task that fails is given up: a drain tries again after the restart delay for as long as the
restart policy allows, and the old task runs on; a rebalance leaves things as they were.

Pure. Only replicated services move: a global service's task belongs to its node. (Docker's drain always stops first,
moby#34139.)
"""

from flota.manager.clock import timestamp
from flota.manager.orchestrator import records
from flota.manager.orchestrator.changes import Group
from flota.manager.orchestrator.restart import delay_of, should_restart
from flota.manager.orchestrator.slots import Decision, Slot, World, fresh
from flota.manager.orchestrator.tasks import is_dirty, must_leave, wanted
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState, UpdateConfig

_RUNNING, _SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_SHUTDOWN


def is_draining(node: Node | None) -> bool:
    """Whether the node is to be emptied, and can still run what it has."""
    return (
        node is not None
        and node.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
        and node.status.state != NodeState.NODE_STATE_DOWN
    )


def pair_of(slot: Slot) -> tuple[Task, Task] | None:
    """The task that is being moved, and the one that takes its place; None when nothing is."""
    for new in slot.live:
        if new.moves and new.desired_state <= _RUNNING:
            for old in slot.live:
                if old.id == new.replaces and old.desired_state == _RUNNING and not is_terminal(old):
                    return old, new
    return None


def tend(service: Service, slot: Slot, world: World, decision: Decision) -> bool:
    """Begin, carry on or finish the slot's move. True while there is one: nobody else may touch the slot then."""
    pair = pair_of(slot)
    if pair is None:
        return _begin(service, slot, world, decision)
    old, new = pair
    node = world.node(old.node_id)
    if node is None or node.status.state == NodeState.NODE_STATE_DOWN:
        # Lost: the restart rules see that its successor is there already.
        return False
    if new.status.state == _RUNNING and not new.status.unready:
        why = f"moved: {records.short(new.id)} runs in its place"
        _write(decision, service, wanted(old, _SHUTDOWN, world.now, why, records.MOVE))
    elif is_terminal(new) or bool(new.node_id and must_leave(world.node(new.node_id))):
        _give_up(service, slot, old, new, world, decision)
    elif is_dirty(service, new, world.node(new.node_id)):
        _write(decision, service, wanted(new, _SHUTDOWN, world.now, "its spec is outdated", records.MOVE))
    elif _has_no_room(new):
        why = f"the move is off: {new.status.error}"
        _write(decision, service, wanted(new, _SHUTDOWN, world.now, why, records.MOVE))
    elif new.desired_state < _RUNNING:
        at = new.not_before.seconds + new.not_before.nanos / 1e9
        if at <= world.now:
            _write(decision, service, wanted(new, _RUNNING, world.now))
        else:
            decision.wake(at)
    return True


def successor(service: Service, slot: Slot, old: Task, world: World, node_id: str, why: str) -> Task:
    """A new task that takes the place of `old` once it runs; on a given node, or ("") wherever there is room."""
    new = fresh(service, slot.key, world, _RUNNING, node_id, why=why, by=records.MOVE)
    new.replaces = old.id
    new.moves = True
    return new


def _begin(service: Service, slot: Slot, world: World, decision: Decision) -> bool:
    if service.spec.update.order != UpdateConfig.ORDER_START_FIRST or len(slot.live) != 1:
        return False
    old = slot.live[0]
    node = world.node(old.node_id) if old.node_id else None
    if (
        node is None
        or old.desired_state != _RUNNING
        or old.status.state != _RUNNING
        or not is_draining(node)
        or not should_restart(service, old, slot.tasks)
    ):
        return False
    name = node.description.hostname or node.id
    why = f"{name} is drained: starts before {records.short(old.id)} stops"
    decision.groups.append(Group(service.id, create=[successor(service, slot, old, world, "", why)]))
    return True


def _give_up(service: Service, slot: Slot, old: Task, new: Task, world: World, decision: Decision) -> None:
    why = f"the move failed: {new.status.error or new.status.message or 'its node went'}"
    group = Group(service.id, update=[wanted(new, _SHUTDOWN, world.now, why, records.MOVE)])
    if is_draining(world.node(old.node_id)) and should_restart(service, new, slot.tasks):
        again = successor(service, slot, old, world, "", f"again, as {records.short(new.id)} failed")
        again.desired_state = TaskState.TASK_STATE_READY
        again.not_before.CopyFrom(timestamp(world.now + delay_of(new.spec.restart)))
        group.create.append(again)
    decision.groups.append(group)


def _has_no_room(new: Task) -> bool:
    """Whether the one node the new task was meant for cannot take it after all."""
    return bool(new.node_id and new.status.error) and new.status.state == TaskState.TASK_STATE_PENDING


def _write(decision: Decision, service: Service, task: Task) -> None:
    decision.groups.append(Group(service.id, update=[task]))
