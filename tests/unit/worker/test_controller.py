"""A task's life on virtual time: which states it passes, what is done to its container, and when."""

import asyncio
import signal
from typing import Any

import pytest

from flota.overlay import BadAddress, UnknownNetwork
from flota.rpc.errors import Unavailable
from flota.v1.ids import container_id
from flota.v1.process_pb2 import PreparedTask
from flota.v1.types_pb2 import ContainerHealth, HealthConfig, PortConfig, TaskState, TaskStatus
from flota.worker.images.config import ImageConfig
from flota.worker.images.errors import ImageNotFound
from flota.worker.runtime.container import BadContainer, ContainerError, Phase
from flota.worker.runtime.processes import Completed
from flota.worker.tasks import life
from tests.unit.worker.node import READY, REMOVE, SHUTDOWN, Life, Node, found, task, virtual

ALL = ["ACCEPTED", "PREPARING", "READY", "STARTING", "RUNNING"]
PREPARED = ["find", "attach", "create"]


def health(**values: Any) -> HealthConfig:
    config = HealthConfig(test=["CMD", "check"], retries=values.pop("retries", 0))
    for name, value in values.items():
        getattr(config, name).FromNanoseconds(int(value * 1e9))
    return config


@virtual
async def test_it_passes_all_states_and_completes() -> None:
    node = Node()
    one = Life(node, task())
    await one.until("RUNNING")
    assert node.notes == [*PREPARED, "launch"]
    assert one.controller.runs
    node.end(one.controller.id, 0)
    await one.until("COMPLETE")
    assert one.states == [*ALL, "COMPLETE"]
    assert one.controller.status.container.container_id == container_id(one.controller.id)
    await one.gone()
    assert node.notes == [*PREPARED, "launch", "detach", "remove but log", "remove"]
    assert (node.held, node.attached) == ({}, set())


@virtual
async def test_it_is_off_its_networks_before_it_is_told_ended() -> None:
    node = Node(delays={"detach": 2.0})
    one = Life(node, task())
    await one.until("RUNNING")
    node.end(one.controller.id, 1)
    assert await one.until("FAILED") == (2.0, "FAILED", "task: non-zero exit (1)")


@virtual
async def test_its_ports_are_told_as_long_as_it_has_them() -> None:
    port = PortConfig(target_port=80, published_port=30001, publish_mode=PortConfig.PUBLISH_MODE_HOST)
    node = Node(ports=(port,))
    one = Life(node, task())
    await one.until("RUNNING")
    assert list(one.controller.status.ports.ports) == [port]
    node.end(one.controller.id, 0)
    await one.until("COMPLETE")
    assert not one.controller.status.ports.ports


@virtual
async def test_ready_is_where_it_waits() -> None:
    waiting = task()
    waiting.desired_state = READY
    node = Node()
    one = Life(node, waiting)
    await asyncio.sleep(100)
    assert one.states == ["ACCEPTED", "PREPARING", "READY"]
    one.want(TaskState.TASK_STATE_COMPLETE)
    await one.until("RUNNING")


@virtual
async def test_a_job_that_is_wanted_complete_runs_to_its_end() -> None:
    job = task()
    job.desired_state = TaskState.TASK_STATE_COMPLETE
    node = Node()
    one = Life(node, job)
    await one.until("RUNNING")
    node.end(job.id, 0)
    await one.until("COMPLETE")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("find", ImageNotFound("no such image")),
        ("attach", BadAddress("addresses", "x", "an address")),
        ("create", BadContainer("bad")),
    ],
)
@virtual
async def test_what_will_not_help_is_not_tried_again(call: str, error: Exception) -> None:
    node = Node(failures={call: [error]})
    one = Life(node, task())
    assert await one.until("REJECTED") == (0.0, "REJECTED", str(error))
    await one.gone()
    assert node.attached == set()


