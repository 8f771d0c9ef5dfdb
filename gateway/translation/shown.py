"""Messages in the shape of Docker's API (moby api/swagger.yaml): what the gateway answers, and what `inspect` prints.

Only translates; what flota has and Docker has not is added under names of the same style. `asked` is the way back.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from flota.gateway.translation.words import nanoseconds_of, time_of, word
from flota.v1 import objects_pb2 as objects
from flota.v1 import specs_pb2 as specs
from flota.v1 import types_pb2 as types
from flota.v1.control_pb2 import ServiceStatus
from flota.v1.task_states import short_name, task_name

Json = dict[str, Any]
Networks = Mapping[str, objects.Network]
# What every node can do.
PLUGINS = [
    {"Type": "Log", "Name": "json-file"},
    {"Type": "Network", "Name": "overlay"},
    {"Type": "Volume", "Name": "local"},
]


def _some(**values: Any) -> Json:
    """Only what is not empty; Docker leaves the rest out, too."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {}, ())}


def _nanoseconds(message: Any, field: str) -> int | None:
    return nanoseconds_of(getattr(message, field)) if message.HasField(field) else None


def _head(thing: Any) -> Json:
    return {
        "ID": thing.id,
        "Version": {"Index": thing.meta.version.index},
        "CreatedAt": time_of(thing.meta, "created_at"),
        "UpdatedAt": time_of(thing.meta, "updated_at"),
    }


def _named(annotations: types.Annotations) -> Json:
    return {"Name": annotations.name, "Labels": dict(annotations.labels)}


def _driver(driver: types.Driver) -> Json:
    return _some(Name=driver.name, Options=dict(driver.options))


# --- services and tasks -------------------------------------------------------------------------------------------


def service(service: objects.Service) -> Json:
    """GET /services/{id}"""
    shape = _head(service) | {"Spec": service_spec(service.spec)}
    if service.HasField("previous_spec"):
        shape["PreviousSpec"] = service_spec(service.previous_spec)
    shape["Endpoint"] = _some(
        Spec=_endpoint_spec(service.endpoint.spec if service.HasField("endpoint") else service.spec.endpoint),
        Ports=[port(each) for each in service.endpoint.ports],
        VirtualIPs=[{"NetworkID": vip.network_id, "Addr": vip.address} for vip in service.endpoint.virtual_ips],
    )
    if service.update_status.state:
        status = service.update_status
        shape["UpdateStatus"] = _some(
            State=word(types.UpdateStatus.State.Name(status.state), "STATE_", "_"),
            StartedAt=time_of(status, "started_at") if status.HasField("started_at") else None,
            CompletedAt=time_of(status, "completed_at") if status.HasField("completed_at") else None,
            Message=status.message,
        )
    if service.HasField("job_status"):
        shape["JobStatus"] = {
            "JobIteration": {"Index": service.job_status.iteration.index},
            "LastExecution": time_of(service.job_status, "last_execution"),
        }
    return shape


def service_spec(spec: specs.ServiceSpec) -> Json:
    """The spec of POST /services/create."""
    shape = _named(spec.annotations) | {"TaskTemplate": task_spec(spec.task), "Mode": service_mode(spec)}
    if spec.HasField("update"):
        shape["UpdateConfig"] = _update_config(spec.update)
    if spec.HasField("rollback"):
        shape["RollbackConfig"] = _update_config(spec.rollback)
    shape["EndpointSpec"] = _endpoint_spec(spec.endpoint)
    if spec.depends_on:
        # Docker has no such thing.
        shape["DependsOn"] = [
            {"Service": each.service, "Condition": word(types.Dependency.Condition.Name(each.condition), "CONDITION_")}
            for each in spec.depends_on
        ]
    # These, too.
    return shape | _some(Rebalance=_rebalance(spec.rebalance), Stopped=spec.stopped or None)


def _rebalance(policy: types.RebalancePolicy.ValueType) -> str:
    return word(types.RebalancePolicy.Name(policy), "REBALANCE_POLICY_") if policy else ""


def _strategy(strategy: types.PlacementStrategy.ValueType) -> str:
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
        shape["RestartPolicy"] = _some(
            Condition=word(types.RestartPolicy.Condition.Name(spec.restart.condition), "CONDITION_"),
            Delay=_nanoseconds(spec.restart, "delay"),
            Window=_nanoseconds(spec.restart, "window"),
        ) | {"MaxAttempts": spec.restart.max_attempts}
    shape["Placement"] = _placement(spec.placement)
    shape |= _some(
        Networks=[
            _some(
                Target=each.target,
                Aliases=list(each.aliases),
                Addresses=list(each.addresses),
                DriverOpts=dict(each.driver_options),
            )
            for each in spec.networks
        ],
        LogDriver=_driver(spec.log_driver),
    )
    return shape | {"ForceUpdate": spec.force_update, "Runtime": "container"}


