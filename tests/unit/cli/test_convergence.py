"""Has a service got there? A pure reading of its tasks; what may go wrong on the way is told apart."""

from typing import Any

import pytest

from flota.cli.convergence import Convergence, Goal, reason, update_mark
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.types_pb2 import NodeAvailability, NodeState, RestartPolicy, TaskState, UpdateStatus

RUNNING, FAILED, SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_SHUTDOWN
STARTING = TaskState.TASK_STATE_STARTING
COMPLETE, READY, REMOVE = TaskState.TASK_STATE_COMPLETE, TaskState.TASK_STATE_READY, TaskState.TASK_STATE_REMOVE
VERSION = 5


def service(replicas: int = 2) -> Service:
    made = Service(id="s")
    made.spec.annotations.name = "web"
    made.spec.replicated.replicas = replicas
    made.spec.task.container.image = "new"
    made.spec_version.index = VERSION
    return made


class Tasks:
    """Makes tasks of a service, each newer than the one before."""

    def __init__(self, of: Service) -> None:
        self.of = of
        self.made = 0

    def __call__(
        self,
        slot: int,
        state: "TaskState.ValueType" = RUNNING,
        desired: "TaskState.ValueType" = RUNNING,
        node: str = "n1",
        version: int = VERSION,
        **status: Any,
    ) -> Task:
        self.made += 1
        task = Task(id=f"t{self.made}", service_id="s", slot=slot, node_id=node, desired_state=desired)
        task.spec.CopyFrom(self.of.spec.task)
        if version < VERSION:
            task.spec.container.image = "old"
        task.spec_version.index = version
        task.meta.version.index = self.made
        task.status.state = state
        for field, value in status.items():
            setattr(task.status, field, value)
        return task


def watch(of: Service, *tasks: Task, **more: Any) -> Convergence:
    made = Convergence(of, **more)
    for task in tasks:
        made.observe_task(task)
    return made


def test_all_slots_run_from_the_newest_spec() -> None:
    web = service()
    task = Tasks(web)
    assert watch(web, task(1), task(2)).progress().converged
    progress = watch(web, task(1), task(2, version=4)).progress()
    assert (progress.done, progress.wanted, progress.converged) == (1, 2, False)
    # A task of an older version whose spec is the same is as good (scaling makes no new tasks).
    old = task(2, version=4)
    old.spec.CopyFrom(web.spec.task)
    assert watch(web, task(1), old).progress().converged


def test_what_is_to_go_must_have_gone() -> None:
    web = service(1)
    task = Tasks(web)
    leaving = task(2, RUNNING, REMOVE)
    convergence = watch(web, task(1), leaving)
    assert not convergence.progress().converged
    convergence.observe_task(leaving, removed=True)
    assert convergence.progress().converged
    assert watch(service(0)).progress().converged


def test_a_slots_newest_live_task_stands_for_it() -> None:
    web = service(1)
    task = Tasks(web)
    progress = watch(web, task(1, FAILED, SHUTDOWN), task(1), task(1, READY, READY)).progress()
    assert [(line.place, line.state) for line in progress.lines] == [("1", "ready")]
    assert not progress.converged


def test_a_slot_that_fails_again_and_again_is_a_failure() -> None:
    web = service(1)
    task = Tasks(web)
    failed = [task(1, FAILED, SHUTDOWN, error="no\n such  image") for _ in range(3)]
    convergence = watch(web, *failed[:2])
    convergence.nodes["n1"] = Node(id="n1")
    convergence.nodes["n1"].description.hostname = "m1"
    assert convergence.progress().failure == ""
    convergence.observe_task(failed[2])
    assert convergence.progress().failure == "task web.1 failed 3 times (last on m1): no such image"
    # It came right in the end.
    convergence.observe_task(task(1))
    assert convergence.progress().failure == ""
    assert convergence.progress().converged


