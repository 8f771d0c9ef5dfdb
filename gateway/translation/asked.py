"""What Docker's clients ask for, as flota's specs: the way back from `shown`.

Fields that Docker has and flota has not are ignored when they change nothing, and refused when somebody relies on
them. Raises InvalidArgument and Unsupported with the field's path, its value and what is allowed.
"""

from __future__ import annotations

import base64
import binascii

from google.protobuf.message import Message

from flota.gateway.translation.containers import container_spec
from flota.gateway.translation.fields import PORTS, UINT64, Fields
from flota.gateway.translation.words import duration_message
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1 import specs_pb2 as specs
from flota.v1 import types_pb2 as types

# --- services -----------------------------------------------------------------------------------------------------


def service_spec(given: Fields) -> specs.ServiceSpec:
    """The spec of POST /services/create and /services/{id}/update."""
    spec = specs.ServiceSpec(annotations=named(given))
    _set(spec.task, task_spec(given.part("TaskTemplate"), given))
    _mode(given.part("Mode"), spec)
    for name, field in (("UpdateConfig", spec.update), ("RollbackConfig", spec.rollback)):
        if given.has(name):
            _set(field, update_config(given.part(name)), keep=True)
    if given.has("EndpointSpec"):
        _set(spec.endpoint, endpoint_spec(given.part("EndpointSpec")), keep=True)
    spec.depends_on.extend(
        types.Dependency(
            service=each.text("Service"),
            condition=each.choice("Condition", types.Dependency.Condition, "CONDITION_"),
        )
        for each in given.parts("DependsOn")
    )
    spec.rebalance = given.choice("Rebalance", types.RebalancePolicy, "REBALANCE_POLICY_")
    spec.stopped = given.flag("Stopped")
    return spec


def named(given: Fields) -> types.Annotations:
    """Name and labels."""
    return types.Annotations(name=given.text("Name"), labels=given.labels("Labels"))


def _mode(given: Fields, spec: specs.ServiceSpec) -> None:
    names = ("Replicated", "Global", "ReplicatedJob", "GlobalJob")
    there = [name for name in names if given.has(name)]
    if len(there) > 1:
        raise InvalidArgument.of(given.path, " and ".join(there), f"one of {', '.join(names)} is needed")
    match there[0] if there else "Replicated":
        case "Replicated":
            spec.replicated.SetInParent()
            replicated = given.part("Replicated")
            if replicated.has("Replicas"):
                spec.replicated.replicas = replicated.number("Replicas", UINT64)
        case "Global":
            getattr(spec, "global").SetInParent()
        case "ReplicatedJob":
            job = given.part("ReplicatedJob")
            spec.replicated_job.SetInParent()
            spec.replicated_job.max_concurrent = job.number("MaxConcurrent", UINT64)
            spec.replicated_job.total_completions = job.number("TotalCompletions", UINT64)
        case _:
            spec.global_job.SetInParent()


def task_spec(given: Fields, around: Fields | None = None) -> specs.TaskSpec:
    """TaskTemplate. `around` is the service's spec, where old clients put the networks."""
    runtime = given.text("Runtime")
    if runtime not in ("", "container") or given.has("PluginSpec") or given.has("NetworkAttachmentSpec"):
        raise Unsupported(f"invalid {given.at('Runtime')} {runtime!r}: flota's tasks are containers")
    spec = specs.TaskSpec(
        container=container_spec(given.part("ContainerSpec")), force_update=given.number("ForceUpdate", UINT64)
    )
    _set(spec.resources, _requirements(given.part("Resources")))
    if given.has("RestartPolicy"):
        _set(spec.restart, _restart(given.part("RestartPolicy")), keep=True)
    _set(spec.placement, _placement(given.part("Placement")))
    networks = given.parts("Networks") or (around.parts("Networks") if around is not None else [])
    spec.networks.extend(
        types.NetworkAttachmentConfig(
            target=each.text("Target"),
            aliases=each.texts("Aliases"),
            addresses=each.texts("Addresses"),
            driver_options=each.labels("DriverOpts"),
        )
        for each in networks
    )
    _set(spec.log_driver, driver(given.part("LogDriver")))
    return spec


def driver(given: Fields) -> types.Driver:
    """A driver and its options."""
    return types.Driver(name=given.text("Name"), options=given.labels("Options"))


