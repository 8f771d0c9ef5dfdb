"""This machine in the shape of Docker's GET /info and /version."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from flota.gateway.translation.shapes import Json
from flota.gateway.translation.shown import cluster as cluster_shape
from flota.gateway.translation.shown_spec import generic_resources
from flota.gateway.translation.words import word
from flota.v1.local_pb2 import InfoResponse
from flota.v1.objects_pb2 import Cluster, Node
from flota.v1.types_pb2 import NodeRole

# Go's words for processors, and the kernel's.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GO = {kernel: go for go, kernel in _MACHINES.items()}


def is_manager(info: InfoResponse) -> bool:
    """Whether this node can be asked about the cluster."""
    return info.state == InfoResponse.STATE_ACTIVE and info.role == NodeRole.NODE_ROLE_MANAGER


def swarm_header(info: InfoResponse) -> str:
    """The Swarm header of GET /_ping."""
    state = word(InfoResponse.State.Name(info.state), "STATE_")
    if info.state != InfoResponse.STATE_ACTIVE:
        return state
    return f"{state}/{'manager' if is_manager(info) else 'worker'}"


def swarm_of(info: InfoResponse) -> Json:
    """The Swarm section, as far as the machine itself knows it."""
    return {
        "NodeID": info.node_id,
        "NodeAddr": info.node_address,
        "LocalNodeState": word(InfoResponse.State.Name(info.state), "STATE_"),
        "ControlAvailable": is_manager(info),
        "Error": info.error,
        "RemoteManagers": [{"NodeID": each.node_id, "Addr": each.address} for each in info.managers] or None,
    }


def with_cluster(swarm: Json, cluster: Cluster, nodes: list[Node]) -> Json:
    """The Swarm section with what a manager knows besides."""
    managers = sum(1 for node in nodes if node.role == NodeRole.NODE_ROLE_MANAGER)
    return swarm | {"Nodes": len(nodes), "Managers": managers, "Cluster": cluster_shape(cluster)}


def info_of(info: InfoResponse, swarm: Json) -> Json:
    """GET /info"""
    description = info.description
    kernel = os.uname()
    release = _os_release()
    return {
        "ID": info.node_id or description.hostname,
        "Containers": info.containers_running,
        "ContainersRunning": info.containers_running,
        "ContainersPaused": 0,
        "ContainersStopped": 0,
        "Images": info.images,
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "overlayfs"]],
        "SystemStatus": None,
        "Plugins": {"Volume": ["local"], "Network": ["overlay"], "Authorization": None, "Log": ["json-file"]},
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": True,
        "BridgeNfIptables": True,
        "BridgeNfIp6tables": True,
        "Debug": False,
        "OomKillDisable": False,
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1",
        "NEventsListener": 0,
        "KernelVersion": kernel.release,
        "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
        "OSVersion": release.get("VERSION_ID", ""),
        "OSType": description.platform.os or "linux",
        "Architecture": _MACHINES.get(description.platform.architecture, description.platform.architecture),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {"InsecureRegistryCIDRs": ["127.0.0.0/8"], "IndexConfigs": {}, "Mirrors": None},
        "NCPU": int(description.resources.nano_cpus // 1_000_000_000),
        "MemTotal": description.resources.memory_bytes,
        "GenericResources": generic_resources(description.resources.generic) or None,
        "DockerRootDir": info.state_directory,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": description.hostname,
        "Labels": [f"{key}={value}" for key, value in sorted(description.engine.labels.items())],
        "ExperimentalBuild": False,
        "ServerVersion": info.version,
        "Runtimes": {info.runtime: {"path": info.runtime}} if info.runtime else {},
        "DefaultRuntime": info.runtime,
        "Swarm": swarm,
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "catatonit",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": info.runtime_version},
        "InitCommit": {"ID": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Warnings": None,
    }


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def version_of(info: InfoResponse, newest: str, oldest: str) -> Json:
    """GET /version"""
    kernel = os.uname()
    arch = _GO.get(info.description.platform.architecture, info.description.platform.architecture)
    details = {
        "ApiVersion": newest,
        "Arch": arch,
        "Experimental": "false",
        "KernelVersion": kernel.release,
        "MinAPIVersion": oldest,
        "Os": "linux",
    }
    components = [{"Name": "Engine", "Version": info.version, "Details": details}]
    if info.runtime:
        components.append({"Name": info.runtime, "Version": info.runtime_version, "Details": {}})
    return {
        "Platform": {"Name": "flota"},
        "Components": components,
        "Version": info.version,
        "ApiVersion": newest,
        "MinAPIVersion": oldest,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": kernel.release,
        "BuildTime": "",
    }
