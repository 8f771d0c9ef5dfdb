"""`x-flota:`: what flota has and Compose has no word for, into specs and back."""

from typing import Any

import pytest

from flota.stacks.extension import extension_tree
from flota.stacks.translation.exporting import export
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import HealthConfig, PlacementStrategy, RebalancePolicy
from tests.unit.stacks.help import refusal, spec
from tests.unit.stacks.test_plan import changes


def test_each_key_is_a_field_of_the_spec() -> None:
    made = spec(
        "healthcheck: {test: [CMD, x]}, "
        "x-flota: {rebalance: always, strategy: binpack, health_action: unready, stopped: true}"
    )
    assert made.rebalance == RebalancePolicy.REBALANCE_POLICY_ALWAYS
    assert made.task.placement.strategy == PlacementStrategy.PLACEMENT_STRATEGY_BINPACK
    assert made.task.container.healthcheck.action == HealthConfig.ACTION_UNREADY
    assert made.stopped
    job = spec("deploy: {mode: replicated-job, replicas: 9}, x-flota: {max_concurrent: 2}").replicated_job
    assert (job.total_completions, job.max_concurrent) == (9, 2)


@pytest.mark.parametrize("text", ["x-flota: {}", "x-flota: ", "x-flota: {stopped: false, health_action: restart}"])
def test_what_is_the_default_is_as_if_nothing_were_said(text: str) -> None:
    assert spec(text) == spec("")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("x-flota: {rebalence: always}", "x-flota.rebalence: the key is not known here; did you mean 'rebalance'?"),
        ("x-flota: {health-action: unready}", "did you mean 'health_action'?"),
        ("x-flota: {rebalance: on-joining}", "one of off, on-join, always is needed; did you mean 'on-join'?"),
        ("x-flota: {stopped: perhaps}", "x-flota.stopped: 'perhaps' is neither true nor false"),
        ("x-flota: always", "a mapping is needed, not the text 'always'"),
        ("deploy: {x-flota: {stopped: true}}", "it belongs into the service, beside deploy:"),
        ("deploy: {mode: global}, x-flota: {rebalance: always}", "only services in mode replicated are rebalanced"),
        ("x-flota: {max_concurrent: 2}", "x-flota.max_concurrent: it is about deploy.mode: replicated-job"),
        ("healthcheck: {disable: true}, x-flota: {health_action: unready}", "the service has no health check"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(keys: str, said: str) -> None:
    line = refusal(f"services:\n  web:\n    image: x\n    {keys.replace(', x-flota', chr(10) + '    x-flota')}")
    assert line.startswith("c.yml:")
    assert said in line


def test_a_deploy_sets_back_what_the_file_no_longer_says() -> None:
    assert changes("x-flota: {rebalance: always}", "") == ([("x-flota.rebalance", "always", None)], False)
    assert changes("", "x-flota: {stopped: true}")[0] == [("x-flota.stopped", None, "true")]


def test_a_strategy_is_part_of_a_task_a_policy_is_not() -> None:
    assert changes("", "x-flota: {strategy: binpack}") == ([("x-flota.strategy", None, "binpack")], True)


def test_what_was_set_by_hand_is_exported() -> None:
    by_hand = ServiceSpec(rebalance=RebalancePolicy.REBALANCE_POLICY_OFF, stopped=True)
    by_hand.annotations.name = "s_web"
    by_hand.task.container.image = "x"
    by_hand.replicated.replicas = 1
    exported: Any = export("s", [by_hand], {}, {})
    assert exported.tree["services"]["web"]["x-flota"] == {"rebalance": "off", "stopped": True}
    assert exported.warnings == []
    assert extension_tree(ServiceSpec()) == {}
