"""The updater's rules (docs/orchestration.md, "Updates"), each by its name."""

import pytest

from flota.manager.orchestrator.tasks import is_dirty
from flota.manager.orchestrator.update import Plan
from flota.v1.objects_pb2 import Service
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import TaskState, UpdateConfig, UpdateStatus
from tests.unit.orchestrator.tables import FAILED, READY, RUNNING, SHUTDOWN, Tables

PAUSE, CONTINUE, ROLLBACK = (
    UpdateConfig.FAILURE_ACTION_PAUSE, UpdateConfig.FAILURE_ACTION_CONTINUE, UpdateConfig.FAILURE_ACTION_ROLLBACK,
)  # fmt: skip


class Update:
    """A service of some running tasks whose image changes; `go` lets its tasks do what they are told."""

    def __init__(self, replicas: int = 4, start_first: bool = False, **config: object) -> None:
        self.tables = Tables()
        for name in ("n1", "n2"):
            self.tables.node(name)
        self.spec = ServiceSpec()
        self.spec.task.container.image = "app:1"
        self.spec.task.restart.delay.SetInParent()
        self.spec.update.parallelism = 1
        if start_first:
            self.spec.update.order = UpdateConfig.ORDER_START_FIRST
        for name, value in config.items():
            if name in ("delay", "monitor"):
                getattr(self.spec.update, name).seconds = value  # type: ignore[misc]
            else:
                setattr(self.spec.update, name, value)
        self.tables.service(replicas=replicas, spec=self.spec)
        for slot in range(1, replicas + 1):
            self.tables.task(slot)
        self.replicas = replicas

    def image(self, image: str) -> None:
        self.spec.task.container.image = image
        self.tables.service(replicas=self.replicas, spec=self.spec)
        self.tables.decide()

    @property
    def service(self) -> Service:
        found = self.tables.services.get("web")
        assert found is not None
        return found

    @property
    def state(self) -> "UpdateStatus.State.ValueType":
        return self.service.update_status.state

    def new(self) -> list[str]:
        """Images of wanted tasks, by slot."""
        return [task.spec.container.image for task in self.tables.wanted()]

    def go(self, bad: str = "", seconds: float = 0.0, rounds: int = 8) -> None:
        """Tasks reach what is wanted of them, those of the image `bad` fail; time passes after each round."""
        for _ in range(rounds):
            for task in list(self.tables.tasks):
                if task.desired_state == SHUTDOWN and task.status.state <= RUNNING:
                    self.tables.turn(task, SHUTDOWN)
                elif task.desired_state <= RUNNING and task.status.state < task.desired_state:
                    task.node_id = task.node_id or "n1"
                    self.tables.turn(task, task.desired_state)
                elif task.status.state == RUNNING and task.spec.container.image == bad:
                    self.tables.turn(task, FAILED)
            self.tables.decide()
            self.tables.now += seconds + 0.001


def test_stop_first_makes_the_new_task_ready_while_the_old_one_stops_and_starts_it_then() -> None:
    update = Update(1)
    [old] = update.tables.wanted()
    update.image("app:2")
    assert update.state == UpdateStatus.STATE_UPDATING
    [new] = update.tables.wanted()
    assert (new.desired_state, new.replaces) == (READY, old.id)
    assert update.tables.get(old).desired_state == SHUTDOWN
    update.tables.decide()
    assert update.tables.get(new).desired_state == READY
    update.tables.turn(old, SHUTDOWN)
    update.tables.decide()
    assert update.tables.get(new).desired_state == RUNNING


def test_start_first_lets_the_old_task_run_until_the_new_one_runs() -> None:
    update = Update(1, start_first=True)
    [old] = update.tables.wanted()
    update.image("app:2")
    new = next(task for task in update.tables.wanted() if task.id != old.id)
    assert (new.desired_state, update.tables.get(old).desired_state) == (RUNNING, RUNNING)
    update.tables.decide()
    assert update.tables.get(old).desired_state == RUNNING
    new.node_id = "n2"
    update.tables.turn(new, RUNNING)
    update.tables.decide()
    assert update.tables.get(old).desired_state == SHUTDOWN


