"""The restart supervisor's rules (docs/orchestration.md, "Restarts"), each by its name."""

import pytest

from flota.manager.clock import seconds
from flota.manager.orchestrator.restart import STOP_TIMEOUT
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import NodeAvailability, NodeState, RestartPolicy
from tests.unit.orchestrator.tables import COMPLETE, FAILED, READY, REJECTED, RUNNING, SHUTDOWN, Tables

ANY, ON_FAILURE, NONE = RestartPolicy.CONDITION_ANY, RestartPolicy.CONDITION_ON_FAILURE, RestartPolicy.CONDITION_NONE


def cluster(condition: "RestartPolicy.Condition.ValueType" = ANY, **policy: int) -> Tables:
    """Two nodes and a service with one replica."""
    tables = Tables()
    tables.node("n1")
    tables.node("n2")
    spec = ServiceSpec()
    spec.task.restart.condition = condition
    if "delay" in policy:
        spec.task.restart.delay.seconds = policy.pop("delay")
    if "window" in policy:
        spec.task.restart.window.seconds = policy.pop("window")
    for name, value in policy.items():
        setattr(spec.task.restart, name, value)
    tables.service(replicas=1, spec=spec)
    return tables


@pytest.mark.parametrize(
    ("condition", "ended", "restarts"),
    [
        (ANY, COMPLETE, True), (ANY, FAILED, True), (ANY, REJECTED, True),
        (ON_FAILURE, COMPLETE, False), (ON_FAILURE, FAILED, True),
        (NONE, COMPLETE, False), (NONE, FAILED, False),
    ],
)  # fmt: skip
def test_condition(condition: "RestartPolicy.Condition.ValueType", ended: int, restarts: bool) -> None:
    tables = cluster(condition)
    tables.task(1, ended)  # type: ignore[arg-type]
    tables.decide()
    assert len(tables.wanted()) == restarts
    # What is not restarted fills its slot all the same: no other task is made for it.
    tables.decide()
    assert len(tables.tasks) == 1 + restarts


def test_a_successor_is_a_new_task_wanted_ready_until_the_delay_is_over_five_seconds_when_unset() -> None:
    tables = cluster()
    old = tables.task(1, FAILED)
    decision = tables.decide()
    assert tables.get(old).desired_state == SHUTDOWN
    [new] = tables.wanted()
    assert (new.desired_state, new.replaces, seconds(new.not_before)) == (READY, old.id, tables.now + 5)
    tables.turn(new, READY)
    decision = tables.decide()
    assert decision.wake_at == tables.now + 5
    assert tables.get(new).desired_state == READY
    tables.now += 5
    tables.decide()
    assert tables.get(new).desired_state == RUNNING


def test_no_delay_for_a_drained_node_nor_for_one_that_is_down() -> None:
    for state, availability in (
        (NodeState.NODE_STATE_READY, NodeAvailability.NODE_AVAILABILITY_DRAIN),
        (NodeState.NODE_STATE_DOWN, NodeAvailability.NODE_AVAILABILITY_ACTIVE),
    ):
        tables = cluster(delay=60)
        tables.task(1)
        tables.node("n1", state, availability)
        tables.decide()
        [new] = tables.wanted()
        assert seconds(new.not_before) == tables.now


def test_a_successor_waits_for_its_predecessor_to_stop_but_not_longer_than_a_minute() -> None:
    tables = cluster(delay=0)
    old = tables.task(1)
    tables.node("n1", availability=NodeAvailability.NODE_AVAILABILITY_DRAIN)
    tables.decide()
    [new] = tables.wanted()
    tables.turn(new, READY)
    assert tables.decide().wake_at == tables.now + STOP_TIMEOUT
    assert tables.get(new).desired_state == READY
    tables.turn(old, SHUTDOWN)
    tables.decide()
    assert tables.get(new).desired_state == RUNNING


def test_a_successor_does_not_wait_for_one_on_a_node_that_is_down() -> None:
    tables = cluster(delay=0)
    tables.task(1)
    tables.node("n1", NodeState.NODE_STATE_DOWN)
    tables.decide()
    tables.decide()
    assert tables.wanted()[0].desired_state == RUNNING


def test_a_restart_asked_for_while_one_is_pending_waits_for_it() -> None:
    tables = cluster(delay=30)
    tables.task(1, FAILED)
    tables.decide()
    [waiting] = tables.wanted()
    tables.turn(waiting, REJECTED)
    decision = tables.decide()
    assert not decision.groups
    assert decision.wake_at == tables.now + 30
    tables.now += 30
    tables.decide()
    assert len(tables.tasks) == 3


def test_max_attempts_counts_restarts_of_the_slot_at_this_spec_version() -> None:
    tables = cluster(max_attempts=2, delay=0)
    tables.task(1, FAILED)
    for _ in range(5):
        tables.decide()
        for task in tables.wanted():
            if task.status.state < FAILED:
                tables.turn(task, FAILED)
        tables.now += 1
    assert len(tables.tasks) == 3
    # Another spec version begins anew.
    spec = ServiceSpec()
    spec.CopyFrom(tables.services.get("web").spec)  # type: ignore[union-attr]
    spec.task.container.image = "app:2"
    tables.service(spec=spec)
    tables.decide()
    assert len(tables.wanted()) == 1


def test_max_attempts_are_counted_within_the_window_before_the_time_managers_learned_of_the_end() -> None:
    tables = cluster(max_attempts=1, delay=0, window=50)
    tables.task(1, FAILED, SHUTDOWN, age=400)
    second = tables.task(1, FAILED, RUNNING, age=300)
    second.not_before.FromSeconds(int(tables.now) - 300)
    tables.tasks.put(second)
    # Its end was learned of 150 s ago, and the one restart was 150 s before that: out of the window.
    tables.decide()
    assert len(tables.tasks) == 3


def test_a_global_services_task_is_restarted_on_its_node_and_on_no_other() -> None:
    tables = cluster()
    spec = ServiceSpec()
    getattr(spec, "global").SetInParent()
    tables.service("agent", spec=spec)
    for node in ("n1", "n2"):
        tables.task(node, RUNNING, service="agent")
    [first, _] = tables.wanted("agent")
    tables.turn(first, FAILED)
    tables.decide("agent")
    assert [task.node_id for task in tables.wanted("agent")] == ["n1", "n2"]
