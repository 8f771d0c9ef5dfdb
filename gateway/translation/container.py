"""A container of this machine, a task's or a plain one, in the shape of Docker's API. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flota.gateway.translation.events import container_labels
from flota.gateway.translation.words import NEVER, time_of, word
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal, task_name
from flota.v1.types_pb2 import Mount, PortConfig, RestartPolicy, TaskState

Json = dict[str, Any]
_STATES = TaskState
STATUSES = ("created", "running", "exited", "restarting", "removing", "paused", "dead")


class Local(NamedTuple):
    """A container of this machine. `plain` is what there is to say of one that belongs to no service."""

    task: Task
    plain: PlainContainer | None = None


def container_id(task: Task) -> str:
    """What its container is called."""
    return task.status.container.container_id or task.id


def status(local: Local) -> str:
    """created, running, restarting or exited"""
    task, plain = local
    if plain is not None and plain.restarting:
        return "restarting"
    if is_terminal(task) and (plain is None or plain.HasField("started_at")):
        return "exited"
    return "running" if _STATES.TASK_STATE_STARTING <= task.status.state <= _STATES.TASK_STATE_RUNNING else "created"


def exists(task: Task) -> bool:
    """Whether there is, or was, a container of a service's task."""
    return task.status.state >= _STATES.TASK_STATE_READY and task.status.state != _STATES.TASK_STATE_REJECTED


def health(task: Task) -> str:
    """healthy, starting or none, as far as a task's state tells."""
    test = task.spec.container.healthcheck.test
    if not test or test[0] == "NONE" or is_terminal(task):
        return "none"
    if task.status.unready:
        return "unhealthy"
    return "healthy" if task.status.state == _STATES.TASK_STATE_RUNNING else "starting"


def command(task: Task) -> list[str]:
    """What the service says it runs; empty when that is the image's choice."""
    return [*task.spec.container.command, *task.spec.container.args]


def listed(local: Local, networks: Mapping[str, Network], now: float) -> Json:
    """One of GET /containers/json; `now` is in Unix seconds."""
    task, plain = local
    since = task.status.timestamp.seconds
    state = status(local)
    started = plain.started_at.seconds if plain is not None else since
    words = {
        "created": "Created",
        "running": f"Up {_duration(now - started)}",
        "restarting": f"Restarting ({task.status.container.exit_code}) {_duration(now - since)} ago",
        "exited": f"Exited ({task.status.container.exit_code}) {_duration(now - since)} ago",
    }[state]
    checked = health(task)
    return {
        "Id": container_id(task),
        "Names": [f"/{task_name(task)}"],
        "Image": task.spec.container.image,
        "ImageID": plain.image_id if plain is not None else "",
        "Command": " ".join(f"'{each}'" if " " in each else each for each in command(task)),
        "Created": task.meta.created_at.seconds,
        "Ports": ports(task),
        "Labels": container_labels(task),
        "State": state,
        "Status": words if checked == "none" or state != "running" else f"{words} ({checked})",
        "HostConfig": {"NetworkMode": network_mode(task)},
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


def _port_map(given: Iterable[PortConfig], address: str) -> Json:
    found: Json = {}
    for port in given:
        key = f"{port.target_port}/{word(PortConfig.Protocol.Name(port.protocol), 'PROTOCOL_')}"
        number = str(port.published_port) if port.published_port else ""
        found.setdefault(key, []).append({"HostIp": address, "HostPort": number})
    return found


def _binds(task: Task) -> list[str]:
    mounts = task.spec.container.mounts if not task.service_id else ()
    return [
        f"{each.source}:{each.target}{':ro' if each.read_only else ''}"
        for each in mounts
        if each.source and each.type != Mount.TYPE_TMPFS
    ]


def _restart_policy(plain: PlainContainer | None) -> Json:
    policy = plain.task.spec.restart if plain is not None else RestartPolicy(condition=RestartPolicy.CONDITION_NONE)
    name = {RestartPolicy.CONDITION_NONE: "no", RestartPolicy.CONDITION_ON_FAILURE: "on-failure"}.get(
        policy.condition, "unless-stopped" if plain is not None and plain.unless_stopped else "always"
    )
    return {"Name": name, "MaximumRetryCount": policy.max_attempts}


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
        address, _, length = _first(each.addresses, 4).partition("/")
        address6, _, length6 = _first(each.addresses, 6).partition("/")
        gateways = [config.gateway for config in known.ipam] if known is not None else []
        found[known.spec.annotations.name if known is not None else each.network_id] = {
            "NetworkID": each.network_id,
            "EndpointID": "",
            "Gateway": _first(gateways, 4),
            "IPAddress": address,
            "IPPrefixLen": int(length or 0),
            "IPv6Gateway": _first(gateways, 6),
            "GlobalIPv6Address": address6,
            "GlobalIPv6PrefixLen": int(length6 or 0),
            "MacAddress": "",
            "Aliases": list(each.aliases),
        }
    return found


def _first(addresses: Iterable[str], version: int) -> str:
    """The first address of an IP version, or nothing."""
    return next((address for address in addresses if (":" in address) == (version == 6)), "")


def network_mode(task: Task) -> str:
    """What `docker run --network` said; a service's tasks have none to speak of."""
    return task.spec.networks[0].target if not task.service_id and task.spec.networks else "default"


def inspected(local: Local, networks: Mapping[str, Network]) -> Json:
    """GET /containers/{id}/json"""
    task, plain = local
    spec, state = task.spec.container, status(local)
    words = command(task)
    seen = task.status
    ended = state == "exited"
    limits = task.spec.resources.limits
    described: Json = {
        "Status": state,
        "Running": state == "running",
        "Paused": False,
        "Restarting": state == "restarting",
        "OOMKilled": seen.container.oom_killed,
        "Dead": False,
        "Pid": seen.container.pid if state == "running" else 0,
        "ExitCode": seen.container.exit_code,
        "Error": seen.error,
        "StartedAt": NEVER if state == "created" or ended else time_of(seen, "timestamp"),
        "FinishedAt": time_of(seen, "timestamp") if ended else NEVER,
    }
    if plain is not None:
        described |= {"StartedAt": time_of(plain, "started_at"), "FinishedAt": time_of(plain, "finished_at")}
    if (checked := health(task)) != "none":
        described["Health"] = {"Status": checked, "FailingStreak": 0, "Log": []}
    return {
        "Id": container_id(task),
        "Created": time_of(task.meta, "created_at"),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": described,
        "Image": plain.image_id if plain is not None else spec.image,
        "Name": f"/{task_name(task)}",
        "RestartCount": plain.restarts if plain is not None else 0,
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
            "NetworkMode": network_mode(task),
            "Binds": _binds(task) or None,
            "PortBindings": _port_map(task.endpoint.ports, "") if plain is not None else {},
            "RestartPolicy": _restart_policy(plain),
            "AutoRemove": plain is not None and plain.auto_remove,
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
            "Ports": _port_map(task.status.ports.ports, "0.0.0.0"),
            "Networks": _networks(task, networks),
        },
    }