@pytest.mark.parametrize(("parallelism", "at_once"), [(1, 1), (3, 3), (0, 4)])
def test_parallelism_is_how_many_slots_are_under_way_and_0_is_all(parallelism: int, at_once: int) -> None:
    update = Update(4, parallelism=parallelism)
    update.image("app:2")
    update.tables.decide()
    assert update.new().count("app:2") == at_once


def test_the_next_slot_comes_when_the_new_task_has_run_for_the_delay() -> None:
    update = Update(2, delay=10)
    update.image("app:2")
    update.go(rounds=4)
    assert update.new().count("app:2") == 1
    update.tables.now += 10
    update.tables.decide()
    assert update.new().count("app:2") == 2


def test_only_dirty_slots_are_touched() -> None:
    update = Update(3)
    before = {task.id for task in update.tables.wanted()}
    update.replicas = 4
    update.image("app:1")
    assert before < {task.id for task in update.tables.wanted()}
    assert update.state == UpdateStatus.STATE_UNSPECIFIED


def test_a_failure_within_the_monitor_time_pauses() -> None:
    update = Update(4, monitor=5)
    update.image("bad")
    update.go(bad="bad", rounds=6)
    assert update.state == UpdateStatus.STATE_PAUSED
    assert update.service.update_status.message.startswith("update paused due to failure or early termination of task")
    touched = update.new().count("bad")
    update.go(bad="bad")
    assert update.new().count("bad") == touched < 4


def test_a_failure_after_the_monitor_time_does_not_count() -> None:
    update = Update(1, monitor=5)
    update.image("bad")
    update.go(rounds=4)
    [new] = update.tables.wanted()
    update.tables.now += 6
    update.tables.turn(new, FAILED)
    update.tables.decide()
    assert update.state != UpdateStatus.STATE_PAUSED


def test_failures_up_to_the_ratio_of_the_dirty_slots_are_borne() -> None:
    update = Update(4, max_failure_ratio=0.25, parallelism=2, monitor=5)
    update.image("bad")
    update.go(rounds=3)
    first = next(task for task in update.tables.wanted() if task.spec.container.image == "bad")
    update.tables.turn(first, FAILED)
    update.tables.now += 0.001
    update.tables.decide()
    assert update.state == UpdateStatus.STATE_UPDATING
    second = next(
        task for task in update.tables.wanted()
        if task.spec.container.image == "bad" and task.slot != first.slot and task.status.state == RUNNING
    )  # fmt: skip
    update.tables.turn(second, FAILED)
    update.tables.decide()
    assert update.state == UpdateStatus.STATE_PAUSED


def test_action_continue_watches_nothing() -> None:
    update = Update(3, failure_action=CONTINUE)
    update.image("bad")
    update.go(bad="bad", seconds=1, rounds=30)
    assert update.state == UpdateStatus.STATE_COMPLETED


def test_action_rollback_goes_back_to_the_previous_spec_and_forgets_it() -> None:
    update = Update(3, failure_action=ROLLBACK)
    update.image("bad")
    update.go(bad="bad", rounds=4)
    assert update.state == UpdateStatus.STATE_ROLLBACK_STARTED
    assert update.service.spec.task.container.image == "app:1"
    assert not update.service.HasField("previous_spec")
    update.go(seconds=2, rounds=20)
    assert update.state == UpdateStatus.STATE_ROLLBACK_COMPLETED
    assert update.new() == ["app:1"] * 3


def test_a_rollback_is_never_rolled_back_it_pauses() -> None:
    update = Update(3, failure_action=ROLLBACK)
    update.spec.rollback.failure_action = ROLLBACK
    update.image("bad")
    update.go(bad="bad", rounds=4)
    update.go(bad="app:1", rounds=6)
    assert update.state == UpdateStatus.STATE_ROLLBACK_PAUSED


