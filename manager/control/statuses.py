"""How many tasks of a service shall run, and how many do. Pure."""

from collections.abc import Iterable

from flota.manager.control.service_rules import mode_of
from flota.v1.control_pb2 import ServiceStatus
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import TaskState


def status_of(service: Service, tasks: Iterable[Task]) -> ServiceStatus:
    """Counts over the service's tasks. A task on its way out does not count as running, though it may still be."""
    mode = mode_of(service.spec)
    job = mode in ("replicated_job", "global_job")
    iteration = service.job_status.iteration.index
    running = completed = 0
    places: set[str] = set()
    for task in tasks:
        if job and task.job_iteration.index != iteration:
            continue
        state = task.status.state
        wanted = task.desired_state <= TaskState.TASK_STATE_COMPLETE
        if wanted and state == TaskState.TASK_STATE_RUNNING:
            running += 1
        if job and state == TaskState.TASK_STATE_COMPLETE:
            completed += 1
        if wanted:
            places.add(task.node_id)
    if mode == "replicated":
        desired = service.spec.replicated.replicas
    elif mode == "replicated_job":
        desired = service.spec.replicated_job.total_completions
    else:
        desired = len(places)
    return ServiceStatus(service_id=service.id, desired_tasks=desired, running_tasks=running, completed_tasks=completed)
