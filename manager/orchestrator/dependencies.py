"""`depends_on`, kept by the cluster: what a service's first tasks, and its updates, wait for.

Pure. The first tasks of a service (those made while it has none, for a job: none of its present run) are made when all
that it depends on is as far as it asks for; an update begins to replace tasks then, so that a stack whose services all
change is replaced in order (only what is gone or was stopped meanwhile is not waited for). A service that runs is left
alone whatever becomes of what it depends on: restarts and more replicas do not wait.
"""

from flota.manager.constraint import node_fits
from flota.manager.orchestrator.tasks import is_dirty, must_leave
from flota.manager.store import ReadTables
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import Dependency, TaskState, UpdateStatus

_JOBS = ("replicated_job", "global_job")
_MOVING = (UpdateStatus.STATE_UPDATING, UpdateStatus.STATE_ROLLBACK_STARTED)


def waits_for(service: Service, tables: ReadTables) -> str:
    """For people: the first thing the service waits for; empty = nothing."""
    first = not has_begun(service, tables)
    for dependency in service.spec.depends_on:
        why = _unmet(dependency, tables, first)
        if why:
            return why
    return ""


def has_begun(service: Service, tables: ReadTables) -> bool:
    """Whether the service has tasks (a job: in its present run)."""
    tasks = tables.tasks.by("service", service.id)
    if service.spec.WhichOneof("mode") in _JOBS:
        return any(task.job_iteration.index == service.job_status.iteration.index for task in tasks)
    return any(task.desired_state != TaskState.TASK_STATE_REMOVE for task in tasks)


def _unmet(dependency: Dependency, tables: ReadTables, first: bool) -> str:
    name = dependency.service
    other = tables.services.by_name(name)
    if other is None or (other.spec.stopped and not first):
        # A service that runs has no use for it any longer: its update need not wait for what may never come.
        return f"service {name}, which does not exist" if first else ""
    goal = {
        Dependency.CONDITION_HEALTHY: "to be healthy",
        Dependency.CONDITION_COMPLETED: "to complete",
    }.get(dependency.condition, "to start")
    if other.spec.stopped:
        return f"service {name} {goal}: it is stopped"
    if other.update_status.state in _MOVING:
        return f"service {name} {goal}: it is being updated"
    return "" if _is_met(other, dependency.condition, tables) else f"service {name} {goal}"


def _is_met(other: Service, condition: "Dependency.Condition.ValueType", tables: ReadTables) -> bool:
    there = _places(other, condition, tables)
    mode = other.spec.WhichOneof("mode") or "replicated"
    if mode in _JOBS and condition != Dependency.CONDITION_COMPLETED:
        return bool(there)
    if mode == "replicated_job":
        return len(there) >= other.spec.replicated_job.total_completions
    if mode == "replicated":
        replicated = other.spec.replicated
        return len(there) >= (replicated.replicas if replicated.HasField("replicas") else 1)
    wanted = {
        node.id
        for node in tables.nodes
        if not must_leave(node) and node_fits(other.spec.task.placement.constraints, node)
    }
    return bool(wanted) and wanted <= there


def _places(other: Service, condition: "Dependency.Condition.ValueType", tables: ReadTables) -> set[int | str]:
    """The slots or nodes of a service where a task of its present spec is as far as the condition says."""
    job = other.spec.WhichOneof("mode") in _JOBS
    places: set[int | str] = set()
    for task in tables.tasks.by("service", other.id):
        if job and task.job_iteration.index != other.job_status.iteration.index:
            continue
        if not _is_there(task, condition, job, other):
            continue
        if not job and is_dirty(other, task, tables.nodes.get(task.node_id)):
            continue
        places.add(task.node_id if other.spec.WhichOneof("mode") in ("global", "global_job") else task.slot)
    return places


def _is_there(task: Task, condition: "Dependency.Condition.ValueType", job: bool, other: Service) -> bool:
    state = task.status.state
    ended_well = state == TaskState.TASK_STATE_COMPLETE
    if condition == Dependency.CONDITION_COMPLETED:
        return ended_well
    if ended_well and job:
        return True
    if task.desired_state > TaskState.TASK_STATE_COMPLETE:
        return False
    if condition == Dependency.CONDITION_HEALTHY:
        return state == TaskState.TASK_STATE_RUNNING and not task.status.unready
    # With a health check a task is STARTING until it is healthy: its container runs already.
    checked = bool(other.spec.task.container.healthcheck.test)
    return state == TaskState.TASK_STATE_RUNNING or (checked and state == TaskState.TASK_STATE_STARTING)
