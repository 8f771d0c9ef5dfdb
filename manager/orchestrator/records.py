"""Short records of what was decided and why, kept in tasks and services for people: `service explain`, `service ps`.

A record costs some tens of bytes and rides on a write that happens anyway. Nothing ever decides by them, but for one
thing: a task that was stopped with its service (`STOP`) does not fill its slot when the service is started again.
"""

from flota.manager.clock import timestamp
from flota.v1.objects_pb2 import Service, Task

# The newest kept for each task and each service.
KEPT_PER_TASK = 12
KEPT_PER_SERVICE = 20

ORCHESTRATOR, RESTART, UPDATE, MOVE, STOP = "orchestrator", "restart", "update", "move", "stop"
_LONGEST = 300


def note(thing: Task | Service, by: str, text: str, now: float) -> None:
    """Add a record to a task or service that is being changed. `now` is wall time in seconds."""
    kept = KEPT_PER_TASK if isinstance(thing, Task) else KEPT_PER_SERVICE
    thing.decisions.add(at=timestamp(now), by=by, text=text[:_LONGEST])
    if len(thing.decisions) > kept:
        del thing.decisions[0]


def was_stopped_with_its_service(task: Task) -> bool:
    """Whether `service stop` ended this task."""
    return any(decision.by == STOP for decision in task.decisions)


def short(id: str) -> str:
    """An id as tables show it."""
    return id[:12]
