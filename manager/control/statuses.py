"""How many tasks of a service shall run, and how many do. Pure.

For a job these are the tasks of its current run that are under way; what has completed is counted apart. So Docker's
`2/2 (3/10 completed)` can be said of a job of ten of which two run at a time.
"""

from collections.abc import Iterable

from flota.manager.control.service_rules import mode_of
from flota.manager.orchestrator.tasks import is_dirty
from flota.v1.control_pb2 import ServiceStatus
from flota.v1.objects_pb2 import Service, Task
from flota.v1.types_pb2 import TaskState


def status_of(service: Service, tasks: Iterable[Task]) -> ServiceStatus:
    """Counts over the service's tasks. A task on its way out does not count as running, though it may still be."""
    mode = mode_of(service.spec)
    job = mode in ("replicated_job", "global_job")
    iteration = service.job_status.iteration.index
    running = completed = updated = 0
    # By node: a global service's task and the one that takes its place are one.
    places: set[str] = set()
    under_way = 0
    # By spec version: tasks that were made from the same one are alike.
    outdated: dict[int, bool] = {}
    for task in tasks:
        if job and task.job_iteration.index != iteration:
            continue
        state = task.status.state
        wanted = task.desired_state <= TaskState.TASK_STATE_COMPLETE
        if wanted and state == TaskState.TASK_STATE_RUNNING:
            running += 1
            version = task.spec_version.index
            if version not in outdated:
                outdated[version] = is_dirty(service, task, None)
            updated += not outdated[version]
        if job and state == TaskState.TASK_STATE_COMPLETE:
            completed += 1
        if wanted and state < TaskState.TASK_STATE_COMPLETE:
            under_way += 1
        if wanted:
            places.add(task.node_id)
    match mode:
        case _ if service.spec.stopped:
            desired = 0
        case "replicated":
            desired = service.spec.replicated.replicas
        case "global":
            desired = len(places)
        case _:
            desired = under_way
    return ServiceStatus(
        service_id=service.id,
        desired_tasks=desired,
        running_tasks=running,
        completed_tasks=completed,
        updated_tasks=updated,
    )