def container_spec(spec: specs.ContainerSpec) -> Json:
    """What runs in each task. Registry credentials stay out."""
    shape = _some(
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
        StopGracePeriod=_nanoseconds(spec, "stop_grace_period"),
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
        Devices=[
            {"PathOnHost": each.source, "PathInContainer": each.target, "CgroupPermissions": each.permissions}
            for each in spec.devices
        ],
    )
    if spec.HasField("healthcheck"):
        check = spec.healthcheck
        shape["Healthcheck"] = _some(
            Test=list(check.test),
            Interval=_nanoseconds(check, "interval"),
            Timeout=_nanoseconds(check, "timeout"),
            StartPeriod=_nanoseconds(check, "start_period"),
            StartInterval=_nanoseconds(check, "start_interval"),
            Retries=check.retries or None,
            Action=word(types.HealthConfig.Action.Name(check.action), "ACTION_") if check.action else "",
        )
    if spec.HasField("dns"):
        shape["DNSConfig"] = _some(
            Nameservers=list(spec.dns.nameservers), Search=list(spec.dns.search), Options=list(spec.dns.options)
        )
    return shape


def mount(mount: types.Mount) -> Json:
    """One entry of Mounts."""
    kind = word(types.Mount.Type.Name(mount.type), "TYPE_")
    shape = _some(Type=kind, Source=mount.source, Target=mount.target, ReadOnly=mount.read_only or None)
    if kind == "bind":
        shape |= _some(
            BindOptions=_some(
                Propagation=word(types.Mount.Propagation.Name(mount.bind_propagation), "PROPAGATION_")
                if mount.bind_propagation
                else None,
                NonRecursive=mount.bind_nonrecursive or None,
                CreateMountpoint=mount.bind_create_source or None,
            )
        )
    elif kind == "volume":
        shape |= _some(
            VolumeOptions=_some(
                NoCopy=mount.volume_nocopy or None,
                Affinity="node" if mount.volume_node_affinity else None,
                Labels=dict(mount.volume_labels),
                Subpath=mount.volume_subpath,
                DriverConfig=_driver(mount.volume_driver),
            )
        )
    else:
        shape |= _some(
            TmpfsOptions=_some(SizeBytes=mount.tmpfs_size_bytes or None, Mode=mount.tmpfs_mode or None),
        )
    return shape


def _file(file: types.FileTarget) -> Json:
    return {"Name": file.name, "UID": file.uid, "GID": file.gid, "Mode": file.mode}