def _requirements(given: Fields) -> types.ResourceRequirements:
    limits, reservations = given.part("Limits"), given.part("Reservations")
    asked = types.ResourceRequirements(pids_limit=limits.number("Pids"), memory_swap_bytes=given.number("SwapBytes"))
    if given.has("MemorySwappiness"):
        asked.memory_swappiness = given.number("MemorySwappiness")
    _set(asked.limits, _resources(limits))
    _set(asked.reservations, _resources(reservations))
    return asked


def _resources(given: Fields) -> types.Resources:
    asked = types.Resources(nano_cpus=given.number("NanoCPUs"), memory_bytes=given.number("MemoryBytes"))
    for each in given.parts("GenericResources"):
        named, counted = each.part("NamedResourceSpec"), each.part("DiscreteResourceSpec")
        if named:
            asked.generic.add(kind=named.text("Kind"), name=named.text("Value"))
        else:
            asked.generic.add(kind=counted.text("Kind"), count=counted.number("Value"))
    return asked


def _restart(given: Fields) -> types.RestartPolicy:
    return types.RestartPolicy(
        condition=given.choice("Condition", types.RestartPolicy.Condition, "CONDITION_"),
        delay=given.duration("Delay"),
        max_attempts=given.number("MaxAttempts", UINT64),
        window=given.duration("Window"),
    )


def _placement(given: Fields) -> types.Placement:
    return types.Placement(
        constraints=given.texts("Constraints"),
        preferences=[
            types.PlacementPreference(spread=types.SpreadOver(descriptor=each.part("Spread").text("SpreadDescriptor")))
            for each in given.parts("Preferences")
        ],
        max_replicas=given.number("MaxReplicas", UINT64),
        platforms=[
            types.Platform(architecture=each.text("Architecture"), os=each.text("OS"))
            for each in given.parts("Platforms")
        ],
        strategy=given.choice("Strategy", types.PlacementStrategy, "PLACEMENT_STRATEGY_"),
    )


def update_config(given: Fields) -> types.UpdateConfig:
    """UpdateConfig and RollbackConfig."""
    config = types.UpdateConfig
    return config(
        parallelism=given.number("Parallelism", UINT64),
        delay=given.duration("Delay"),
        failure_action=given.choice("FailureAction", config.FailureAction, "FAILURE_ACTION_"),
        # Docker's server takes 0 for "the default" here.
        monitor=given.duration("Monitor") if given.number("Monitor") else None,
        max_failure_ratio=given.ratio("MaxFailureRatio"),
        order=given.choice("Order", config.Order, "ORDER_"),
    )


def endpoint_spec(given: Fields) -> types.EndpointSpec:
    """How a service is reached."""
    return types.EndpointSpec(
        mode=given.choice("Mode", types.EndpointSpec.Mode, "MODE_"),
        ports=[port(each) for each in given.parts("Ports")],
    )


def port(given: Fields) -> types.PortConfig:
    """One published port."""
    config = types.PortConfig
    return config(
        name=given.text("Name"),
        protocol=given.choice("Protocol", config.Protocol, "PROTOCOL_"),
        target_port=given.number("TargetPort", PORTS),
        published_port=given.number("PublishedPort", PORTS),
        publish_mode=given.choice("PublishMode", config.PublishMode, "PUBLISH_MODE_"),
        proxy_protocol=given.choice("ProxyProtocol", config.ProxyProtocol, "PROXY_PROTOCOL_"),
    )


# --- nodes, files, networks, the cluster --------------------------------------------------------------------------


def node_spec(given: Fields) -> specs.NodeSpec:
    """POST /nodes/{id}/update"""
    return specs.NodeSpec(
        annotations=named(given),
        desired_role=given.choice("Role", types.NodeRole, "NODE_ROLE_"),
        availability=given.choice("Availability", types.NodeAvailability, "NODE_AVAILABILITY_"),
    )


def secret_spec(given: Fields) -> specs.SecretSpec:
    """POST /secrets/create"""
    return specs.SecretSpec(
        annotations=named(given), data=_data(given), template_driver=_template_driver(given, "secret")
    )


def config_spec(given: Fields) -> specs.ConfigSpec:
    """POST /configs/create"""
    return specs.ConfigSpec(
        annotations=named(given), data=_data(given), template_driver=_template_driver(given, "config")
    )


