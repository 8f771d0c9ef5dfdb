"""Replicated and global services, jobs, the enforcer and the reaper: their rules, each by its name."""

from flota.manager.orchestrator.enforcer import evicted
from flota.manager.orchestrator.reaper import limit_for, surplus
from flota.v1.objects_pb2 import Cluster
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState
from tests.unit.orchestrator.tables import COMPLETE, FAILED, READY, REJECTED, REMOVE, RUNNING, SHUTDOWN, Tables

PAUSE, DRAIN = NodeAvailability.NODE_AVAILABILITY_PAUSE, NodeAvailability.NODE_AVAILABILITY_DRAIN


def two_nodes() -> Tables:
    tables = Tables()
    tables.node("n1")
    tables.node("n2")
    return tables


# Replicated.


def test_missing_slots_are_filled_from_the_lowest_free_number() -> None:
    tables = two_nodes()
    tables.service(replicas=4)
    tables.task(2)
    tables.task(5)
    tables.decide()
    assert [task.slot for task in tables.wanted()] == [1, 2, 3, 5]


def test_scaling_down_takes_what_has_no_node_then_the_nth_copies_on_a_node_then_high_numbers() -> None:
    tables = two_nodes()
    tables.service(replicas=2)
    for slot, node in ((1, "n1"), (2, "n1"), (3, "n2")):
        tables.task(slot, node=node)
    tables.task(4, TaskState.TASK_STATE_PENDING, node="")
    tables.decide()
    # 4 waits for a node, 2 is the second copy on n1.
    assert [task.slot for task in tables.wanted()] == [1, 3]
    gone = [task for task in tables.tasks if task.desired_state == REMOVE]
    assert {task.slot for task in gone} == {2, 4}


def test_scaling_down_keeps_running_tasks_before_others() -> None:
    tables = two_nodes()
    tables.service(replicas=1)
    tables.task(1, TaskState.TASK_STATE_PREPARING, node="n1")
    tables.task(2, RUNNING, node="n1")
    tables.decide()
    assert [task.slot for task in tables.wanted()] == [2]


def test_what_no_worker_knows_ends_at_once_when_it_is_not_wanted() -> None:
    tables = two_nodes()
    tables.service(replicas=0)
    waiting = tables.task(1, TaskState.TASK_STATE_PENDING, node="")
    tables.decide()
    assert tables.get(waiting).status.state == SHUTDOWN


def test_a_removed_services_tasks_are_wanted_removed() -> None:
    tables = two_nodes()
    tables.service(replicas=1)
    task = tables.task(1)
    tables.services.delete("web")
    tables.decide()
    assert tables.get(task).desired_state == REMOVE


def test_a_slot_whose_old_task_still_runs_gets_one_that_waits_for_it() -> None:
    tables = two_nodes()
    tables.service(replicas=1)
    old = tables.task(1, RUNNING, REMOVE)
    tables.decide()
    [new] = tables.wanted()
    assert (new.desired_state, new.replaces) == (READY, old.id)


# Global.


def global_service(tables: Tables, *constraints: str) -> None:
    spec = ServiceSpec()
    getattr(spec, "global").SetInParent()
    spec.task.placement.constraints.extend(constraints)
    tables.service(spec=spec)


def test_one_task_on_every_node_that_fulfils_the_constraints_and_takes_tasks() -> None:
    tables = Tables()
    tables.node("fits", disk="ssd")
    tables.node("other", disk="hdd")
    tables.node("paused", availability=PAUSE, disk="ssd")
    tables.node("drained", availability=DRAIN, disk="ssd")
    tables.node("down", NodeState.NODE_STATE_DOWN, disk="ssd")
    global_service(tables, "node.labels.disk==ssd")
    tables.decide()
    assert [task.node_id for task in tables.wanted()] == ["fits"]


def test_a_paused_node_keeps_its_task_a_drained_one_and_one_that_does_not_fit_lose_it() -> None:
    tables = Tables()
    global_service(tables, "node.labels.disk==ssd")
    for node in ("paused", "drained", "other"):
        tables.task(node)
    tables.node("paused", availability=PAUSE, disk="ssd")
    tables.node("drained", availability=DRAIN, disk="ssd")
    tables.node("other", disk="hdd")
    tables.decide()
    assert [task.node_id for task in tables.wanted()] == ["paused"]


def test_tasks_of_a_node_that_is_gone_are_removed() -> None:
    tables = Tables()
    global_service(tables)
    task = tables.task("gone")
    tables.decide()
    assert tables.get(task).desired_state == REMOVE


# Jobs.


def job(tables: Tables, total: int, at_once: int) -> None:
    spec = ServiceSpec()
    spec.replicated_job.total_completions, spec.replicated_job.max_concurrent = total, at_once
    service = tables.service(spec=spec)
    service.job_status.iteration.index = 1
    tables.services.put(service)


def test_a_job_runs_no_more_at_once_than_allowed_and_no_more_in_all_than_asked() -> None:
    tables = two_nodes()
    job(tables, total=5, at_once=2)
    tables.decide()
    assert [task.desired_state for task in tables.wanted()] == [COMPLETE] * 2
    done = 0
    while any(task.status.state != COMPLETE for task in tables.wanted()):
        going = [task for task in tables.wanted() if task.status.state != COMPLETE]
        assert len(going) <= 2
        tables.turn(going[0], COMPLETE)
        done += 1
        tables.decide()
    assert done == 5