@virtual
async def test_what_may_pass_is_tried_again_each_second() -> None:
    node = Node(
        failures={
            "find": [Unavailable("busy")],
            "attach": [UnknownNetwork("n")],
            "create": [ContainerError("no space"), ContainerError("no space")],
        }
    )
    one = Life(node, task())
    assert (await one.until("RUNNING"))[0] == 4.0
    assert [error for _, state, error in one.seen if state == "PREPARING"] == [
        "", "busy", "network n is not known on this node", "no space",
    ]  # fmt: skip


@virtual
async def test_what_does_not_pass_is_given_up() -> None:
    node = Node(failures={"create": [ContainerError("no space")] * 20})
    one = Life(node, task())
    assert await one.until("REJECTED") == (9.0, "REJECTED", "no space")


@virtual
async def test_a_start_that_fails_is_a_failure() -> None:
    node = Node(failures={"launch": [ContainerError("it ended")]})
    one = Life(node, task())
    assert await one.until("FAILED") == (0.0, "FAILED", "it ended")


@virtual
async def test_a_defect_ends_the_task_and_says_so() -> None:
    node = Node(failures={"create": [KeyError("x")]})
    one = Life(node, task())
    assert await one.until("REJECTED") == (0.0, "REJECTED", "a defect of flota: KeyError: 'x'")


@pytest.mark.parametrize("call", ["find", "attach", "create", "launch"])
@pytest.mark.parametrize("wanted", [SHUTDOWN, REMOVE])
@virtual
async def test_it_ends_in_the_middle_of_whatever_is_done(call: str, wanted: TaskState.ValueType) -> None:
    node = Node(delays={call: 5.0})
    one = Life(node, task())
    await asyncio.sleep(1)
    one.want(wanted)
    when, state, error = await one.until("SHUTDOWN")
    assert (state, error) == ("SHUTDOWN", "")
    # Only one whose program may run is asked to end, and waited for.
    assert when == (1.1 if call == "launch" else 1.0)
    await one.gone()
    assert node.attached == set()
    assert node.exits == {}


@virtual
async def test_one_that_is_not_wanted_from_the_start_is_never_made() -> None:
    node = Node()
    unwanted = task()
    unwanted.desired_state = SHUTDOWN
    one = Life(node, unwanted)
    await one.until("SHUTDOWN")
    await one.gone()
    assert one.states == ["SHUTDOWN"]
    assert node.notes == []


@virtual
async def test_stop_signal_then_grace_then_sigkill() -> None:
    node = Node(obeys={})
    one = Life(node, task())
    await one.until("RUNNING")
    one.want(SHUTDOWN)
    assert await one.until("SHUTDOWN") == (10.0, "SHUTDOWN", "")
    assert node.notes[4:] == ["SIGTERM", "SIGKILL", "detach"]
    assert one.controller.status.container.exit_code == 137


@virtual
async def test_the_grace_and_the_signal_are_the_specs() -> None:
    node = Node(image=ImageConfig(stop_signal="SIGQUIT"), obeys={})
    patient = task(stop_signal="SIGUSR1")
    patient.spec.container.stop_grace_period.FromSeconds(3)
    one = Life(node, patient)
    await one.until("RUNNING")
    one.want(SHUTDOWN)
    assert (await one.until("SHUTDOWN"))[0] == 3.0
    assert node.notes[4:6] == ["SIGUSR1", "SIGKILL"]


@virtual
async def test_no_grace_means_sigkill_at_once() -> None:
    node = Node(image=ImageConfig(stop_signal="SIGQUIT"))
    hasty = task()
    hasty.spec.container.stop_grace_period.FromSeconds(0)
    one = Life(node, hasty)
    await one.until("RUNNING")
    one.want(SHUTDOWN)
    assert (await one.until("SHUTDOWN"))[0] == 0.0
    assert node.notes[4] == "SIGKILL"


