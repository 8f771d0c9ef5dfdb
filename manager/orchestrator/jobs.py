"""Jobs: tasks that run to completion, either so many times in all, or once on every node.

Pure. A job has iterations: an update begins a new one, and tasks of older ones are removed. Tasks are wanted COMPLETE.
A slot whose task failed and may not be restarted is given up; it is not filled again in this iteration. Slots are
numbered from 1. Semantics otherwise: SwarmKit's manager/orchestrator/jobs.
"""

from flota.manager.constraint import node_fits
from flota.manager.orchestrator.replicated import lowest_free
from flota.manager.orchestrator.slots import Decision, Key, Slot, World, by_slot, drop, fill, tend
from flota.manager.orchestrator.tasks import must_leave
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import NodeAvailability, TaskState


def decide_replicated(service: Service, world: World) -> Decision:
    """Keep up to `max_concurrent` tasks going until `total_completions` have completed."""
    decision = Decision()
    slots = _slots(service, world, decision, per_node=False)
    complete = [slot for slot in slots.values() if _is_complete(slot)]
    open_slots = [slot for slot in slots.values() if slot.live and not _is_complete(slot)]
    going = [slot for slot in open_slots if slot.live[0].desired_state <= TaskState.TASK_STATE_COMPLETE]
    given_up = len(open_slots) - len(going)
    for slot in going:
        tend(service, slot, world, decision)
    job = service.spec.replicated_job
    total = job.total_completions
    room = (job.max_concurrent or total) - len(going)
    missing = total - len(complete) - len(going) - given_up
    taken = {slot.key for slot in complete + open_slots}
    for key in lowest_free(taken, max(0, min(room, missing))):
        why = f"{len(complete)} of {total} have completed, {len(going)} are under way"
        decision.groups.append(fill(service, key, world, why=why))
    return decision


def decide_global(service: Service, world: World) -> Decision:
    """Run once on every node that takes tasks and fulfils the constraints."""
    decision = Decision()
    slots = _slots(service, world, decision, per_node=True)
    for node in world.tables.nodes:
        slot = slots.pop(node.id, None)
        if slot is not None and _is_complete(slot):
            continue
        if must_leave(node) or not node_fits(service.spec.task.placement.constraints, node):
            if slot is not None:
                decision.groups += drop(service, slot.live, TaskState.TASK_STATE_SHUTDOWN, world)
        elif slot is not None and slot.live:
            tend(service, slot, world, decision)
        elif node.spec.availability == NodeAvailability.NODE_AVAILABILITY_ACTIVE:
            why = f"{node.description.hostname or node.id} has not completed this run"
            decision.groups.append(fill(service, node.id, world, node.id, why))
    for slot in slots.values():
        decision.groups += drop(service, slot.tasks, TaskState.TASK_STATE_REMOVE, world)
    return decision


def _slots(service: Service, world: World, decision: Decision, per_node: bool) -> dict[Key, Slot]:
    iteration = service.job_status.iteration.index
    current: list[Task] = []
    for task in world.tables.tasks.by("service", service.id):
        if task.job_iteration.index == iteration:
            current.append(task)
        else:
            decision.groups += drop(service, [task], TaskState.TASK_STATE_REMOVE, world)
    return by_slot(service, current, per_node)


def _is_complete(slot: Slot) -> bool:
    return any(task.status.state == TaskState.TASK_STATE_COMPLETE for task in slot.tasks)