def _data(given: Fields) -> bytes:
    # Go writes the standard alphabet; Docker's documentation speaks of the other one.
    text = given.text("Data").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        # It may be a secret: not a word of it. Swarmpit tries again with base64 when an answer begins so.
        raise InvalidArgument(f"illegal base64 data in {given.at('Data')}") from None


def _template_driver(given: Fields, kind: str) -> str:
    if given.has("Driver"):
        raise Unsupported(f"invalid Driver {given.part('Driver').text('Name')!r}: {kind} drivers are not supported")
    return given.part("Templating").text("Name")


def network_spec(given: Fields) -> specs.NetworkSpec:
    """POST /networks/create"""
    if given.flag("ConfigOnly") or given.part("ConfigFrom").text("Network"):
        raise Unsupported("networks that take their configuration from others are not supported")
    ipam = given.part("IPAM")
    if ipam.text("Driver") not in ("", "default"):
        raise Unsupported(f"invalid IPAM.Driver {ipam.text('Driver')!r}: only default is supported")
    options = given.labels("Options")
    if "encrypted" in options and options["encrypted"].lower() in ("", "1", "t", "true"):
        options = options | {"encrypted": ""}
    spec = specs.NetworkSpec(
        annotations=named(given),
        ipv6_enabled=given.flag("EnableIPv6"),
        internal=given.flag("Internal"),
        attachable=given.flag("Attachable"),
        ingress=given.flag("Ingress"),
        ipam=[
            types.IpamConfig(
                subnet=each.text("Subnet"),
                range=each.text("IPRange"),
                gateway=each.text("Gateway"),
                reserved=each.labels("AuxiliaryAddresses"),
            )
            for each in ipam.parts("Config")
        ],
    )
    _set(spec.driver, types.Driver(name=given.text("Driver"), options=options))
    return spec


def cluster_spec(given: Fields) -> specs.ClusterSpec:
    """The Spec of POST /swarm/init, and POST /swarm/update."""
    authority = given.part("CAConfig")
    if authority.items("ExternalCAs"):
        raise Unsupported("invalid CAConfig.ExternalCAs: the swarm's managers sign its certificates")
    spec = specs.ClusterSpec(annotations=named(given))
    history = given.part("Orchestration")
    if history.has("TaskHistoryRetentionLimit"):
        spec.orchestration.task_history_retention_limit = history.number("TaskHistoryRetentionLimit")
    raft = given.part("Raft")
    asked = specs.RaftConfig(
        snapshot_interval=raft.number("SnapshotInterval", UINT64),
        keep_old_snapshots=raft.number("KeepOldSnapshots", UINT64),
        log_entries_for_slow_followers=raft.number("LogEntriesForSlowFollowers", UINT64),
    )
    if lease := raft.number("ReadLease", UINT64):
        asked.read_lease.CopyFrom(duration_message(lease))
    _set(spec.raft, asked)
    if period := given.part("Dispatcher").number("HeartbeatPeriod"):
        spec.dispatcher.heartbeat_period.CopyFrom(duration_message(period))
    if expiry := authority.number("NodeCertExpiry"):
        spec.ca.node_cert_expiry.CopyFrom(duration_message(expiry))
    spec.ca.force_rotate = authority.number("ForceRotate", UINT64)
    spec.ca.signing_certificate = authority.text("SigningCACert").encode()
    spec.ca.signing_key = authority.text("SigningCAKey").encode()
    if given.part("EncryptionConfig").flag("AutoLockManagers"):
        spec.encryption.auto_lock_managers = True
    if given.flag("EncryptNetworks"):
        spec.encryption.encrypt_networks = True
    _set(spec.default_log_driver, driver(given.part("TaskDefaults").part("LogDriver")))
    spec.strategy = given.choice("Strategy", types.PlacementStrategy, "PLACEMENT_STRATEGY_")
    spec.rebalance = given.choice("Rebalance", types.RebalancePolicy, "REBALANCE_POLICY_")
    return spec


def _set(field: Message, value: Message, keep: bool = False) -> None:
    """Make a message's part equal to `value`; an empty one is left unset unless `keep`."""
    if keep or value.ByteSize():
        field.CopyFrom(value)