@virtual
async def test_an_images_signal_counts_when_the_spec_has_none() -> None:
    node = Node(image=ImageConfig(stop_signal="SIGQUIT"), obeys={signal.SIGQUIT: 0.5})
    one = Life(node, task())
    await one.until("RUNNING")
    one.want(SHUTDOWN)
    assert (await one.until("SHUTDOWN"))[0] == 0.5


@virtual
async def test_a_node_that_leaves_in_a_hurry_cuts_the_grace_short() -> None:
    node = Node(obeys={})
    one = Life(node, task())
    await one.until("RUNNING")
    one.want(SHUTDOWN)
    await asyncio.sleep(2)
    await one.controller.kill()
    assert (await one.until("SHUTDOWN"))[0] == 2.0


@virtual
async def test_one_that_managers_gave_up_is_stopped() -> None:
    node = Node()
    one = Life(node, task())
    await one.until("RUNNING")
    orphan = task()
    orphan.status.state = TaskState.TASK_STATE_ORPHANED
    one.controller.assign(orphan)
    await one.until("SHUTDOWN")


@virtual
async def test_one_that_has_ended_is_not_shut_down_as_well() -> None:
    node = Node()
    one = Life(node, task())
    await one.until("RUNNING")
    node.end(one.controller.id, 2)
    await one.until("FAILED")
    one.want(SHUTDOWN)
    await one.gone()
    assert one.states == [*ALL, "FAILED"]


@virtual
async def test_cleaning_up_is_tried_until_it_works() -> None:
    node = Node(failures={"detach": [ContainerError("busy")] * 3, "remove": [ContainerError("busy")] * 2})
    one = Life(node, task())
    await one.until("RUNNING")
    node.end(one.controller.id, 0)
    assert (await one.until("COMPLETE"))[0] == 3.0
    await asyncio.sleep(5)
    assert node.notes[-1] == "remove but log"
    await one.gone()


@virtual
async def test_a_worker_that_stops_touches_nothing() -> None:
    node = Node()
    one = Life(node, task())
    await one.until("RUNNING")
    one.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.running
    assert node.notes == [*PREPARED, "launch"]


@virtual
async def test_a_worker_that_stops_just_after_it_was_told_to_end_a_task_stops() -> None:
    node = Node()
    one = Life(node, task())
    await one.until("RUNNING")
    one.want(SHUTDOWN)
    one.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.running
    assert node.notes == [*PREPARED, "launch"]


# Health.


@virtual
async def test_it_runs_when_it_is_healthy() -> None:
    node = Node(image=ImageConfig(healthcheck=health(interval=3)))
    one = Life(node, task())
    assert (await one.until("RUNNING"))[0] == 3.0
    assert node.notes[4:] == ["execute check"]


@virtual
async def test_failures_in_the_start_period_do_not_count() -> None:
    results = iter([*[Completed(1, "")] * 8, *[Completed(0, "")] * 1000])
    node = Node(health=lambda: next(results))
    one = Life(node, task_with(health(interval=30, start_period=20, start_interval=2, retries=2)))
    assert (await one.until("RUNNING"))[0] == 18.0


@virtual
async def test_after_the_start_period_they_do() -> None:
    node = Node(health=lambda: Completed(1, "sick"))
    one = Life(node, task_with(health(interval=10, start_period=4, start_interval=1, retries=3)))
    # Checks at 1, 2, 3 s are forgiven; the one that begins at 4 s is the first that counts.
    when, _, error = await one.until("FAILED")
    assert (when, error) == (24.1, "unhealthy: the health check failed 3 times in a row, at last: exit code 1: sick")
    assert node.notes[-2:] == ["SIGTERM", "detach"]


