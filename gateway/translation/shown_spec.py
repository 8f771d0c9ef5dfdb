"""The spec of a service, and of each of its tasks, in the shape of Docker's API (moby api/swagger.yaml).

What flota has and Docker has not is added under names of the same style. `asked` is the way back.
"""

from __future__ import annotations

from collections.abc import Iterable

from flota.gateway.translation.shapes import Json, driver, named, nanoseconds, some
from flota.gateway.translation.words import word
from flota.v1 import specs_pb2 as specs
from flota.v1 import types_pb2 as types


def service_spec(spec: specs.ServiceSpec) -> Json:
    """The spec of POST /services/create."""
    shape = named(spec.annotations) | {"TaskTemplate": task_spec(spec.task), "Mode": service_mode(spec)}
    if spec.HasField("update"):
        shape["UpdateConfig"] = _update_config(spec.update)
    if spec.HasField("rollback"):
        shape["RollbackConfig"] = _update_config(spec.rollback)
    shape["EndpointSpec"] = endpoint_spec(spec.endpoint)
    if spec.depends_on:
        # Docker has no such thing.
        shape["DependsOn"] = [
            {"Service": each.service, "Condition": word(types.Dependency.Condition.Name(each.condition), "CONDITION_")}
            for each in spec.depends_on
        ]
    # These, too.
    return shape | some(Rebalance=rebalance(spec.rebalance), Stopped=spec.stopped or None)


def rebalance(policy: types.RebalancePolicy.ValueType) -> str:
    """off, on-join or always; empty when the spec leaves it to the cluster."""
    return word(types.RebalancePolicy.Name(policy), "REBALANCE_POLICY_") if policy else ""


def strategy(strategy: types.PlacementStrategy.ValueType) -> str:
    """spread or binpack; empty when the spec leaves it to the cluster."""
    return word(types.PlacementStrategy.Name(strategy), "PLACEMENT_STRATEGY_") if strategy else ""


def service_mode(spec: specs.ServiceSpec) -> Json:
    """{"Replicated": {"Replicas": 3}} and its three sisters."""
    match spec.WhichOneof("mode"):
        case "global":
            return {"Global": {}}
        case "replicated_job":
            job = spec.replicated_job
            return {"ReplicatedJob": {"MaxConcurrent": job.max_concurrent, "TotalCompletions": job.total_completions}}
        case "global_job":
            return {"GlobalJob": {}}
    replicas = spec.replicated.replicas if spec.replicated.HasField("replicas") else 1
    return {"Replicated": {"Replicas": replicas}}


def task_spec(spec: specs.TaskSpec) -> Json:
    """TaskTemplate of a service, Spec of a task."""
    shape: Json = {"ContainerSpec": container_spec(spec.container)}
    shape["Resources"] = _resources(spec.resources)
    if spec.HasField("restart"):
        shape["RestartPolicy"] = some(
            Condition=word(types.RestartPolicy.Condition.Name(spec.restart.condition), "CONDITION_"),
            Delay=nanoseconds(spec.restart, "delay"),
            Window=nanoseconds(spec.restart, "window"),
        ) | {"MaxAttempts": spec.restart.max_attempts}
    shape["Placement"] = _placement(spec.placement)
    shape |= some(
        Networks=[
            some(
                Target=each.target,
                Aliases=list(each.aliases),
                Addresses=list(each.addresses),
                DriverOpts=dict(each.driver_options),
            )
            for each in spec.networks
        ],
        LogDriver=driver(spec.log_driver),
    )
    return shape | {"ForceUpdate": spec.force_update, "Runtime": "container"}


def container_spec(spec: specs.ContainerSpec) -> Json:
    """What runs in each task. Registry credentials stay out."""
    shape = some(
        Image=spec.image,
        Labels=dict(spec.labels),
        Command=list(spec.command),
        Args=list(spec.args),
        Hostname=spec.hostname,
        Env=list(spec.env),
        Dir=spec.dir,
        User=spec.user,
        Groups=list(spec.groups),
        TTY=spec.tty or None,
        OpenStdin=spec.open_stdin or None,
        ReadOnly=spec.read_only or None,
        Mounts=[mount(each) for each in spec.mounts],
        StopSignal=spec.stop_signal,
        StopGracePeriod=nanoseconds(spec, "stop_grace_period"),
        Hosts=list(spec.hosts),
        Secrets=[
            {"File": _file(each.file), "SecretID": each.secret_id, "SecretName": each.secret_name}
            for each in spec.secrets
        ],
        Configs=[
            {"File": _file(each.file), "ConfigID": each.config_id, "ConfigName": each.config_name}
            for each in spec.configs
        ],
        Init=spec.init or None,
        Sysctls=dict(spec.sysctls),
        CapabilityAdd=list(spec.capability_add),
        CapabilityDrop=list(spec.capability_drop),
        Ulimits=[{"Name": each.name, "Hard": each.hard, "Soft": each.soft} for each in spec.ulimits],
        OomScoreAdj=spec.oom_score_adj or None,
        Privileges=some(
            NoNewPrivileges=spec.no_new_privileges or None,
            Seccomp={"Mode": "unconfined"} if spec.seccomp_unconfined else None,
        ),
        Devices=[
            {"PathOnHost": each.source, "PathInContainer": each.target, "CgroupPermissions": each.permissions}
            for each in spec.devices
        ],
    )
    if spec.HasField("healthcheck"):
        check = spec.healthcheck
        action = word(types.HealthConfig.Action.Name(check.action), "ACTION_") if check.action else ""
        shape["Healthcheck"] = healthcheck(check) | some(Action=action)
    if spec.HasField("dns"):
        shape["DNSConfig"] = some(
            Nameservers=list(spec.dns.nameservers), Search=list(spec.dns.search), Options=list(spec.dns.options)
        )
    return shape


