"""Stored objects in the shape of Docker's API (moby api/swagger.yaml): what the gateway answers, what `inspect` prints.

Only translates; what flota has and Docker has not is added under names of the same style.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from flota.gateway.translation.shapes import Json, driver, head, named, some
from flota.gateway.translation.shown_spec import (
    endpoint_spec,
    generic_resources,
    platform,
    port,
    rebalance,
    service_spec,
    strategy,
    task_spec,
)
from flota.gateway.translation.words import nanoseconds_of, time_of, word
from flota.rpc import x509_facts
from flota.v1 import objects_pb2 as objects
from flota.v1 import types_pb2 as types
from flota.v1.control_pb2 import ServiceStatus
from flota.v1.ids import container_id
from flota.v1.mac_addresses import mac_of
from flota.v1.task_states import short_name, task_name

Networks = Mapping[str, objects.Network]
# What every node can do.
PLUGINS = [
    {"Type": "Log", "Name": "json-file"},
    {"Type": "Network", "Name": "overlay"},
    {"Type": "Volume", "Name": "local"},
]


# --- services and tasks ---------------------------------------------------------------------------------------------


def service(service: objects.Service) -> Json:
    """GET /services/{id}"""
    shape = head(service) | {"Spec": service_spec(service.spec)}
    if service.HasField("previous_spec"):
        shape["PreviousSpec"] = service_spec(service.previous_spec)
    shape["Endpoint"] = some(
        Spec=endpoint_spec(service.endpoint.spec if service.HasField("endpoint") else service.spec.endpoint),
        Ports=[port(each) for each in service.endpoint.ports],
        VirtualIPs=[{"NetworkID": vip.network_id, "Addr": vip.address} for vip in service.endpoint.virtual_ips],
    )
    if service.update_status.state:
        status = service.update_status
        shape["UpdateStatus"] = some(
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
    shape = head(task) | {
        "Labels": {},
        "Spec": task_spec(task.spec),
        "ServiceID": task.service_id,
        **some(Slot=task.slot or None, NodeID=task.node_id),
        "Status": some(
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
            "ContainerID": container_id(task.id),
            "PID": container.pid,
            "ExitCode": container.exit_code,
        } | some(OOMKilled=container.oom_killed or None)
    shape["Status"]["PortStatus"] = some(Ports=[port(each) for each in status.ports.ports])
    shape |= some(
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
    spec = named(known.spec.annotations) | {
        "DriverConfiguration": {"Name": known.spec.driver.name or "overlay"},
        "Attachable": known.spec.attachable,
        "Ingress": known.spec.ingress,
        "Internal": known.spec.internal,
        "IPv6Enabled": known.spec.ipv6_enabled,
        "Scope": "swarm",
    }
    driver = {"Name": known.spec.driver.name or "overlay", "Options": _network_options(known)}
    return head(known) | {
        "Spec": spec,
        "DriverState": driver,
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": _ipam(known)},
    }


# --- nodes ----------------------------------------------------------------------------------------------------------


def node(node: objects.Node) -> Json:
    """GET /nodes/{id}"""
    description = node.description
    shape = head(node) | {
        "Spec": named(node.spec.annotations)
        | {"Role": role(node.spec.desired_role), "Availability": availability(node.spec.availability)},
        "Description": {
            "Hostname": description.hostname,
            "Platform": platform(description.platform),
            "Resources": {
                "NanoCPUs": description.resources.nano_cpus,
                "MemoryBytes": description.resources.memory_bytes,
            }
            | some(GenericResources=generic_resources(description.resources.generic)),
            "Engine": {"EngineVersion": description.engine.version}
            | some(Labels=dict(description.engine.labels))
            | {"Plugins": PLUGINS},
        }
        # flota's own: what carries encrypted networks there.
        | some(
            WireGuard=description.wireguard,
            Pressures=[word(types.NodePressure.Name(one), "NODE_PRESSURE_") for one in description.pressures],
        ),
        "Status": some(
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
        shape["ManagerStatus"] = some(
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


# --- networks, secrets, configs, cluster ----------------------------------------------------------------------------


def network_scope(network: objects.Network) -> str:
    """swarm, or local for a network of one node alone."""
    return "swarm" if network.spec.driver.name in ("", "overlay") else "local"


def network(network: objects.Network) -> Json:
    """GET /networks/{id}; the older shape, with Id and Name at the top."""
    spec = network.spec
    return {
        "Name": spec.annotations.name,
        "Id": network.id,
        "Created": time_of(network.meta, "created_at"),
        "Scope": network_scope(network),
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
        some(Subnet=pool.subnet, IPRange=pool.range, Gateway=pool.gateway, AuxiliaryAddresses=dict(pool.reserved))
        for pool in network.ipam or network.spec.ipam
    ]


def endpoints(network: objects.Network, tasks: Iterable[objects.Task]) -> Json:
    """Containers of GET /networks/{id}: those of `tasks` that are on the network, by container."""
    return {
        container_id(task.id): {
            "Name": task_name(task),
            "EndpointID": "",
            "MacAddress": mac_of(each.addresses[0]),
            "IPv4Address": next((one for one in each.addresses if ":" not in one), ""),
            "IPv6Address": next((one for one in each.addresses if ":" in one), ""),
        }
        for task in tasks
        for each in task.networks
        if each.network_id == network.id and each.addresses
    }


def network_services(
    network: objects.Network, services: Sequence[objects.Service], tasks: Iterable[objects.Task]
) -> Json:
    """Services of GET /networks/{id}?verbose=true: who is on the network, with the addresses of their tasks."""
    made: dict[str, Json] = {}
    for service in services:
        addresses = {each.network_id: each.address.partition("/")[0] for each in service.endpoint.virtual_ips}
        if network.id in addresses or any(each.target == network.id for each in service.spec.task.networks):
            made[service.id] = {"VIP": addresses.get(network.id, ""), "Ports": [], "LocalLBIndex": 0, "Tasks": []}
    for task in tasks:
        for each in task.networks:
            if each.network_id == network.id and each.addresses and task.service_id in made:
                address = each.addresses[0].partition("/")[0]
                made[task.service_id]["Tasks"].append(
                    {"Name": task_name(task), "EndpointID": "", "EndpointIP": address}
                )
    names = {service.id: service.spec.annotations.name for service in services}
    return {names[id]: entry for id, entry in made.items()}


def secret(secret: objects.Secret) -> Json:
    """GET /secrets/{id}"""
    spec = named(secret.spec.annotations)
    if secret.spec.template_driver:
        spec["Templating"] = {"Name": secret.spec.template_driver}
    return head(secret) | {"Spec": spec}


def config(config: objects.Config) -> Json:
    """GET /configs/{id}"""
    spec = named(config.spec.annotations) | {"Data": base64.b64encode(config.spec.data).decode()}
    if config.spec.template_driver:
        spec["Templating"] = {"Name": config.spec.template_driver}
    return head(config) | {"Spec": spec}


def _tls_info(root: objects.RootCa) -> Json:
    """Whom nodes trust, and who signs for them: another one while the root is being replaced."""
    shape: Json = {"TrustRoot": root.certificate.decode(errors="replace")}
    if signs := root.rotation.certificate or root.certificate:
        facts = x509_facts.read(signs)
        shape["CertIssuerSubject"] = base64.b64encode(facts.subject_der).decode()
        shape["CertIssuerPublicKey"] = base64.b64encode(facts.public_key_der).decode()
    return shape


def cluster(cluster: objects.Cluster) -> Json:
    """GET /swarm, without anything secret."""
    spec = cluster.spec
    limit = spec.orchestration.task_history_retention_limit
    return head(cluster) | {
        "Spec": named(spec.annotations)
        | {
            "Orchestration": {
                "TaskHistoryRetentionLimit": limit if spec.orchestration.HasField("task_history_retention_limit") else 5
            },
            "Raft": {
                "SnapshotInterval": spec.raft.snapshot_interval,
                "KeepOldSnapshots": spec.raft.keep_old_snapshots,
                "LogEntriesForSlowFollowers": spec.raft.log_entries_for_slow_followers,
                # They are not to be changed, in Docker neither: these are its own.
                "ElectionTick": 10,
                "HeartbeatTick": 1,
            }
            | some(ReadLease=nanoseconds_of(spec.raft.read_lease) or None),
            "Dispatcher": {"HeartbeatPeriod": nanoseconds_of(spec.dispatcher.heartbeat_period)},
            "CAConfig": {
                "NodeCertExpiry": nanoseconds_of(spec.ca.node_cert_expiry),
                "ForceRotate": spec.ca.force_rotate,
            },
            "EncryptionConfig": {"AutoLockManagers": spec.encryption.auto_lock_managers},
            "TaskDefaults": some(LogDriver=driver(spec.default_log_driver)),
        }
        | some(
            Strategy=strategy(spec.strategy),
            Rebalance=rebalance(spec.rebalance),
            EncryptNetworks=spec.encryption.encrypt_networks or None,
        ),
        "TLSInfo": _tls_info(cluster.root_ca),
        "RootRotationInProgress": cluster.root_ca.HasField("rotation"),
        "DefaultAddrPool": list(cluster.address_pools),
        "SubnetSize": cluster.subnet_length,
        "DataPathPort": cluster.data_path_port,
    }