@virtual
async def test_a_container_without_a_service_that_never_was_healthy_runs_on_and_says_so() -> None:
    results = iter([*[Completed(1, "sick")] * 3, *[Completed(0, "")] * 1000])
    node = Node(health=lambda: next(results), again=True)
    check = health(interval=10, retries=3)
    check.action = HealthConfig.ACTION_UNREADY
    one = Life(node, task_with(check))
    when, _, error = await one.until("RUNNING")
    assert (when, error) == (30.0, "unhealthy: the health check failed 3 times in a row, at last: exit code 1: sick")
    assert one.controller.status.unready
    await asyncio.sleep(20)
    assert not one.controller.status.unready
    assert one.states[-1] == "RUNNING"


@virtual
async def test_it_is_called_sick_before_it_is_stopped() -> None:
    results = iter([0, *[1] * 100])
    node = Node(health=lambda: Completed(next(results), ""), obeys={signal.SIGTERM: 3.0})
    one = Life(node, task_with(health(interval=1, retries=1)))
    await one.until("FAILED")
    assert [(when, state) for when, state, error in one.seen if error] == [(2.0, "RUNNING"), (5.0, "FAILED")]


@virtual
async def test_only_failures_in_a_row_count() -> None:
    results = iter([0, 1, 1, 0, 1, 1, 1])
    node = Node(health=lambda: Completed(next(results), ""))
    one = Life(node, task_with(health(interval=1)))
    assert (await one.until("FAILED"))[0] == 7.1


@virtual
async def test_a_check_that_hangs_has_failed() -> None:
    node = Node(delays={"execute": 60})
    one = Life(node, task_with(health(interval=5, timeout=2, retries=1)))
    when, _, error = await one.until("FAILED")
    assert (when, error) == (7.1, "unhealthy: the health check failed, at last: not done within 2 s")


@virtual
async def test_what_the_last_checks_found_is_kept() -> None:
    results = iter([Completed(1, "é" * 4000), *[Completed(code, f"{code}") for code in (0, 0, 0, 1, 1, 0, 1, 1, 1)]])
    node = Node(health=lambda: next(results))
    one = Life(node, task_with(health(interval=1)))
    assert one.controller.health is None
    await asyncio.sleep(1.5)
    found = one.controller.health
    assert found is not None
    assert (found.state, found.failing_streak, len(found.log)) == (ContainerHealth.STATE_STARTING, 1, 1)
    assert (found.log[0].exit_code, found.log[0].output) == (1, "é" * 2048)
    await one.until("RUNNING")
    assert (found.state, found.failing_streak) == (ContainerHealth.STATE_HEALTHY, 0)
    await asyncio.sleep(4.5)
    assert (found.state, found.failing_streak) == (ContainerHealth.STATE_HEALTHY, 2), "two of three"
    assert [probe.output for probe in found.log] == ["0", "0", "0", "1", "1"]
    await one.until("FAILED")
    assert one.controller.health == found
    assert (found.state, found.failing_streak) == (ContainerHealth.STATE_UNHEALTHY, 3)
    assert [probe.exit_code for probe in found.log] == [1, 0, 1, 1, 1]


@virtual
async def test_a_check_that_could_not_be_done_is_kept_with_its_cause() -> None:
    node = Node(delays={"execute": 60})
    one = Life(node, task_with(health(interval=5, timeout=2)))
    await asyncio.sleep(8)
    assert one.controller.health is not None
    [probe] = one.controller.health.log
    assert (probe.exit_code, probe.output) == (-1, "not done within 2 s")


@virtual
async def test_none_switches_the_images_check_off() -> None:
    node = Node(image=ImageConfig(healthcheck=health(interval=3)))
    one = Life(node, task_with(HealthConfig(test=["NONE"])))
    assert (await one.until("RUNNING"))[0] == 0.0


@virtual
async def test_an_end_while_it_is_not_healthy_yet_is_told_with_its_code() -> None:
    node = Node(health=lambda: Completed(1, ""))
    one = Life(node, task_with(health(interval=3)))
    await asyncio.sleep(1)
    node.end(one.controller.id, 5)
    assert await one.until("FAILED") == (1.0, "FAILED", "task: non-zero exit (5)")


