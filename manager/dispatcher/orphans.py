"""Gives up on tasks whose node has been down for a day: they are ORPHANED, since nobody knows what became of them.

Until then a node that comes back can still say. Semantics: SwarmKit's manager/dispatcher (moveTasksToOrphaned).
"""

import asyncio

from flota.manager.clock import Clock, seconds, timestamp
from flota.manager.orchestrator.changes import Group, commit
from flota.manager.store import ReadTables, Store
from flota.v1.objects_pb2 import Task
from flota.v1.types_pb2 import NodeState, TaskState

ORPHAN_AFTER = 24 * 3600.0
# Seconds between looks; nobody waits for them.
_EVERY = 60.0


def orphaned(tables: ReadTables, now: float) -> list[Group]:
    """Tasks to give up on, as ORPHANED copies."""
    groups = []
    for node in tables.nodes:
        status = node.status
        if status.state != NodeState.NODE_STATE_DOWN or not status.HasField("since"):
            continue
        if now - seconds(status.since) < ORPHAN_AFTER:
            continue
        for task in tables.tasks.by("node", node.id):
            if TaskState.TASK_STATE_ASSIGNED <= task.status.state <= TaskState.TASK_STATE_RUNNING:
                groups.append(Group(task.id, update=[_orphan(task, now)]))
    return groups


def _orphan(task: Task, now: float) -> Task:
    given_up = Task()
    given_up.CopyFrom(task)
    status = given_up.status
    status.state = TaskState.TASK_STATE_ORPHANED
    status.message = "its node has been down for 24 hours"
    status.timestamp.CopyFrom(timestamp(now))
    status.applied_at.CopyFrom(timestamp(now))
    return given_up


async def run(store: Store, clock: Clock) -> None:
    """Runs until cancelled. What cannot be committed now is found again at the next look."""
    while True:
        await commit(store, orphaned(store, clock.now()))
        await asyncio.sleep(_EVERY)
