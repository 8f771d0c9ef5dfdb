"""Specs back to the tree of a Compose file: for `stack export`, and to tell in a file's words what a deploy changes.

What a spec leaves to the defaults, or says although it is the default, is left out. What Compose has no word for is
told: `untold` names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from flota.stacks.devices import format_device
from flota.stacks.extension import EXTENSION, extension_tree
from flota.stacks.mounts import AFFINITY, PROPAGATIONS
from flota.stacks.ports import MODES, PROTOCOLS, PROXY_PROTOCOL, PROXY_PROTOCOLS
from flota.stacks.translation.names import IMAGE, NAMESPACE
from flota.stacks.translation.ordering import CONDITIONS
from flota.stacks.units import format_cpus, format_duration, nanoseconds_of
from flota.stacks.versions import OBJECT
from flota.v1.security_options import written
from flota.v1.service_defaults import MONITOR_SECONDS, PARALLELISM, RESTART_DELAY_SECONDS, STOP_GRACE_SECONDS
from flota.v1.specs_pb2 import ContainerSpec, NetworkSpec, ServiceSpec, TaskSpec
from flota.v1.types_pb2 import (
    EndpointSpec,
    FileTarget,
    HealthConfig,
    Mount,
    PortConfig,
    Resources,
    RestartPolicy,
    UpdateConfig,
)

Tree = dict[str, Any]

_PROTOCOL_WORDS = {number: word for word, number in PROTOCOLS.items()}
_PROXY_WORDS = {number: word for word, number in PROXY_PROTOCOLS.items()}
_MODE_WORDS = {number: word for word, number in MODES.items()}
_PROPAGATION_WORDS = {number: word for word, number in PROPAGATIONS.items()}
_CONDITION_WORDS = {number: word for word, number in CONDITIONS.items()}


def some(**values: Any) -> Tree:
    """Only what says something."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {}, False)}


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", "-")