def test_failures_of_the_time_before_are_history() -> None:
    web = service(1)
    task = Tasks(web)
    failed = [task(1, FAILED, SHUTDOWN) for _ in range(5)]
    convergence = Convergence(web)
    convergence.remember_history(failed)
    for each in failed:
        convergence.observe_task(each)
    assert convergence.progress().failure == ""


@pytest.mark.parametrize(("condition", "attempts", "tolerated"), [("NONE", 0, 1), ("ANY", 1, 2), ("ON_FAILURE", 9, 3)])
def test_fewer_failures_are_tolerated_when_there_will_be_no_more_tries(
    condition: str, attempts: int, tolerated: int
) -> None:
    web = service(1)
    web.spec.task.restart.condition = RestartPolicy.Condition.Value(f"CONDITION_{condition}")
    web.spec.task.restart.max_attempts = attempts
    task = Tasks(web)
    convergence = Convergence(web)
    for count in range(1, tolerated + 1):
        assert convergence.progress().failure == ""
        convergence.observe_task(task(1, FAILED, SHUTDOWN))
        assert bool(convergence.progress().failure) == (count == tolerated)
    times = "once" if tolerated == 1 else f"{tolerated} times"
    assert convergence.progress().failure == f"task web.1 failed {times} (last on n1): no reason given"


def test_a_task_that_may_end_and_ended_well_is_done() -> None:
    web = service(1)
    task = Tasks(web)
    assert not watch(web, task(1, COMPLETE, RUNNING)).progress().converged
    web.spec.task.restart.condition = RestartPolicy.CONDITION_ON_FAILURE
    assert watch(web, task(1, COMPLETE, RUNNING)).progress().converged


def test_an_update_on_its_way_is_waited_for_and_a_paused_one_is_told() -> None:
    web = service(1)
    task = Tasks(web)
    mark = update_mark(web)
    web.update_status.state = UpdateStatus.STATE_UPDATING
    assert not watch(web, task(1)).progress().converged
    web.update_status.state, web.update_status.message = UpdateStatus.STATE_PAUSED, "too many failures"
    paused = watch(web, task(1, FAILED), old_update=mark).progress()
    assert paused.failure == "service update paused: too many failures"
    # Paused before we came: not our news.
    assert watch(web, task(1, FAILED), old_update=update_mark(web)).progress().failure == ""


def test_a_rollback_is_a_failure_unless_it_was_asked_for() -> None:
    web = service(1)
    task = Tasks(web)
    mark = update_mark(web)
    web.update_status.state, web.update_status.message = UpdateStatus.STATE_ROLLBACK_STARTED, "task t1 failed"
    assert watch(web, task(1), old_update=mark).progress().message == "rollback: task t1 failed"
    web.update_status.state = UpdateStatus.STATE_ROLLBACK_COMPLETED
    assert watch(web, task(1), old_update=mark).progress().failure == "service rolled back: task t1 failed"
    assert watch(web, task(1), old_update=mark, rollback_wanted=True).progress().converged


def test_a_global_service_wants_what_its_nodes_have() -> None:
    web = service()
    getattr(web.spec, "global").SetInParent()
    task = Tasks(web)
    here, away, drained = (task(0, RUNNING, node=node) for node in ("n1", "n2", "n3"))
    away.status.state = drained.status.state = TaskState.TASK_STATE_STARTING
    convergence = watch(web, here, away, drained)
    assert convergence.progress().wanted == 3
    for node_id, state, availability in (
        ("n2", NodeState.NODE_STATE_DOWN, NodeAvailability.NODE_AVAILABILITY_ACTIVE),
        ("n3", NodeState.NODE_STATE_READY, NodeAvailability.NODE_AVAILABILITY_DRAIN),
    ):
        node = convergence.nodes[node_id] = Node(id=node_id)
        node.status.state, node.spec.availability = state, availability
    progress = convergence.progress()
    assert (progress.done, progress.wanted, progress.converged) == (1, 1, True)
    # Without any node nothing is known yet.
    assert not watch(web).progress().converged


