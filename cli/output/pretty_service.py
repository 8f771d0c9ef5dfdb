"""A service for people: `service inspect --pretty`."""

from __future__ import annotations

from collections.abc import Mapping

from flota.cli.output.human import capital, since
from flota.cli.output.pretty import Lines
from flota.cli.output.services import mode_words
from flota.cli.output.tasks import protocol_word
from flota.gateway.translation.words import word
from flota.stacks.devices import format_device
from flota.stacks.units import format_cpus, format_duration, format_size, nanoseconds_of
from flota.v1.objects_pb2 import Service
from flota.v1.specs_pb2 import ContainerSpec, TaskSpec
from flota.v1.types_pb2 import (
    EndpointSpec,
    HealthConfig,
    Mount,
    PlacementStrategy,
    PortConfig,
    RebalancePolicy,
    Resources,
    RestartPolicy,
    UpdateConfig,
    UpdateStatus,
)

_DONE = (UpdateStatus.STATE_COMPLETED, UpdateStatus.STATE_ROLLBACK_COMPLETED)


def pretty_service(service: Service, networks: Mapping[str, str], updated: int = 0) -> str:
    """The lines; `networks` maps ids to names, `updated` tasks are what the service's spec says now."""
    spec, lines = service.spec, Lines()
    lines.field("ID", service.id)
    lines.field("Name", spec.annotations.name)
    lines.mapping("Labels", spec.annotations.labels)
    lines.field("Service Mode", mode_words(service).title())
    mode = spec.WhichOneof("mode")
    if mode in (None, "replicated"):
        lines.field("Replicas", spec.replicated.replicas, 1)
    elif mode == "replicated_job":
        lines.field("Max Concurrent", spec.replicated_job.max_concurrent, 1)
        lines.field("Total Completions", spec.replicated_job.total_completions, 1)
    if spec.stopped:
        lines.field("Stopped", "true")
    lines.some("Waits For", service.waits_for)
    if spec.rebalance:
        lines.field("Rebalance", word(RebalancePolicy.Name(spec.rebalance), "REBALANCE_POLICY_", "-"))
    _update_status(lines, service, updated)
    _placement(lines, spec.task)
    _restart(lines, spec.task.restart)
    if spec.HasField("update"):
        _update(lines, "UpdateConfig", "Update order", spec.update)
    if spec.HasField("rollback"):
        _update(lines, "RollbackConfig", "Rollback order", spec.rollback)
    _container(lines, spec.task.container)
    _resources(lines, spec.task)
    if spec.task.HasField("log_driver"):
        lines.title("Log Driver")
        lines.some("Name", spec.task.log_driver.name, 1)
        lines.mapping("LogOpts", spec.task.log_driver.options, 1)
    lines.some("Networks", " ".join(networks.get(each.target, each.target) for each in spec.task.networks))
    lines.field("Endpoint Mode", word(EndpointSpec.Mode.Name(spec.endpoint.mode), "MODE_"))
    _ports(lines, service)
    _health(lines, spec.task.container.healthcheck)
    return str(lines)


def _update_status(lines: Lines, service: Service, updated: int) -> None:
    status = service.update_status
    if not status.state:
        return
    lines.title("UpdateStatus")
    lines.field("State", word(UpdateStatus.State.Name(status.state), "STATE_", "_"), 1)
    if status.HasField("started_at"):
        lines.field("Started", since(status.started_at), 1)
    if status.HasField("completed_at"):
        lines.field("Completed", since(status.completed_at), 1)
    lines.some("Message", status.message, 1)
    if status.state not in _DONE:
        of = f" of {service.spec.replicated.replicas}" if service.spec.HasField("replicated") else ""
        lines.field("Progress", f"{updated}{of} tasks are up to date", 1)


def _placement(lines: Lines, task: TaskSpec) -> None:
    placement = task.placement
    lines.title("Placement")
    lines.some("Constraints", f"[{' '.join(placement.constraints)}]" if placement.constraints else "", 1)
    preferences = " ".join(f"spread={each.spread.descriptor}" for each in placement.preferences)
    lines.some("Preferences", f"[{preferences}]" if preferences else "", 1)
    lines.some("Max Replicas Per Node", placement.max_replicas, 1)
    if placement.strategy:
        lines.field("Strategy", word(PlacementStrategy.Name(placement.strategy), "PLACEMENT_STRATEGY_"), 1)


def _restart(lines: Lines, restart: RestartPolicy) -> None:
    lines.title("RestartPolicy")
    lines.field("Condition", word(RestartPolicy.Condition.Name(restart.condition), "CONDITION_"), 1)
    if restart.HasField("delay"):
        lines.field("Delay", format_duration(nanoseconds_of(restart.delay)), 1)
    lines.some("Max attempts", restart.max_attempts, 1)
    if restart.HasField("window"):
        lines.field("Window", format_duration(nanoseconds_of(restart.window)), 1)