def _duration(message: Any, field: str, default_seconds: int | None = None) -> str | None:
    """A duration as text; None when it is not set, or is the default."""
    value: Duration = getattr(message, field)
    if not message.HasField(field) or (default_seconds is not None and value == Duration(seconds=default_seconds)):
        return None
    return format_duration(nanoseconds_of(value))


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels that a person gave."""
    return {key: value for key, value in labels.items() if key not in (NAMESPACE, IMAGE, OBJECT)}


def short_name(stack: str, name: str) -> str:
    """The name within the stack."""
    return name.removeprefix(f"{stack}_")


def service_tree(spec: ServiceSpec, stack: str, networks: Mapping[str, str], volumes: Mapping[str, str]) -> Tree:
    """A service. `networks` maps what attachments name to keys of the file, `volumes` names of volumes."""
    container = spec.task.container
    key = short_name(stack, spec.annotations.name)
    tree = _container(container) | some(
        deploy=_deploy(spec),
        logging=some(driver=spec.task.log_driver.name, options=dict(spec.task.log_driver.options)),
        networks=_networks(spec.task, key, networks),
        ports=[_port(port) for port in spec.endpoint.ports],
        volumes=[_mount(mount, volumes) for mount in container.mounts],
        **{EXTENSION: extension_tree(spec)},
        memswap_limit=str(spec.task.resources.memory_swap_bytes or ""),
        depends_on={
            short_name(stack, each.service): {"condition": _CONDITION_WORDS[each.condition]} for each in spec.depends_on
        },
    )
    if spec.task.resources.HasField("memory_swappiness"):
        tree["mem_swappiness"] = spec.task.resources.memory_swappiness
    platforms = spec.task.placement.platforms
    if len(platforms) == 1:
        tree["platform"] = f"{platforms[0].os}/{platforms[0].architecture}".rstrip("/")
    return tree


def untold(spec: ServiceSpec) -> list[str]:
    """What of a service Compose has no word for."""
    found = []
    if len(spec.task.placement.platforms) > 1:
        found.append("it has several platforms")
    if spec.task.force_update:
        found.append("it was updated with --force")
    return found


# --- containers -------------------------------------------------------------------------------------------------------


def _container(container: ContainerSpec) -> Tree:
    return {"image": container.image} | some(
        cap_add=list(container.capability_add),
        cap_drop=list(container.capability_drop),
        command=list(container.args),
        dns=list(container.dns.nameservers),
        dns_opt=list(container.dns.options),
        dns_search=list(container.dns.search),
        entrypoint=list(container.command),
        environment=dict(each.partition("=")[::2] for each in container.env),
        extra_hosts=[
            f"{name}={address}" for line in container.hosts for address, *names in [line.split()] for name in names
        ],
        devices=[format_device(each) for each in container.devices],
        group_add=list(container.groups),
        healthcheck=_health(container.healthcheck),
        hostname=container.hostname,
        init=container.init,
        labels=own_labels(container.labels),
        oom_score_adj=container.oom_score_adj or None,
        read_only=container.read_only,
        security_opt=written(
            no_new_privileges=container.no_new_privileges, seccomp_unconfined=container.seccomp_unconfined
        ),
        secrets=[_reference(each.secret_name, each.file) for each in container.secrets],
        configs=[_reference(each.config_name, each.file) for each in container.configs],
        stdin_open=container.open_stdin,
        stop_grace_period=_duration(container, "stop_grace_period", STOP_GRACE_SECONDS),
        stop_signal=container.stop_signal,
        sysctls=dict(container.sysctls),
        tty=container.tty,
        ulimits={
            each.name: each.soft if each.soft == each.hard else {"soft": each.soft, "hard": each.hard}
            for each in container.ulimits
        },
        user=container.user,
        working_dir=container.dir,
    )


def _health(check: HealthConfig) -> Tree:
    if list(check.test) == ["NONE"]:
        return {"disable": True}
    return some(
        test=list(check.test),
        retries=check.retries or None,
        **{field: _duration(check, field) for field in ("interval", "timeout", "start_period", "start_interval")},
    )


def _reference(name: str, file: FileTarget) -> Tree:
    return {"source": name, "target": file.name} | some(
        uid=file.uid if file.uid != "0" else None,
        gid=file.gid if file.gid != "0" else None,
        mode=f"{file.mode:04o}" if file.mode != 0o444 else None,
    )


def _mount(mount: Mount, volumes: Mapping[str, str]) -> Tree:
    kind = _word(Mount.Type.Name(mount.type), "TYPE_")
    source = volumes.get(mount.source, mount.source) if kind == "volume" else mount.source
    return {"type": kind, "target": mount.target} | some(
        source=source,
        read_only=mount.read_only,
        bind=some(
            propagation=_PROPAGATION_WORDS[mount.bind_propagation] if mount.bind_propagation else None,
            recursive="disabled" if mount.bind_nonrecursive else "writable" if mount.bind_writable_below else None,
            create_host_path=mount.bind_create_source,
        ),
        volume=some(nocopy=mount.volume_nocopy, subpath=mount.volume_subpath)
        | ({AFFINITY: "node"} if mount.volume_node_affinity else {}),
        tmpfs=some(
            size=str(mount.tmpfs_size_bytes or ""), mode=f"{mount.tmpfs_mode:04o}" if mount.tmpfs_mode else None
        ),
    )


def volume_tree(mount: Mount, key: str, stack: str) -> Tree:
    """The entry under volumes: that a mount rests on, known in the file as `key`."""
    if mount.volume_labels.get(NAMESPACE) != stack:
        return {"external": True} | some(name=mount.source if mount.source != key else None)
    return some(
        name=mount.source if mount.source != f"{stack}_{key}" else None,
        driver=mount.volume_driver.name,
        driver_opts=dict(mount.volume_driver.options),
        labels=own_labels(mount.volume_labels),
    )


# --- where and how it runs --------------------------------------------------------------------------------------------


def _networks(task: TaskSpec, key: str, networks: Mapping[str, str]) -> Tree:
    tree: Tree = {}
    for attachment in task.networks:
        entry = some(
            aliases=[alias for alias in attachment.aliases if alias != key],
            driver_opts=dict(attachment.driver_options),
        )
        for address in attachment.addresses:
            entry["ipv6_address" if ":" in address else "ipv4_address"] = address
        tree[networks.get(attachment.target, attachment.target)] = entry
    return {} if tree == {"default": {}} else tree


def _port(port: PortConfig) -> Tree:
    return {
        "target": port.target_port,
        "protocol": _PROTOCOL_WORDS[port.protocol],
        "mode": _MODE_WORDS[port.publish_mode],
    } | some(
        published=str(port.published_port or ""),
        name=port.name,
        **{PROXY_PROTOCOL: _PROXY_WORDS.get(port.proxy_protocol, "")},
    )


def _deploy(spec: ServiceSpec) -> Tree:
    mode = spec.WhichOneof("mode") or "replicated"
    tree = some(
        mode=mode.replace("_", "-") if mode != "replicated" else None,
        endpoint_mode="dnsrr" if spec.endpoint.mode == EndpointSpec.MODE_DNSRR else None,
        labels=own_labels(spec.annotations.labels),
        placement=some(
            constraints=list(spec.task.placement.constraints),
            preferences=[{"spread": each.spread.descriptor} for each in spec.task.placement.preferences],
            max_replicas_per_node=spec.task.placement.max_replicas or None,
        ),
        resources=some(
            limits=_amounts(spec.task.resources.limits, spec.task.resources.pids_limit),
            reservations=_amounts(spec.task.resources.reservations),
        ),
        restart_policy=_restart(spec.task.restart),
        update_config=_update(spec.update) if spec.HasField("update") else None,
        rollback_config=_update(spec.rollback) if spec.HasField("rollback") else None,
    )
    if mode == "replicated":
        tree["replicas"] = spec.replicated.replicas if spec.replicated.HasField("replicas") else 1
    elif mode == "replicated_job":
        tree["replicas"] = spec.replicated_job.total_completions
    return tree


def _amounts(resources: Resources, pids: int = 0) -> Tree:
    return some(
        cpus=format_cpus(resources.nano_cpus) if resources.nano_cpus else None,
        memory=str(resources.memory_bytes or ""),
        pids=pids or None,
        generic_resources=[
            {"discrete_resource_spec": {"kind": each.kind, "value": each.count}} for each in resources.generic
        ],
    )


def _restart(restart: RestartPolicy) -> Tree:
    condition = _word(RestartPolicy.Condition.Name(restart.condition), "CONDITION_")
    return some(
        condition=condition if condition != "any" else None,
        delay=_duration(restart, "delay", RESTART_DELAY_SECONDS),
        max_attempts=restart.max_attempts or None,
        window=_duration(restart, "window", 0),
    )


def _update(update: UpdateConfig) -> Tree:
    action = _word(UpdateConfig.FailureAction.Name(update.failure_action), "FAILURE_ACTION_")
    order = _word(UpdateConfig.Order.Name(update.order), "ORDER_")
    tree = some(
        delay=_duration(update, "delay", 0),
        failure_action=action if action != "pause" else None,
        monitor=_duration(update, "monitor", MONITOR_SECONDS),
        max_failure_ratio=f"{round(update.max_failure_ratio, 6):g}" if update.max_failure_ratio else None,
        order=order if order != "stop-first" else None,
    )
    if update.parallelism != PARALLELISM:
        tree["parallelism"] = update.parallelism
    return tree


def network_tree(spec: NetworkSpec, key: str, stack: str) -> Tree:
    """A network of the stack, known in the file as `key`."""
    return some(
        name=spec.annotations.name if spec.annotations.name != f"{stack}_{key}" else None,
        driver=spec.driver.name if spec.driver.name not in ("", "overlay") else None,
        driver_opts=dict(spec.driver.options),
        internal=spec.internal,
        attachable=spec.attachable,
        enable_ipv6=spec.ipv6_enabled,
        labels=own_labels(spec.annotations.labels),
        ipam=some(
            config=[
                some(subnet=each.subnet, ip_range=each.range, gateway=each.gateway, aux_addresses=dict(each.reserved))
                for each in spec.ipam
            ]
        ),
    )


def mounts_of(services: Iterable[ServiceSpec]) -> Iterable[Mount]:
    """All mounts of named volumes."""
    for spec in services:
        for mount in spec.task.container.mounts:
            if mount.type == Mount.TYPE_VOLUME and mount.source:
                yield mount