def test_a_jobs_restart_condition_any_means_on_failure() -> None:
    tables = two_nodes()
    job(tables, total=1, at_once=1)
    tables.decide()
    [task] = tables.wanted()
    tables.turn(task, FAILED)
    tables.decide()
    [again] = [task for task in tables.wanted() if task.status.state != FAILED]
    tables.turn(again, COMPLETE)
    tables.now += 100
    tables.decide()
    assert len(tables.tasks) == 2


def test_a_new_iteration_removes_the_tasks_of_the_old_one() -> None:
    tables = two_nodes()
    job(tables, total=1, at_once=1)
    tables.decide()
    [old] = tables.wanted()
    service = tables.services.get("web")
    assert service is not None
    service.job_status.iteration.index = 2
    tables.decide()
    assert tables.get(old).desired_state == REMOVE
    assert [task.job_iteration.index for task in tables.wanted()] == [2]


def test_a_global_job_runs_once_on_every_node() -> None:
    tables = two_nodes()
    spec = ServiceSpec()
    spec.global_job.SetInParent()
    tables.service(spec=spec)
    tables.decide()
    assert [task.node_id for task in tables.wanted()] == ["n1", "n2"]
    for task in tables.wanted():
        tables.turn(task, COMPLETE)
    tables.node("n3")
    tables.decide()
    assert [task.node_id for task in tables.wanted() if task.status.state != COMPLETE] == ["n3"]


# Stopped services.


def test_a_stopped_service_has_no_wanted_task_and_a_started_one_fills_all_slots_whatever_the_restart_policy() -> None:
    tables = two_nodes()
    spec = ServiceSpec()
    spec.task.restart.condition = 2
    tables.service(replicas=2, spec=spec)
    tables.decide()
    for task in tables.wanted():
        tables.turn(task, RUNNING)
    spec.stopped = True
    tables.service(replicas=2, spec=spec)
    tables.decide()
    assert tables.wanted() == []
    for task in tables.tasks:
        tables.turn(task, SHUTDOWN)
    assert not tables.decide().groups
    spec.stopped = False
    tables.service(replicas=2, spec=spec)
    tables.decide()
    assert [task.slot for task in tables.wanted()] == [1, 2]


# The constraint enforcer.


def test_a_task_whose_node_no_longer_fits_the_services_present_constraints_is_rejected() -> None:
    tables = two_nodes()
    spec = ServiceSpec()
    spec.task.placement.constraints.append("node.labels.disk==ssd")
    tables.service(replicas=1, spec=spec)
    tables.task(1)
    [group] = evicted(tables.node("n1", disk="hdd"), tables, tables.now)
    [task] = group.update
    assert task.status.state == REJECTED  # type: ignore[union-attr]
    assert task.status.error == "assigned node no longer meets constraints"  # type: ignore[union-attr]


def test_only_active_nodes_evict() -> None:
    tables = two_nodes()
    spec = ServiceSpec()
    spec.task.placement.constraints.append("node.labels.disk==ssd")
    tables.service(replicas=1, spec=spec)
    tables.task(1)
    for availability in (PAUSE, DRAIN):
        assert evicted(tables.node("n1", availability=availability), tables, tables.now) == []


def test_tasks_that_no_longer_have_room_are_evicted_the_newest_ones() -> None:
    tables = two_nodes()
    spec = ServiceSpec()
    spec.task.resources.reservations.nano_cpus = 10**9
    tables.service(replicas=2, spec=spec)
    first, second = tables.task(1, age=50), tables.task(2, age=10)
    node = tables.node("n1")
    node.description.resources.nano_cpus = 10**9
    gone = [task.id for group in evicted(node, tables, tables.now) for task in group.update]
    assert gone == [second.id]
    assert first.id not in gone


# The reaper.


def test_history_keeps_five_tasks_in_a_slot_or_what_the_cluster_says_and_enough_to_count_attempts() -> None:
    tables = two_nodes()
    service = tables.service(replicas=1)
    assert limit_for(None, service) == 5
    cluster = Cluster()
    cluster.spec.orchestration.task_history_retention_limit = 2
    assert limit_for(cluster, service) == 2
    service.spec.task.restart.max_attempts = 7
    assert limit_for(cluster, service) == 8
    cluster.spec.orchestration.task_history_retention_limit = -1
    assert limit_for(cluster, service) == -1


def test_only_what_has_ended_and_is_not_wanted_is_deleted_oldest_first() -> None:
    tables = two_nodes()
    tables.service(replicas=1)
    oldest = tables.task(1, FAILED, SHUTDOWN, age=500)
    older = tables.task(1, FAILED, SHUTDOWN, age=400)
    runs = tables.task(1, RUNNING, SHUTDOWN, age=300)
    wanted = tables.task(1, FAILED, RUNNING, age=200)
    slot = [wanted, runs, older, oldest]
    assert [task.id for task in surplus(slot, 3, tables)] == [oldest.id]
    assert [task.id for task in surplus(slot, 0, tables)] == [oldest.id, older.id]
    assert surplus(slot, -1, tables) == []
