"""HostConfig as `docker inspect` shows it: every field there is, as it was asked for and as it is by now. Pure.

Tools compare it with what they want (Ansible, watchtower, dashboards that make a container anew), so what is missing is
to them as wrong as what differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flota.gateway.translation.container import network_mode
from flota.gateway.translation.fields import Fields
from flota.gateway.translation.words import word
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.objects_pb2 import Task
from flota.v1.security_options import written
from flota.v1.types_pb2 import Mount, PortConfig, RestartPolicy

Json = dict[str, Any]
_SHM = "/dev/shm"
_SHM_BYTES = 64 << 20
# What Docker shows of a container of which nothing was asked.
_USUAL: Mapping[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "default",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": _SHM_BYTES,
    "Runtime": "crun",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": [],
    "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [],
    "BlkioDeviceReadIOps": [],
    "BlkioDeviceWriteIOps": [],
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": [],
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": None,
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
    "MaskedPaths": [],
    "ReadonlyPaths": [],
}
# Shown as they were asked for: flota has them in other words, or not in so many.
_AS_ASKED: Mapping[str, type] = {
    "NetworkMode": str,
    "PortBindings": dict,
    "Binds": list,
    "Mounts": list,
    "Tmpfs": dict,
    "Links": list,
    "ConsoleSize": list,
    "ContainerIDFile": str,
    "PublishAllPorts": bool,
    "CpuPeriod": int,
    "CpuQuota": int,
    "Dns": list,
    "DnsOptions": list,
    "DnsSearch": list,
    "ExtraHosts": list,
    "Annotations": dict,
}
_CONFIG_AS_ASKED: Mapping[str, type] = {
    "Domainname": str,
    "AttachStdin": bool,
    "AttachStdout": bool,
    "AttachStderr": bool,
    "StdinOnce": bool,
    "StopTimeout": int,
    "ExposedPorts": dict,
}


def asked_to_remember(given: Fields, host: Fields) -> bytes:
    """What `docker inspect` shall show of POST /containers/create as it was said."""
    kept = {
        "Config": _kept(given, _CONFIG_AS_ASKED),
        "HostConfig": _kept(host, _AS_ASKED),
    }
    return json.dumps(kept, separators=(",", ":")).encode() if any(kept.values()) else b""


def _kept(given: Fields, names: Mapping[str, type]) -> Json:
    """Those that say something, and are of the type that clients read them as."""
    return {name: value for name, kind in names.items() if (value := given.raw(name)) and type(value) is kind}


def _asked(plain: PlainContainer | None, part: str) -> Json:
    return json.loads(plain.asked).get(part, {}) if plain is not None and plain.asked else {}


def config_as_asked(plain: PlainContainer | None) -> Json:
    """Of Config, as it was asked for; nothing of a task."""
    return _asked(plain, "Config")


def host_config(task: Task, plain: PlainContainer | None) -> Json:
    """Of a task, or of a container without a service."""
    spec, resources = task.spec.container, task.spec.resources
    limits = resources.limits
    shown = dict(_USUAL) | _by_its_spec(task) | _asked(plain, "HostConfig")
    period, quota = shown["CpuPeriod"], shown["CpuQuota"]
    return shown | {
        "RestartPolicy": _restart_policy(plain),
        "AutoRemove": plain is not None and plain.auto_remove,
        "ReadonlyRootfs": spec.read_only,
        # Said as a quota, it is shown as one.
        "NanoCpus": 0 if quota > 0 and quota * 10**9 // (period or 100_000) == limits.nano_cpus else limits.nano_cpus,
        "Memory": limits.memory_bytes,
        "MemorySwap": resources.memory_swap_bytes or 2 * limits.memory_bytes,
        "MemoryReservation": resources.reservations.memory_bytes,
        "MemorySwappiness": resources.memory_swappiness if resources.HasField("memory_swappiness") else None,
        "PidsLimit": resources.pids_limit or None,
        "CpuShares": resources.cpu_shares,
        "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems,
    }


def _by_its_spec(task: Task) -> Json:
    spec = task.spec.container
    said: Json = {
        "NetworkMode": network_mode(task),
        "PortBindings": port_map(task.endpoint.ports) if not task.service_id else {},
        "Binds": _binds(spec.mounts) if not task.service_id else [],
        "CapAdd": [*spec.capability_add],
        "CapDrop": [*spec.capability_drop],
        "Dns": [*spec.dns.nameservers],
        "DnsOptions": [*spec.dns.options],
        "DnsSearch": [*spec.dns.search],
        "ExtraHosts": [f"{name}:{address}" for address, _, name in (line.partition(" ") for line in spec.hosts)],
        "GroupAdd": [*spec.groups],
        "OomScoreAdj": spec.oom_score_adj,
        "SecurityOpt": written(no_new_privileges=spec.no_new_privileges, seccomp_unconfined=spec.seccomp_unconfined),
        "Ulimits": [{"Name": each.name, "Hard": each.hard, "Soft": each.soft} for each in spec.ulimits],
        "Sysctls": dict(spec.sysctls),
        "Init": spec.init,
        "Devices": [
            {
                "PathOnHost": each.source,
                "PathInContainer": each.target or each.source,
                "CgroupPermissions": each.permissions or "rwm",
            }
            for each in spec.devices
        ],
        "ShmSize": next((each.tmpfs_size_bytes for each in spec.mounts if each.target == _SHM), 0),
    }
    if task.log_driver.name or task.log_driver.options:
        said["LogConfig"] = {"Type": task.log_driver.name or "json-file", "Config": dict(task.log_driver.options)}
    return {name: value for name, value in said.items() if value}


def _binds(mounts: Iterable[Mount]) -> list[str]:
    return [
        f"{each.source}:{each.target}{':ro' if each.read_only else ''}"
        for each in mounts
        if each.source and each.type != Mount.TYPE_TMPFS
    ]


def port_map(given: Iterable[PortConfig], address: str = "") -> Json:
    """Published ports by those of the container. `address` is that of ports on all of the node's."""
    found: Json = {}
    for port in given:
        key = f"{port.target_port}/{word(PortConfig.Protocol.Name(port.protocol), 'PROTOCOL_')}"
        number = str(port.published_port) if port.published_port else ""
        found.setdefault(key, []).append({"HostIp": port.host_address or address, "HostPort": number})
    return found


def _restart_policy(plain: PlainContainer | None) -> Json:
    policy = plain.task.spec.restart if plain is not None else RestartPolicy(condition=RestartPolicy.CONDITION_NONE)
    name = {RestartPolicy.CONDITION_NONE: "no", RestartPolicy.CONDITION_ON_FAILURE: "on-failure"}.get(
        policy.condition, "unless-stopped" if plain is not None and plain.unless_stopped else "always"
    )
    return {"Name": name, "MaximumRetryCount": policy.max_attempts}
