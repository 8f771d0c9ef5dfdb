"""What `deploy:` says, as messages: mode, resources, restarts, updates, placement, endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flota.stacks.compose.tree import Map, Spot
from flota.stacks.ports import MODES, PROTOCOLS, PROXY_PROTOCOL, PROXY_PROTOCOLS
from flota.stacks.units import duration_message, parse_cpus, parse_duration
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import (
    EndpointSpec,
    GenericResource,
    PortConfig,
    ResourceRequirements,
    RestartPolicy,
    UpdateConfig,
)

_CONDITIONS = {
    "any": RestartPolicy.CONDITION_ANY,
    "on-failure": RestartPolicy.CONDITION_ON_FAILURE,
    "none": RestartPolicy.CONDITION_NONE,
}
_ACTIONS = {
    "pause": UpdateConfig.FAILURE_ACTION_PAUSE,
    "continue": UpdateConfig.FAILURE_ACTION_CONTINUE,
    "rollback": UpdateConfig.FAILURE_ACTION_ROLLBACK,
}
_ORDERS = {"stop-first": UpdateConfig.ORDER_STOP_FIRST, "start-first": UpdateConfig.ORDER_START_FIRST}
# Below, the kernel's controllers do not work as one would expect; the control API holds the same.
_LEAST_NANO_CPUS = 1_000_000
_LEAST_BYTES = 4 << 20
# The cluster's grammar (manager/constraint.py).
_CONSTRAINT = re.compile(r"\s*([a-z_][a-z0-9\-_.]+)\s*(==|!=)\s*([a-z0-9:\-_\s.*()?+\[\]\\^$|/]+?)\s*", re.IGNORECASE)
_SPREAD = re.compile(r"(?:node|engine)\.labels\..+")
_PLACES = ("same-node", "other-node")
# Files say so, and it is what happens anyway: tasks are dealt evenly over nodes.
SPREAD_OVER_NODES = ("node.id", "node.hostname")


def set_deploy(spec: ServiceSpec, service: Map, spot: Spot) -> None:
    """Fill in what `deploy:` and `ports:` of a service say. Raises ComposeError."""
    deploy: Map = service.get("deploy", Map(spot.place))
    here = spot.of(service, "deploy")
    _set_mode(spec, deploy, here)
    _set_resources(spec.task.resources, service, deploy, spot)
    _set_restart(spec.task.restart, deploy.get("restart_policy", {}))
    _set_placement(spec, deploy, here)
    for phase in ("update", "rollback"):
        config = deploy.get(f"{phase}_config")
        if config is not None:
            _set_update(getattr(spec, phase), config)
            if phase == "rollback" and config.get("failure_action") == "rollback":
                here.of(deploy, "rollback_config").fail(
                    "failure_action: rollback of a rollback; pause or continue fits"
                )
            if spec.WhichOneof("mode") in ("replicated_job", "global_job"):
                here.of(deploy, f"{phase}_config").fail("a job has no updates: a change begins a new run of it")
    _set_endpoint(spec.endpoint, service, deploy, spot)


def _set_mode(spec: ServiceSpec, deploy: Map, spot: Spot) -> None:
    mode, replicas = deploy.get("mode", "replicated"), deploy.get("replicas")
    if replicas is not None and mode in ("global", "global-job"):
        spot.of(deploy, "replicas").fail(f"a service in mode {mode} has no replicas: it has one task on each node")
    match mode:
        case "replicated":
            spec.replicated.replicas = 1 if replicas is None else replicas
        case "global":
            getattr(spec, "global").SetInParent()
        case "replicated-job":
            total = 1 if replicas is None else replicas
            spec.replicated_job.total_completions = spec.replicated_job.max_concurrent = total
        case "global-job":
            spec.global_job.SetInParent()


def _set_resources(resources: ResourceRequirements, service: Map, deploy: Map, spot: Spot) -> None:
    said = deploy.get("resources", {})
    limits, reservations = said.get("limits", {}), said.get("reservations", {})
    here = spot.of(service, "deploy").of(deploy, "resources")
    for word, amounts, into in (
        ("limits", limits, resources.limits),
        ("reservations", reservations, resources.reservations),
    ):
        into.nano_cpus = parse_cpus(amounts.get("cpus", "0"))
        into.memory_bytes = int(amounts.get("memory", 0))
        if 0 < into.nano_cpus < _LEAST_NANO_CPUS:
            here.of(said, word).of(amounts, "cpus").fail(f"{amounts['cpus']} is too little: 0.001 or more, 0 is none")
        if 0 < into.memory_bytes < _LEAST_BYTES:
            here.of(said, word).of(amounts, "memory").fail(f"{amounts['memory']} is too little: 4m or more, 0 is none")
    for key, limit, reserved in (
        ("cpus", resources.limits.nano_cpus, resources.reservations.nano_cpus),
        ("memory", resources.limits.memory_bytes, resources.reservations.memory_bytes),
    ):
        if limit and reserved > limit:
            here.of(said, "reservations").of(reservations, key).fail("more is reserved than the limit allows")
    resources.pids_limit = max(0, limits.get("pids", 0))
    kinds: set[str] = set()
    for each in reservations.get("generic_resources", ()):
        wanted = each["discrete_resource_spec"]
        if not wanted["kind"] or wanted["kind"] in kinds:
            here.of(said, "reservations").of(reservations, "generic_resources").fail(
                f"the kind {wanted['kind']!r} is {'given twice' if wanted['kind'] else 'empty'}"
            )
        kinds.add(wanted["kind"])
        resources.reservations.generic.append(GenericResource(kind=wanted["kind"], count=wanted["value"]))
    if "memswap_limit" in service:
        resources.memory_swap_bytes = int(service["memswap_limit"])
        if resources.memory_swap_bytes > 0 and not resources.limits.memory_bytes:
            spot.of(service, "memswap_limit").fail("a memory limit is needed, too (deploy.resources.limits.memory)")
        if 0 < resources.memory_swap_bytes < resources.limits.memory_bytes:
            spot.of(service, "memswap_limit").fail("it includes the memory limit, and cannot be less")
    if "mem_swappiness" in service:
        resources.memory_swappiness = service["mem_swappiness"]


def _set_restart(restart: RestartPolicy, policy: Mapping[str, Any]) -> None:
    restart.condition = _CONDITIONS[policy.get("condition", "any")]
    restart.max_attempts = policy.get("max_attempts", 0)
    if "delay" in policy:
        restart.delay.CopyFrom(duration_message(parse_duration(policy["delay"])))
    if window := parse_duration(policy.get("window", "0s")):
        restart.window.CopyFrom(duration_message(window))


def _set_update(update: UpdateConfig, config: Mapping[str, Any]) -> None:
    update.parallelism = config.get("parallelism", 1)
    update.failure_action = _ACTIONS[config.get("failure_action", "pause")]
    update.max_failure_ratio = float(config.get("max_failure_ratio", 0))
    update.order = _ORDERS[config.get("order", "stop-first")]
    if delay := parse_duration(config.get("delay", "0s")):
        update.delay.CopyFrom(duration_message(delay))
    if "monitor" in config:
        update.monitor.CopyFrom(duration_message(parse_duration(config["monitor"])))


def _set_placement(spec: ServiceSpec, deploy: Map, spot: Spot) -> None:
    placement = deploy.get("placement")
    if placement is None:
        return
    here = spot.of(deploy, "placement")
    constraints = placement.get("constraints", [])
    for index, text in enumerate(constraints):
        match = _CONSTRAINT.fullmatch(text)
        if match is None:
            at = here.of(placement, "constraints").of(constraints, index)
            at.fail(f"{text!r} is not KEY==VALUE or KEY!=VALUE, such as node.role==manager")
        if match[1].lower().startswith("service.") and match[3].lower() not in _PLACES:
            at = here.of(placement, "constraints").of(constraints, index)
            at.fail(f"{match[3]!r} is no place beside a service; {' and '.join(_PLACES)} are")
        spec.task.placement.constraints.append(f"{match[1]}{match[2]}{match[3]}")
    preferences = placement.get("preferences", [])
    for index, preference in enumerate(preferences):
        descriptor = preference["spread"]
        if descriptor in SPREAD_OVER_NODES:
            continue
        if not _SPREAD.fullmatch(descriptor):
            at = here.of(placement, "preferences").of(preferences, index)
            at.fail(f"{descriptor!r} is nothing to spread over; node.labels.KEY and engine.labels.KEY are")
        spec.task.placement.preferences.add().spread.descriptor = descriptor
    most = placement.get("max_replicas_per_node", 0)
    if most and spec.WhichOneof("mode") != "replicated":
        here.of(placement, "max_replicas_per_node").fail("only replicated services have a maximum on a node")
    spec.task.placement.max_replicas = most


def _set_endpoint(endpoint: EndpointSpec, service: Map, deploy: Map, spot: Spot) -> None:
    ports = service.get("ports", [])
    seen: dict[tuple[object, ...], Mapping[str, Any]] = {}
    for index, port in enumerate(ports):
        key = (port.get("published"), port["protocol"], port["mode"])
        if port.get("published") and key in seen:
            spot.of(service, "ports").of(ports, index).fail(
                f"port {port['published']}/{port['protocol']} is published twice"
            )
        seen[key] = port
        config = PortConfig(
            name=port.get("name", ""),
            protocol=PROTOCOLS[port["protocol"]],
            target_port=port["target"],
            published_port=int(port.get("published", 0)),
            publish_mode=MODES[port["mode"]],
            proxy_protocol=PROXY_PROTOCOLS.get(port.get(PROXY_PROTOCOL, ""), PortConfig.PROXY_PROTOCOL_NONE),
        )
        if config in endpoint.ports:
            spot.of(service, "ports").of(ports, index).fail(f"port {port['target']}/{port['protocol']} is given twice")
        endpoint.ports.append(config)
    endpoint.ports.sort(key=lambda port: (port.published_port, port.target_port, port.protocol, port.publish_mode))
    if deploy.get("endpoint_mode", "vip") == "dnsrr":
        endpoint.mode = EndpointSpec.MODE_DNSRR
        if any(port["mode"] == "ingress" for port in ports):
            spot.of(service, "ports").fail(
                "with endpoint_mode: dnsrr there is no address to publish through the mesh; use mode: host, or vip"
            )