def _update(lines: Lines, title: str, order: str, config: UpdateConfig) -> None:
    lines.title(title)
    lines.field("Parallelism", config.parallelism, 1)
    if nanoseconds_of(config.delay):
        lines.field("Delay", format_duration(nanoseconds_of(config.delay)), 1)
    lines.field("On failure", word(UpdateConfig.FailureAction.Name(config.failure_action), "FAILURE_ACTION_"), 1)
    if config.HasField("monitor"):
        lines.field("Monitoring Period", format_duration(nanoseconds_of(config.monitor)), 1)
    lines.field("Max failure ratio", f"{config.max_failure_ratio:g}", 1)
    lines.field(order, word(UpdateConfig.Order.Name(config.order), "ORDER_"), 1)


def _container(lines: Lines, container: ContainerSpec) -> None:
    lines.title("ContainerSpec")
    lines.field("Image", container.image, 1)
    lines.some("Command", " ".join(container.command), 1)
    lines.some("Args", " ".join(container.args), 1)
    lines.some("Env", " ".join(container.env), 1)
    lines.some("Dir", container.dir, 1)
    lines.some("Hostname", container.hostname, 1)
    lines.some("Init", "true" if container.init else "", 1)
    lines.some("User", container.user, 1)
    if container.capability_add or container.capability_drop:
        lines.title("Capabilities")
        lines.some("Add", ", ".join(container.capability_add), 1)
        lines.some("Drop", ", ".join(container.capability_drop), 1)
    lines.mapping("SysCtls", container.sysctls)
    lines.listed("Devices", map(format_device, container.devices))
    lines.listed("Ulimits", (f"{each.name}: {each.soft}:{each.hard}" for each in container.ulimits))
    if container.mounts:
        lines.title("Mounts")
    for mount in container.mounts:
        lines.field("Target", mount.target, 1)
        lines.some("Source", mount.source, 2)
        lines.field("ReadOnly", str(mount.read_only).lower(), 2)
        lines.field("Type", word(Mount.Type.Name(mount.type), "TYPE_"), 2)
    for title, files in (
        ("Configs", [(each.file.name, each.config_name) for each in container.configs]),
        ("Secrets", [(each.file.name, each.secret_name) for each in container.secrets]),
    ):
        if files:
            lines.title(title)
        for target, source in files:
            lines.field("Target", target, 1)
            lines.field("Source", source, 2)


def _resources(lines: Lines, task: TaskSpec) -> None:
    def amounts(title: str, resources: Resources, pids: int = 0) -> None:
        if not (resources.nano_cpus or resources.memory_bytes or resources.generic or pids):
            return
        lines.title(title, 1)
        lines.some("CPU", format_cpus(resources.nano_cpus) if resources.nano_cpus else "", 2)
        lines.some("Memory", format_size(resources.memory_bytes) if resources.memory_bytes else "", 2)
        lines.some("PIDs", pids, 2)
        for each in resources.generic:
            lines.field(each.kind, each.name or each.count, 2)

    if not task.HasField("resources"):
        return
    lines.title("Resources")
    amounts("Reservations", task.resources.reservations)
    amounts("Limits", task.resources.limits, task.resources.pids_limit)


def _ports(lines: Lines, service: Service) -> None:
    ports = service.endpoint.ports or service.spec.endpoint.ports
    if ports:
        lines.title("Ports")
    for port in ports:
        lines.text(f" PublishedPort = {port.published_port}")
        lines.text(f"  Protocol = {protocol_word(port)}")
        lines.text(f"  TargetPort = {port.target_port}")
        lines.text(f"  PublishMode = {word(PortConfig.PublishMode.Name(port.publish_mode), 'PUBLISH_MODE_')}")
        if port.proxy_protocol:
            lines.text(
                f"  ProxyProtocol = {word(PortConfig.ProxyProtocol.Name(port.proxy_protocol), 'PROXY_PROTOCOL_')}"
            )


def _health(lines: Lines, check: HealthConfig) -> None:
    if not check.ListFields():
        return
    lines.title("Healthcheck")
    lines.some("Test", " ".join(check.test), 1)
    for name in ("interval", "timeout", "start_period", "start_interval"):
        if check.HasField(name):
            shown = capital("".join(part.title() for part in name.split("_")))
            lines.field(shown, format_duration(nanoseconds_of(getattr(check, name))), 1)
    lines.some("Retries", check.retries, 1)
    if check.action == HealthConfig.ACTION_UNREADY:
        lines.field("Action", "unready", 1)