@virtual
async def test_it_ends_while_it_is_not_healthy_yet() -> None:
    node = Node(health=lambda: Completed(1, ""))
    one = Life(node, task_with(health(interval=3)))
    await asyncio.sleep(1)
    one.want(SHUTDOWN)
    assert (await one.until("SHUTDOWN"))[0] == 1.1


def task_with(check: HealthConfig) -> Any:
    made = task()
    made.spec.container.healthcheck.CopyFrom(check)
    return made


# What an earlier worker left.


def status(state: TaskState.ValueType) -> TaskStatus:
    return TaskStatus(state=state)


@virtual
async def test_a_running_one_goes_on() -> None:
    node = Node()
    node.take(task().id)
    one = Life(node, task(), status=status(life.RUNNING), found=found(Phase.RUNNING))
    await asyncio.sleep(5)
    assert one.seen == []
    node.end(one.controller.id, 3)
    assert await one.until("FAILED") == (5.0, "FAILED", "task: non-zero exit (3)")
    assert node.notes[0] == "detach"


@virtual
async def test_one_that_was_never_told_to_run_is_not_launched_twice() -> None:
    node = Node()
    node.take(task().id)
    one = Life(node, task(), status=status(life.READY), found=found(Phase.RUNNING))
    await one.until("RUNNING")
    assert "launch" not in node.notes


@virtual
async def test_a_created_one_is_launched() -> None:
    node = Node()
    node.take(task().id)
    one = Life(node, task(), status=status(life.READY), found=found(Phase.CREATED))
    await one.until("RUNNING")
    assert node.notes == ["launch"]


@virtual
async def test_one_that_ended_meanwhile_is_told() -> None:
    node = Node()
    node.take(task().id)
    node.end(task().id, 0)
    one = Life(node, task(), status=status(life.RUNNING), found=found(Phase.ENDED, 0))
    await one.until("COMPLETE")


@virtual
async def test_one_that_ended_before_it_was_launched_is_made_anew() -> None:
    node = Node()
    node.take(task().id)
    node.end(task().id, 137)
    one = Life(node, task(), status=status(life.READY), found=found(Phase.ENDED))
    assert one.controller.needs_managers
    await one.until("RUNNING")
    assert node.notes == ["remove", *PREPARED, "launch"]


@virtual
async def test_one_whose_container_is_gone_has_failed() -> None:
    one = Life(Node(), task(), status=status(life.RUNNING))
    when, state, error = await one.until("FAILED")
    assert (when, state) == (0.0, "FAILED")
    assert error.startswith("the container is gone")


@virtual
async def test_one_that_had_ended_is_only_cleaned_up() -> None:
    node = Node()
    one = Life(node, task(), status=status(life.COMPLETE), found=found(Phase.ENDED, 0))
    await one.gone()
    assert one.seen == []
    assert node.notes == ["detach", "remove"]


@virtual
async def test_of_one_that_left_nothing_there_is_nothing_to_clean_up() -> None:
    node = Node()
    one = Life(node, task(), status=status(life.COMPLETE))
    await one.gone()
    assert (one.seen, node.notes) == ([], [])


@virtual
async def test_one_in_its_grace_is_stopped_again() -> None:
    node = Node()
    node.take(task().id)
    unwanted = task()
    unwanted.desired_state = SHUTDOWN
    prepared = PreparedTask(stop_signal="TERM")
    one = Life(node, unwanted, status=status(life.RUNNING), prepared=prepared, found=found(Phase.RUNNING))
    assert (await one.until("SHUTDOWN"))[0] == 0.1


def test_every_step_leads_forward_and_fails_as_its_place_says() -> None:
    for state, step in life.LIFE.items():
        assert step.leads_to > state
        assert step.failure == (life.REJECTED if state < life.STARTING else life.FAILED)
    assert life.LIFE[life.READY].wanted == life.RUNNING