def _resources(requirements: types.ResourceRequirements) -> Json:
    def amounts(resources: types.Resources, pids: int = 0) -> Json:
        return _some(
            NanoCPUs=resources.nano_cpus or None,
            MemoryBytes=resources.memory_bytes or None,
            Pids=pids or None,
            GenericResources=generic_resources(resources.generic),
        )

    return _some(
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
    return _some(
        Constraints=list(placement.constraints),
        Preferences=[{"Spread": {"SpreadDescriptor": each.spread.descriptor}} for each in placement.preferences],
        MaxReplicas=placement.max_replicas or None,
        Platforms=[_platform(each) for each in placement.platforms],
        Strategy=_strategy(placement.strategy),
    )


def _platform(platform: types.Platform) -> Json:
    return {"Architecture": platform.architecture, "OS": platform.os}


def _update_config(config: types.UpdateConfig) -> Json:
    return _some(
        Delay=_nanoseconds(config, "delay"),
        FailureAction=word(types.UpdateConfig.FailureAction.Name(config.failure_action), "FAILURE_ACTION_"),
        Monitor=_nanoseconds(config, "monitor"),
        Order=word(types.UpdateConfig.Order.Name(config.order), "ORDER_"),
    ) | {"Parallelism": config.parallelism, "MaxFailureRatio": round(config.max_failure_ratio, 6)}


def _endpoint_spec(endpoint: types.EndpointSpec) -> Json:
    return _some(
        Mode=word(types.EndpointSpec.Mode.Name(endpoint.mode), "MODE_"), Ports=[port(each) for each in endpoint.ports]
    )


def port(port: types.PortConfig) -> Json:
    """One published port."""
    return _some(
        Name=port.name,
        Protocol=word(types.PortConfig.Protocol.Name(port.protocol), "PROTOCOL_"),
        TargetPort=port.target_port,
        PublishedPort=port.published_port or None,
        PublishMode=word(types.PortConfig.PublishMode.Name(port.publish_mode), "PUBLISH_MODE_"),
    )


def service_status(status: ServiceStatus) -> Json:
    """ServiceStatus of GET /services?status=true"""
    return {
        "RunningTasks": status.running_tasks,
        "DesiredTasks": status.desired_tasks,
        "CompletedTasks": status.completed_tasks,
    }


def task(task: objects.Task, networks: Networks | None = None) -> Json:
    """GET /tasks/{id}; with `networks` (by id) the task's are shown whole, as Docker does."""
    status = task.status
    shape = _head(task) | {
        "Labels": {},
        "Spec": task_spec(task.spec),
        "ServiceID": task.service_id,
        **_some(Slot=task.slot or None, NodeID=task.node_id),
        "Status": _some(
            Timestamp=time_of(status, "timestamp"),
            State=short_name(status.state).lower(),
            Message=status.message,
            Err=status.error,
        ),
        "DesiredState": short_name(task.desired_state).lower(),
    }
    if status.HasField("container"):
        container = status.container
        shape["Status"]["ContainerStatus"] = {
            "ContainerID": container.container_id,
            "PID": container.pid,
            "ExitCode": container.exit_code,
        } | _some(OOMKilled=container.oom_killed or None)
    shape["Status"]["PortStatus"] = _some(Ports=[port(each) for each in status.ports.ports])
    shape |= _some(
        NetworksAttachments=[
            {"Network": _network_of(each.network_id, networks or {}), "Addresses": list(each.addresses)}
            for each in task.networks
        ],
        GenericResources=generic_resources(task.assigned_generic),
    )
    if task.HasField("job_iteration"):
        shape["JobIteration"] = {"Index": task.job_iteration.index}
    return shape


def _network_of(id: str, networks: Networks) -> Json:
    known = networks.get(id)
    if known is None:
        return {"ID": id}
    spec = _named(known.spec.annotations) | {
        "DriverConfiguration": {"Name": known.spec.driver.name or "overlay"},
        "Attachable": known.spec.attachable,
        "Ingress": known.spec.ingress,
        "Internal": known.spec.internal,
        "IPv6Enabled": known.spec.ipv6_enabled,
        "Scope": "swarm",
    }
    driver = {"Name": known.spec.driver.name or "overlay", "Options": _network_options(known)}
    return _head(known) | {
        "Spec": spec,
        "DriverState": driver,
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": _ipam(known)},
    }


# --- nodes ------------------------------------------------------------------------------------------------------


def node(node: objects.Node) -> Json:
    """GET /nodes/{id}"""
    description = node.description
    shape = _head(node) | {
        "Spec": _named(node.spec.annotations)
        | {"Role": role(node.spec.desired_role), "Availability": availability(node.spec.availability)},
        "Description": {
            "Hostname": description.hostname,
            "Platform": _platform(description.platform),
            "Resources": {
                "NanoCPUs": description.resources.nano_cpus,
                "MemoryBytes": description.resources.memory_bytes,
            }
            | _some(GenericResources=generic_resources(description.resources.generic)),
            "Engine": {"EngineVersion": description.engine.version}
            | _some(Labels=dict(description.engine.labels))
            | {"Plugins": PLUGINS},
        }
        # flota's own: what carries encrypted networks there.
        | _some(
            WireGuard=description.wireguard,
            Pressures=[word(types.NodePressure.Name(one), "NODE_PRESSURE_") for one in description.pressures],
        ),
        "Status": _some(
            State=word(types.NodeState.Name(node.status.state), "NODE_STATE_"),
            Message=node.status.message,
            Addr=node.status.address,
        ),
    }
    if node.HasField("usage"):
        usage = node.usage
        # flota's own: how full it is, as its last heartbeat said.
        shape["Usage"] = {
            "MeasuredAt": time_of(usage, "measured_at"),
            "CPU": round(usage.cpu, 4),
            "Load": usage.load,
            "MemoryBytes": {"Total": usage.memory_total, "Available": usage.memory_available},
            "DiskBytes": {"Total": usage.disk_total, "Available": usage.disk_available},
            "Inodes": {"Total": usage.inodes_total, "Available": usage.inodes_available},
            "Pids": {"Limit": usage.pids_limit, "Used": usage.pids},
            "Containers": usage.containers,
        }
    if description.HasField("tls_info"):
        tls = description.tls_info
        shape["Description"]["TLSInfo"] = {
            "TrustRoot": tls.trust_root.decode(errors="replace"),
            "CertIssuerSubject": base64.b64encode(tls.issuer_subject).decode(),
            "CertIssuerPublicKey": base64.b64encode(tls.issuer_public_key).decode(),
        }
    if node.HasField("manager_status"):
        manager = node.manager_status
        shape["ManagerStatus"] = _some(
            Leader=manager.leader or None, Reachability=reachability(manager.reachability), Addr=manager.address
        )
    return shape


def role(role: types.NodeRole.ValueType) -> str:
    """manager or worker"""
    return word(types.NodeRole.Name(role), "NODE_ROLE_")


def availability(value: types.NodeAvailability.ValueType) -> str:
    """active, pause or drain"""
    return word(types.NodeAvailability.Name(value), "NODE_AVAILABILITY_")


def reachability(value: objects.ManagerStatus.Reachability.ValueType) -> str:
    """reachable, unreachable or unknown"""
    return word(objects.ManagerStatus.Reachability.Name(value), "REACHABILITY_")


# --- networks, secrets, configs, cluster ------------------------------------------------------------------------


def network(network: objects.Network) -> Json:
    """GET /networks/{id}; the older shape, with Id and Name at the top."""
    spec = network.spec
    return {
        "Name": spec.annotations.name,
        "Id": network.id,
        "Created": time_of(network.meta, "created_at"),
        "Scope": "swarm",
        "Driver": spec.driver.name or "overlay",
        "EnableIPv4": True,
        "EnableIPv6": spec.ipv6_enabled,
        "IPAM": {"Driver": "default", "Options": None, "Config": _ipam(network)},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": _network_options(network),
        "Labels": dict(spec.annotations.labels),
    }


def _network_options(network: objects.Network) -> dict[str, str]:
    options = dict(network.spec.driver.options)
    if network.vni:
        options.setdefault("com.docker.network.driver.overlay.vxlanid_list", str(network.vni))
    return options


def _ipam(network: objects.Network) -> list[Json]:
    return [
        _some(Subnet=pool.subnet, IPRange=pool.range, Gateway=pool.gateway, AuxiliaryAddresses=dict(pool.reserved))
        for pool in network.ipam or network.spec.ipam
    ]


def endpoints(network: objects.Network, tasks: Iterable[objects.Task]) -> Json:
    """Containers of GET /networks/{id}: those of `tasks` that are on the network, by container."""
    return {
        task.status.container.container_id or task.id: {
            "Name": task_name(task),
            "EndpointID": "",
            "MacAddress": "",
            "IPv4Address": each.addresses[0] if each.addresses else "",
            "IPv6Address": "",
        }
        for task in tasks
        for each in task.networks
        if each.network_id == network.id
    }


def secret(secret: objects.Secret) -> Json:
    """GET /secrets/{id}"""
    spec = _named(secret.spec.annotations)
    if secret.spec.template_driver:
        spec["Templating"] = {"Name": secret.spec.template_driver}
    return _head(secret) | {"Spec": spec}


def config(config: objects.Config) -> Json:
    """GET /configs/{id}"""
    spec = _named(config.spec.annotations) | {"Data": base64.b64encode(config.spec.data).decode()}
    if config.spec.template_driver:
        spec["Templating"] = {"Name": config.spec.template_driver}
    return _head(config) | {"Spec": spec}


def cluster(cluster: objects.Cluster) -> Json:
    """GET /swarm, without anything secret."""
    spec = cluster.spec
    limit = spec.orchestration.task_history_retention_limit
    return _head(cluster) | {
        "Spec": _named(spec.annotations)
        | {
            "Orchestration": {
                "TaskHistoryRetentionLimit": limit if spec.orchestration.HasField("task_history_retention_limit") else 5
            },
            "Raft": {
                "SnapshotInterval": spec.raft.snapshot_interval,
                "KeepOldSnapshots": spec.raft.keep_old_snapshots,
                "LogEntriesForSlowFollowers": spec.raft.log_entries_for_slow_followers,
            },
            "Dispatcher": {"HeartbeatPeriod": nanoseconds_of(spec.dispatcher.heartbeat_period)},
            "CAConfig": {"NodeCertExpiry": nanoseconds_of(spec.ca.node_cert_expiry)},
            "EncryptionConfig": {"AutoLockManagers": spec.encryption.auto_lock_managers},
            "TaskDefaults": _some(LogDriver=_driver(spec.default_log_driver)),
        }
        | _some(Strategy=_strategy(spec.strategy), Rebalance=_rebalance(spec.rebalance)),
        "TLSInfo": {"TrustRoot": cluster.root_ca.certificate.decode(errors="replace")},
        "RootRotationInProgress": False,
        "DefaultAddrPool": list(cluster.address_pools),
        "SubnetSize": cluster.subnet_length,
        "DataPathPort": cluster.data_path_port,
    }


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels in a table's cell: a=1,b=2"""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