def healthcheck(check: types.HealthConfig) -> Json:
    """What to run, and when."""
    return some(
        Test=list(check.test),
        Interval=nanoseconds(check, "interval"),
        Timeout=nanoseconds(check, "timeout"),
        StartPeriod=nanoseconds(check, "start_period"),
        StartInterval=nanoseconds(check, "start_interval"),
        Retries=check.retries or None,
    )


def mount(mount: types.Mount) -> Json:
    """One entry of Mounts."""
    kind = word(types.Mount.Type.Name(mount.type), "TYPE_")
    shape = some(Type=kind, Source=mount.source, Target=mount.target, ReadOnly=mount.read_only or None)
    if kind == "bind":
        shape |= some(
            BindOptions=some(
                Propagation=word(types.Mount.Propagation.Name(mount.bind_propagation), "PROPAGATION_")
                if mount.bind_propagation
                else None,
                NonRecursive=mount.bind_nonrecursive or None,
                ReadOnlyNonRecursive=mount.bind_writable_below or None,
                CreateMountpoint=mount.bind_create_source or None,
            )
        )
    elif kind == "volume":
        shape |= some(
            VolumeOptions=some(
                NoCopy=mount.volume_nocopy or None,
                Affinity="node" if mount.volume_node_affinity else None,
                Labels=dict(mount.volume_labels),
                Subpath=mount.volume_subpath,
                DriverConfig=driver(mount.volume_driver),
            )
        )
    else:
        shape |= some(
            TmpfsOptions=some(SizeBytes=mount.tmpfs_size_bytes or None, Mode=mount.tmpfs_mode or None),
        )
    return shape


def _file(file: types.FileTarget) -> Json:
    return {"Name": file.name, "UID": file.uid, "GID": file.gid, "Mode": file.mode}


def _resources(requirements: types.ResourceRequirements) -> Json:
    def amounts(resources: types.Resources, pids: int = 0) -> Json:
        return some(
            NanoCPUs=resources.nano_cpus or None,
            MemoryBytes=resources.memory_bytes or None,
            Pids=pids or None,
            GenericResources=generic_resources(resources.generic),
        )

    return some(
        Limits=amounts(requirements.limits, requirements.pids_limit),
        Reservations=amounts(requirements.reservations),
        SwapBytes=requirements.memory_swap_bytes or None,
        MemorySwappiness=requirements.memory_swappiness if requirements.HasField("memory_swappiness") else None,
    )


def generic_resources(resources: Iterable[types.GenericResource]) -> list[Json]:
    """Counted and named resources."""
    return [
        {"NamedResourceSpec": {"Kind": each.kind, "Value": each.name}}
        if each.name
        else {"DiscreteResourceSpec": {"Kind": each.kind, "Value": each.count}}
        for each in resources
    ]


def _placement(placement: types.Placement) -> Json:
    return some(
        Constraints=list(placement.constraints),
        Preferences=[{"Spread": {"SpreadDescriptor": each.spread.descriptor}} for each in placement.preferences],
        MaxReplicas=placement.max_replicas or None,
        Platforms=[platform(each) for each in placement.platforms],
        Strategy=strategy(placement.strategy),
    )


def platform(platform: types.Platform) -> Json:
    """What an image or a node is made for."""
    return {"Architecture": platform.architecture, "OS": platform.os}


def _update_config(config: types.UpdateConfig) -> Json:
    return some(
        Delay=nanoseconds(config, "delay"),
        FailureAction=word(types.UpdateConfig.FailureAction.Name(config.failure_action), "FAILURE_ACTION_"),
        Monitor=nanoseconds(config, "monitor"),
        Order=word(types.UpdateConfig.Order.Name(config.order), "ORDER_"),
    ) | {"Parallelism": config.parallelism, "MaxFailureRatio": round(config.max_failure_ratio, 6)}


def endpoint_spec(endpoint: types.EndpointSpec) -> Json:
    """How a service is reached."""
    return some(
        Mode=word(types.EndpointSpec.Mode.Name(endpoint.mode), "MODE_"), Ports=[port(each) for each in endpoint.ports]
    )


def _proxy_protocol(port: types.PortConfig) -> str | None:
    """flota's own, so it is not there unless it is asked for."""
    return (
        word(types.PortConfig.ProxyProtocol.Name(port.proxy_protocol), "PROXY_PROTOCOL_")
        if port.proxy_protocol
        else None
    )


def port(port: types.PortConfig) -> Json:
    """One published port."""
    return some(
        Name=port.name,
        Protocol=word(types.PortConfig.Protocol.Name(port.protocol), "PROTOCOL_"),
        TargetPort=port.target_port,
        PublishedPort=port.published_port or None,
        PublishMode=word(types.PortConfig.PublishMode.Name(port.publish_mode), "PUBLISH_MODE_"),
        ProxyProtocol=_proxy_protocol(port),
    )
