"""What a service's spec may say: its mode, how it is updated, how it is reached. Pure.

Raises InvalidArgument, or Unsupported for what Docker has and flota has not (yet): published ports. Semantics:
SwarmKit's manager/controlapi/service.go.
"""

import math
from collections.abc import Iterable

from flota.manager.control.names import check_annotations, check_duration, check_service_name, check_unique
from flota.manager.control.task_rules import check_task
from flota.rpc.errors import InvalidArgument
from flota.v1.network_options import STABLE_ADDRESS_OPTION, keeps_address
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import Dependency, EndpointSpec, PortConfig, RebalancePolicy, UpdateConfig

# Beyond any cluster; keeps a slip of the finger from filling the managers' memory.
MAX_TASKS = 1_000_000
_JOBS = ("replicated_job", "global_job")


def check_service(spec: ServiceSpec) -> None:
    """Everything but references (secrets, configs, networks), which need the store."""
    check_service_name(spec.annotations.name)
    check_annotations(spec.annotations)
    check_task(spec.task)
    check_mode(spec)
    for word, config in (("update", spec.update), ("rollback", spec.rollback)):
        check_update(word, config)
    if spec.rollback.failure_action == UpdateConfig.FAILURE_ACTION_ROLLBACK:
        raise InvalidArgument.of("rollback failure action", "rollback", "allowed are pause and continue")
    check_endpoint(spec.endpoint)
    _check_dependencies(spec)
    _check_rebalance(spec)


def _check_dependencies(spec: ServiceSpec) -> None:
    """Names that services could have, each once; that they exist is nobody's promise."""
    for dependency in spec.depends_on:
        check_service_name(dependency.service)
        if dependency.service == spec.annotations.name:
            raise InvalidArgument.of("dependency", dependency.service, "a service cannot depend on itself")
        if dependency.condition not in Dependency.Condition.values():
            raise InvalidArgument.of(
                "dependency condition", dependency.condition, "allowed are started, healthy and completed"
            )
    check_unique("dependency", (dependency.service for dependency in spec.depends_on))


def _check_rebalance(spec: ServiceSpec) -> None:
    policy = spec.rebalance
    if policy not in RebalancePolicy.values():
        raise InvalidArgument.of("rebalance policy", policy, "allowed are off, on-join and always")
    if policy > RebalancePolicy.REBALANCE_POLICY_OFF and mode_of(spec) != "replicated":
        word = RebalancePolicy.Name(policy).removeprefix("REBALANCE_POLICY_").lower().replace("_", "-")
        raise InvalidArgument.of("rebalance policy", word, "only replicated services are rebalanced")


def mode_of(spec: ServiceSpec) -> str:
    """replicated (also when nothing is said), global, replicated_job or global_job."""
    return spec.WhichOneof("mode") or "replicated"


def check_mode(spec: ServiceSpec) -> None:
    """The mode, and what goes with it only."""
    mode = mode_of(spec)
    placement = spec.task.placement
    if mode == "replicated":
        _check_count("replicas", spec.replicated.replicas)
    elif placement.max_replicas:
        raise InvalidArgument.of("replicas per node", placement.max_replicas, "only replicated services have a maximum")
    if mode == "replicated_job":
        _check_count("completions", spec.replicated_job.total_completions)
        _check_count("concurrent tasks", spec.replicated_job.max_concurrent)
    if mode in _JOBS and (spec.HasField("update") or spec.HasField("rollback")):
        raise InvalidArgument("a job has no update or rollback configuration: an update begins a new run of it")
    one_task = mode == "replicated" and (not spec.replicated.HasField("replicas") or spec.replicated.replicas <= 1)
    for attachment in spec.task.networks:
        if attachment.addresses and not one_task:
            raise InvalidArgument.of(
                "network address", attachment.addresses[0], "only a service with a single replica can ask for one"
            )
    if any(map(keeps_address, spec.task.networks)):
        _check_can_keep_addresses(spec)


def _check_can_keep_addresses(spec: ServiceSpec) -> None:
    """One address cannot be at two places."""
    if mode_of(spec) != "replicated":
        raise InvalidArgument(f"only replicated services can have the network option {STABLE_ADDRESS_OPTION}")
    for word, config in (("update", spec.update), ("rollback", spec.rollback)):
        if config.order == UpdateConfig.ORDER_START_FIRST:
            raise InvalidArgument.of(
                f"{word} order",
                "start-first",
                "a task that keeps its address needs stop-first: two cannot have it",
            )


