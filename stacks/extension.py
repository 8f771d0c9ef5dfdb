"""`x-flota:` of a service: what flota has and Compose has no word for. Docker's tools skip the key.

Both ways: the key into a spec, and a spec back into the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flota.stacks.compose.tree import Map, Spot
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import HealthConfig, PlacementStrategy, RebalancePolicy

EXTENSION = "x-flota"
REBALANCE = {
    "off": RebalancePolicy.REBALANCE_POLICY_OFF,
    "on-join": RebalancePolicy.REBALANCE_POLICY_ON_JOIN,
    "always": RebalancePolicy.REBALANCE_POLICY_ALWAYS,
}
STRATEGIES = {
    "spread": PlacementStrategy.PLACEMENT_STRATEGY_SPREAD,
    "binpack": PlacementStrategy.PLACEMENT_STRATEGY_BINPACK,
}
HEALTH_ACTIONS = {"restart": HealthConfig.ACTION_RESTART, "unready": HealthConfig.ACTION_UNREADY}


def set_extension(spec: ServiceSpec, service: Map, spot: Spot) -> None:
    """Fill in what `x-flota:` of a service says; `spec` has its mode and health check. Raises ComposeError."""
    deploy: Map = service.get("deploy", Map(spot.place))
    if EXTENSION in deploy:
        spot.of(service, "deploy").of(deploy, EXTENSION).fail("it belongs into the service, beside deploy:")
    said: Map = service.get(EXTENSION, Map(spot.place))
    here = spot.of(service, EXTENSION)
    spec.stopped = said.get("stopped", False)
    if "rebalance" in said:
        if spec.WhichOneof("mode") != "replicated":
            here.of(said, "rebalance").fail("only services in mode replicated are rebalanced")
        spec.rebalance = REBALANCE[said["rebalance"]]
    if "strategy" in said:
        spec.task.placement.strategy = STRATEGIES[said["strategy"]]
    if said.get("health_action") == "unready":
        if list(spec.task.container.healthcheck.test) == ["NONE"]:
            here.of(said, "health_action").fail("the service has no health check")
        spec.task.container.healthcheck.action = HealthConfig.ACTION_UNREADY
    if "max_concurrent" in said:
        if spec.WhichOneof("mode") != "replicated_job":
            here.of(said, "max_concurrent").fail("it is about deploy.mode: replicated-job")
        spec.replicated_job.max_concurrent = said["max_concurrent"]


def extension_tree(spec: ServiceSpec) -> dict[str, Any]:
    """What `x-flota:` has to say of a spec: empty when everything is the default."""
    tree: dict[str, Any] = {}
    for key, words, value in (
        ("rebalance", REBALANCE, spec.rebalance),
        ("strategy", STRATEGIES, spec.task.placement.strategy),
        ("health_action", HEALTH_ACTIONS, spec.task.container.healthcheck.action),
    ):
        if value:
            tree[key] = _word(words, value)
    job = spec.replicated_job
    if job.max_concurrent and job.max_concurrent != job.total_completions:
        tree["max_concurrent"] = job.max_concurrent
    if spec.stopped:
        tree["stopped"] = True
    return tree


def _word(words: Mapping[str, int], value: int) -> str:
    return next(word for word, number in words.items() if number == value)