def test_after_the_last_slot_the_monitor_time_passes_before_completed() -> None:
    update = Update(1, monitor=5)
    update.image("app:2")
    update.go(rounds=4)
    assert update.state == UpdateStatus.STATE_UPDATING
    update.tables.now += 5
    update.tables.decide()
    assert update.state == UpdateStatus.STATE_COMPLETED


def test_the_monitor_time_is_longer_than_the_delay() -> None:
    service = Service()
    service.spec.update.delay.seconds = 7
    service.spec.update.monitor.seconds = 5
    assert Plan.of(service).monitor == 8
    service.spec.update.monitor.seconds = 9
    assert Plan.of(service).monitor == 9
    service.spec.update.ClearField("monitor")
    service.spec.update.delay.seconds = 0
    assert Plan.of(service).monitor == 5


def test_a_paused_update_touches_nothing_until_it_is_asked_again() -> None:
    update = Update(2)
    update.image("bad")
    update.go(bad="bad", rounds=4)
    assert update.state == UpdateStatus.STATE_PAUSED
    update.image("app:3")
    update.go(seconds=2, rounds=20)
    assert (update.state, update.new()) == (UpdateStatus.STATE_COMPLETED, ["app:3"] * 2)


def test_a_newer_spec_supersedes_an_update_in_progress() -> None:
    update = Update(3)
    update.image("app:2")
    update.go(rounds=3)
    update.image("app:3")
    update.go(seconds=2, rounds=30)
    assert update.new() == ["app:3"] * 3


def test_a_newer_spec_takes_over_the_slots_where_nothing_runs_before_it_touches_others() -> None:
    update = Update(4, parallelism=2)
    update.image("app:2")

    def under_way() -> set[int]:
        return {task.slot for task in update.tables.wanted() if task.desired_state == READY}

    while under_way() != {3, 4}:
        update.go(rounds=1)
    update.image("app:3")
    newest = {task.slot for task in update.tables.wanted() if task.spec.container.image == "app:3"}
    assert newest == {3, 4}, "otherwise four of four would be down, where two are allowed"


def test_a_newer_spec_keeps_one_task_in_each_slot_that_starts_first() -> None:
    update = Update(1, start_first=True)
    [old] = update.tables.wanted()
    update.image("app:2")
    [begun] = [task for task in update.tables.wanted() if task.id != old.id]
    update.tables.turn(begun, TaskState.TASK_STATE_STARTING)
    update.image("app:3")
    assert update.tables.get(begun).desired_state == SHUTDOWN
    assert sorted(update.new()) == ["app:1", "app:3"]


def test_what_makes_a_task_dirty() -> None:
    tables = Tables()
    node = tables.node("n1", disk="ssd")
    spec = ServiceSpec()
    spec.task.container.image = "app:1"
    tables.service(replicas=1, spec=spec)
    task = tables.task(1)

    def dirty(change: str) -> bool:
        changed = ServiceSpec()
        changed.CopyFrom(spec)
        match change:
            case "replicas":
                changed.replicated.replicas = 9
            case "image":
                changed.task.container.image = "app:2"
            case "force":
                changed.task.force_update = 1
            case "ports":
                changed.endpoint.ports.add(target_port=80)
            case "credentials":
                changed.task.container.registry_auth = "x"
            case "a constraint that its node fulfils":
                changed.task.placement.constraints.append("node.labels.disk==ssd")
            case "a constraint that its node does not fulfil":
                changed.task.placement.constraints.append("node.labels.disk==hdd")
        return is_dirty(tables.service(spec=changed), task, node)

    clean = ("nothing", "replicas", "credentials", "a constraint that its node fulfils")
    assert [change for change in clean if dirty(change)] == []
    outdated = ("image", "force", "ports", "a constraint that its node does not fulfil")
    assert [change for change in outdated if not dirty(change)] == []