def _check_count(field: str, count: int) -> None:
    if count > MAX_TASKS:
        raise InvalidArgument.of(field, count, f"at most {MAX_TASKS:,} are allowed")


def check_update(word: str, config: UpdateConfig) -> None:
    """How tasks are replaced; `word` is update or rollback."""
    _check_count(f"{word} parallelism", config.parallelism)
    check_duration(f"{word} delay", config.delay)
    check_duration(f"{word} monitor", config.monitor)
    if math.isnan(config.max_failure_ratio) or not 0 <= config.max_failure_ratio <= 1:
        raise InvalidArgument.of(f"{word} max failure ratio", config.max_failure_ratio, "allowed is 0 to 1")
    if config.failure_action not in UpdateConfig.FailureAction.values():
        raise InvalidArgument.of(
            f"{word} failure action", config.failure_action, "allowed are pause, continue and rollback"
        )
    if config.order not in UpdateConfig.Order.values():
        raise InvalidArgument.of(f"{word} order", config.order, "allowed are stop-first and start-first")


def check_endpoint(endpoint: EndpointSpec) -> None:
    """Mode and ports make sense."""
    if endpoint.mode not in EndpointSpec.Mode.values():
        raise InvalidArgument.of("endpoint mode", endpoint.mode, "allowed are vip and dnsrr")
    _check_ports(endpoint.ports)
    if endpoint.mode == EndpointSpec.MODE_DNSRR:
        for port in endpoint.ports:
            if port.publish_mode == PortConfig.PUBLISH_MODE_INGRESS:
                raise InvalidArgument.of(
                    "published port", port.published_port or port.target_port,
                    "endpoint mode dnsrr has no address to publish in ingress mode; use mode=host or endpoint mode vip",
                )  # fmt: skip


def _check_proxy_protocol(port: PortConfig) -> None:
    if port.proxy_protocol == PortConfig.PROXY_PROTOCOL_NONE:
        return
    if port.proxy_protocol not in PortConfig.ProxyProtocol.values():
        raise InvalidArgument.of("PROXY protocol", port.proxy_protocol, "allowed are v1 and v2")
    if port.protocol != PortConfig.PROTOCOL_TCP:
        raise InvalidArgument.of("PROXY protocol of port", _shown(port), "it is for TCP")


def _shown(port: PortConfig) -> str:
    word = PortConfig.Protocol.Name(port.protocol).removeprefix("PROTOCOL_").lower()
    return f"{port.published_port or port.target_port}/{word}"


def _check_ports(ports: Iterable[PortConfig]) -> None:
    published: set[tuple[int, int, int]] = set()
    whole: set[bytes] = set()
    proxied: dict[int, PortConfig] = {}
    for port in ports:
        if port.protocol not in PortConfig.Protocol.values():
            raise InvalidArgument.of("port protocol", port.protocol, "allowed are tcp, udp and sctp")
        if port.publish_mode not in PortConfig.PublishMode.values():
            raise InvalidArgument.of("publish mode", port.publish_mode, "allowed are ingress and host")
        if not 1 <= port.target_port <= 65535:
            raise InvalidArgument.of("target port", port.target_port, "allowed is 1 to 65535")
        if port.published_port > 65535:
            raise InvalidArgument.of("published port", port.published_port, "allowed is 0 (any) to 65535")
        if port.host_address:
            raise InvalidArgument.of("host address", port.host_address, "services are reached by all of a node's")
        _check_proxy_protocol(port)
        if port.proxy_protocol:
            # Each has a listener beside it in the task, on one of 4,096 ports (overlay/proxy_protocol.py).
            there = proxied.setdefault(port.target_port % 4096, port)
            if there.target_port != port.target_port:
                allowed = "with PROXY protocol, two of a service must not differ by a multiple of 4096"
                raise InvalidArgument.of("target port", port.target_port, allowed)
            if there.proxy_protocol != port.proxy_protocol:
                allowed = "with PROXY protocol, it has one version for all that publish it"
                raise InvalidArgument.of("target port", port.target_port, allowed)
        text = port.SerializeToString(deterministic=True)
        key = (port.publish_mode, port.protocol, port.published_port)
        if text in whole or (port.published_port and key in published):
            raise InvalidArgument.of("published port", _shown(port), "it is given twice")
        whole.add(text)
        published.add(key)
