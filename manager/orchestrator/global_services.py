"""Global services: one task on every node that fulfils the constraints and takes tasks.

Pure: given a service, its tasks and all nodes, what is to be written. A task's node is fixed when it is made; the
scheduler only checks that it fits. Semantics: SwarmKit's manager/orchestrator/global.
"""

from flota.manager.constraint import node_fits
from flota.manager.orchestrator import update
from flota.manager.orchestrator.slots import Decision, World, by_slot, drop, fill, tend
from flota.manager.orchestrator.tasks import must_leave
from flota.v1.objects_pb2 import Service
from flota.v1.types_pb2 import NodeAvailability, TaskState


def decide(service: Service, world: World) -> Decision:
    """What to write so that the service gets nearer to one task per eligible node."""
    decision = Decision()
    slots = by_slot(service, world.tables.tasks.by("service", service.id), per_node=True)
    live, at_rest = [], []
    constraints = service.spec.task.placement.constraints
    for node in world.tables.nodes:
        slot = slots.pop(node.id, None)
        if must_leave(node) or not node_fits(constraints, node):
            if slot is not None:
                why = "its node does not take the service's tasks any longer"
                decision.groups += drop(service, slot.live, TaskState.TASK_STATE_SHUTDOWN, world, why)
            continue
        if node.spec.availability == NodeAvailability.NODE_AVAILABILITY_PAUSE:
            # Neither new tasks nor updates; a successor that is waiting already still gets its turn.
            if slot is not None:
                slot.live = [task for task in slot.live if task.desired_state == TaskState.TASK_STATE_READY]
                tend(service, slot, world, decision)
            continue
        if slot is None or not slot.live:
            why = f"{node.description.hostname or node.id} takes tasks and fulfils the constraints"
            decision.groups.append(fill(service, node.id, world, node.id, why))
            continue
        live.append(slot)
        if not tend(service, slot, world, decision):
            at_rest.append(slot)
    for slot in slots.values():
        # The node is gone, and with it whoever could report these tasks stopped.
        decision.groups += drop(service, slot.tasks, TaskState.TASK_STATE_REMOVE, world)
    update.decide(service, live, at_rest, world, decision)
    return decision
