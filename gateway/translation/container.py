"""A task of this machine in the shape of one of Docker's containers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flota.gateway.translation.events import container_labels
from flota.gateway.translation.words import NEVER, time_of, word
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal, task_name
from flota.v1.types_pb2 import Mount, PortConfig, TaskState

Json = dict[str, Any]
_STATES = TaskState
STATUSES = ("created", "running", "exited", "restarting", "removing", "paused", "dead")


def container_id(task: Task) -> str:
    """What its container is called."""
    return task.status.container.container_id or task.id


def status(task: Task) -> str:
    """created, running or exited"""
    if is_terminal(task):
        return "exited"
    return "running" if task.status.state >= _STATES.TASK_STATE_STARTING else "created"


def exists(task: Task) -> bool:
    """Whether there is, or was, a container of it."""
    return task.status.state >= _STATES.TASK_STATE_READY and task.status.state != _STATES.TASK_STATE_REJECTED


def health(task: Task) -> str:
    """healthy, starting or none, as far as a task's state tells."""
    test = task.spec.container.healthcheck.test
    if not test or test[0] == "NONE" or is_terminal(task):
        return "none"
    return "healthy" if task.status.state == _STATES.TASK_STATE_RUNNING else "starting"


def command(task: Task) -> list[str]:
    """What the service says it runs; empty when that is the image's choice."""
    return [*task.spec.container.command, *task.spec.container.args]


def listed(task: Task, networks: Mapping[str, Network], now: float) -> Json:
    """One of GET /containers/json; `now` is in Unix seconds."""
    since = task.status.timestamp.seconds
    state = status(task)
    words = {
        "created": "Created",
        "running": f"Up {_duration(now - since)}",
        "exited": f"Exited ({task.status.container.exit_code}) {_duration(now - since)} ago",
    }[state]
    checked = health(task)
    return {
        "Id": container_id(task),
        "Names": [f"/{task_name(task)}"],
        "Image": task.spec.container.image,
        "ImageID": "",
        "Command": " ".join(command(task)),
        "Created": task.meta.created_at.seconds,
        "Ports": ports(task),
        "Labels": container_labels(task),
        "State": state,
        "Status": words if checked == "none" or state != "running" else f"{words} ({checked})",
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": _networks(task, networks)},
        "Mounts": mounts(task),
    }


def _duration(seconds: float) -> str:
    count = max(0, int(seconds))
    for size, unit in ((86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if count >= 2 * size:
            return f"{count // size} {unit}s"
        if count >= size:
            return f"About {'an' if unit == 'hour' else 'a'} {unit}"
    return "Less than a second" if count < 1 else f"{count} second{'s' if count > 1 else ''}"


def ports(task: Task) -> list[Json]:
    """Those published on this machine alone; the mesh's belong to the service."""
    return [
        {
            "IP": "0.0.0.0",
            "PrivatePort": port.target_port,
            "PublicPort": port.published_port,
            "Type": word(PortConfig.Protocol.Name(port.protocol), "PROTOCOL_"),
        }
        for port in task.status.ports.ports
    ]


def mounts(task: Task) -> list[Json]:
    """What is mounted from elsewhere."""
    return [
        {
            "Type": word(Mount.Type.Name(mount.type), "TYPE_"),
            **({"Name": mount.source, "Driver": "local"} if mount.type == Mount.TYPE_VOLUME else {}),
            "Source": mount.source,
            "Destination": mount.target,
            "Mode": "",
            "RW": not mount.read_only,
            "Propagation": "",
        }
        for mount in task.spec.container.mounts
    ]


def _networks(task: Task, networks: Mapping[str, Network]) -> Json:
    found = {}
    for each in task.networks:
        known = networks.get(each.network_id)
        address, _, length = (each.addresses[0] if each.addresses else "").partition("/")
        found[known.spec.annotations.name if known is not None else each.network_id] = {
            "NetworkID": each.network_id,
            "EndpointID": "",
            "Gateway": known.ipam[0].gateway if known is not None and known.ipam else "",
            "IPAddress": address,
            "IPPrefixLen": int(length or 0),
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "MacAddress": "",
            "Aliases": list(each.aliases),
        }
    return found


def inspected(task: Task, networks: Mapping[str, Network]) -> Json:
    """GET /containers/{id}/json"""
    spec, state = task.spec.container, status(task)
    words = command(task)
    seen = task.status
    ended = state == "exited"
    limits = task.spec.resources.limits
    described: Json = {
        "Status": state,
        "Running": state == "running",
        "Paused": False,
        "Restarting": False,
        "OOMKilled": seen.container.oom_killed,
        "Dead": False,
        "Pid": seen.container.pid if state == "running" else 0,
        "ExitCode": seen.container.exit_code,
        "Error": seen.error,
        "StartedAt": NEVER if state == "created" or ended else time_of(seen, "timestamp"),
        "FinishedAt": time_of(seen, "timestamp") if ended else NEVER,
    }
    if (checked := health(task)) != "none":
        described["Health"] = {"Status": checked, "FailingStreak": 0, "Log": []}
    return {
        "Id": container_id(task),
        "Created": time_of(task.meta, "created_at"),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": described,
        "Image": spec.image,
        "Name": f"/{task_name(task)}",
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "LogPath": "",
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "HostConfig": {
            "NetworkMode": "default",
            "Binds": None,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": False,
            "Privileged": False,
            "ReadonlyRootfs": spec.read_only,
            "NanoCpus": limits.nano_cpus,
            "Memory": limits.memory_bytes,
            "PidsLimit": task.spec.resources.pids_limit or None,
            "LogConfig": {"Type": "json-file", "Config": {}},
            "Runtime": "crun",
        },
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "Mounts": mounts(task),
        "Config": {
            "Hostname": spec.hostname or task.id[:12],
            "Domainname": "",
            "User": spec.user,
            "AttachStdin": False,
            "AttachStdout": False,
            "AttachStderr": False,
            "Tty": spec.tty,
            "OpenStdin": spec.open_stdin,
            "StdinOnce": False,
            "Env": list(spec.env),
            "Cmd": list(spec.args) or None,
            "Entrypoint": list(spec.command) or None,
            "Image": spec.image,
            "Volumes": None,
            "WorkingDir": spec.dir,
            "Labels": container_labels(task),
            "StopSignal": spec.stop_signal or "SIGTERM",
        },
        "NetworkSettings": {
            "Bridge": "",
            "SandboxID": "",
            "SandboxKey": "",
            "Ports": {
                f"{port['PrivatePort']}/{port['Type']}": [{"HostIp": "0.0.0.0", "HostPort": str(port["PublicPort"])}]
                for port in ports(task)
            },
            "Networks": _networks(task, networks),
        },
    }