def test_a_job_counts_what_this_run_has_completed() -> None:
    job = service()
    job.spec.replicated_job.total_completions = 3
    job.spec.replicated_job.max_concurrent = 1
    job.job_status.iteration.index = 2
    task = Tasks(job)
    done = [task(slot, COMPLETE, COMPLETE) for slot in range(3)]
    for each, iteration in zip(done, (1, 2, 2), strict=True):
        each.job_iteration.index = iteration
    convergence = watch(job, *done)
    progress = convergence.progress()
    assert (progress.done, progress.wanted, progress.word, progress.converged) == (2, 3, "job tasks", False)
    done[0].job_iteration.index = 2
    assert convergence.progress().converged
    assert convergence.is_job


def test_a_waiting_task_says_why() -> None:
    web = service(1)
    task = Tasks(web)
    pending = task(1, TaskState.TASK_STATE_PENDING, node="", message="no suitable node (2 nodes not available)")
    (line,) = watch(web, pending).progress().lines
    assert (line.state, line.note, line.node) == ("pending", "no suitable node (2 nodes not available)", "")


def test_the_reason_of_an_end() -> None:
    task = Task()
    assert reason(task) == "no reason given"
    task.status.container.exit_code = 137
    assert reason(task) == "exit code 137"
    task.status.message = "started"
    assert reason(task) == "started"
    task.status.error = "task: non-zero exit (137)"
    assert reason(task) == "task: non-zero exit (137)"


@pytest.mark.parametrize(
    ("goal", "states", "converged"),
    [
        (Goal.STABLE, (RUNNING, STARTING), False),
        (Goal.STARTED, (RUNNING, STARTING), True),
        (Goal.HEALTHY, (RUNNING, STARTING), False),
        (Goal.HEALTHY, (RUNNING, RUNNING), True),
        (Goal.COMPLETED, (RUNNING, COMPLETE), False),
        (Goal.COMPLETED, (COMPLETE, COMPLETE), True),
    ],
)
def test_what_a_service_is_waited_for(goal: Goal, states: tuple["TaskState.ValueType", ...], converged: bool) -> None:
    of = service()
    of.spec.task.container.healthcheck.test.extend(["CMD", "true"])
    of.spec.task.restart.condition = RestartPolicy.CONDITION_ON_FAILURE
    task = Tasks(of)
    made = watch(of, *(task(slot, state) for slot, state in enumerate(states, 1)), goal=goal)
    assert made.progress().converged is converged
    assert made.monitor == (5.0 if goal is Goal.STABLE else 0.0)


def test_without_a_health_check_starting_is_not_started() -> None:
    of = service(1)
    made = watch(of, Tasks(of)(1, STARTING), goal=Goal.STARTED)
    assert not made.progress().converged


def test_of_a_job_one_task_is_enough_to_have_started() -> None:
    of = Service(id="s")
    of.spec.replicated_job.total_completions = of.spec.replicated_job.max_concurrent = 5
    task = Tasks(of)
    assert watch(of, task(1), goal=Goal.STARTED).progress().converged
    assert not watch(of, task(1), goal=Goal.COMPLETED).progress().converged


def test_a_service_that_is_stable_leaves_nothing_to_wake_up_for_while_another_is_not() -> None:
    """Else the wait for several would not wait at all, but look again and again."""
    from flota.cli.waiting import Display, Waiter

    there, missing = service(1), service(1)
    there.spec.update.monitor.SetInParent()
    missing.id = "s2"
    waiter = Waiter(None, [there, missing], Display())  # type: ignore[arg-type]  # nobody is asked
    waiter._services["s"].observe_task(Tasks(there)(1))
    assert waiter._look() is False
    patience = waiter._patience()
    assert patience is None or patience > 0.5
