"""A container of this machine, a task's or a plain one, as Docker's API lists it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flota.gateway.translation.events import container_labels
from flota.gateway.translation.words import word
from flota.v1 import ids
from flota.v1.containers_pb2 import PlainContainer
from flota.v1.mac_addresses import mac_of
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import is_terminal, task_name
from flota.v1.types_pb2 import ContainerHealth, Mount, PortConfig, TaskState

Json = dict[str, Any]
_STATES = TaskState
STATUSES = ("created", "running", "exited", "restarting", "removing", "paused", "dead")


class Local(NamedTuple):
    """A container of this machine. `plain` is what there is to say of one that belongs to no service."""

    task: Task
    plain: PlainContainer | None = None
    # sha256:… of its image's configuration, and the file that keeps what it says; empty when they are not known.
    image_id: str = ""
    log_path: str = ""
    # None without a health check.
    health: ContainerHealth | None = None
    paused: bool = False


def container_id(task: Task) -> str:
    """What its container is called."""
    return ids.container_id(task.id)


def status(local: Local) -> str:
    """created, running, paused, restarting or exited"""
    task, plain = local.task, local.plain
    if local.paused:
        return "paused"
    if plain is not None and plain.restarting:
        return "restarting"
    if is_terminal(task) and (plain is None or plain.HasField("started_at")):
        return "exited"
    return "running" if _STATES.TASK_STATE_STARTING <= task.status.state <= _STATES.TASK_STATE_RUNNING else "created"


def exists(task: Task) -> bool:
    """Whether there is, or was, a container of a service's task."""
    return task.status.state >= _STATES.TASK_STATE_READY and task.status.state != _STATES.TASK_STATE_REJECTED


def health(local: Local) -> str:
    """healthy, unhealthy, starting or none. One that has ended is unhealthy, as Docker has it."""
    if local.health is None:
        return "none"
    if is_terminal(local.task):
        return "unhealthy"
    return word(ContainerHealth.State.Name(local.health.state), "STATE_")


def command(task: Task) -> list[str]:
    """What the service says it runs; empty when that is the image's choice."""
    return [*task.spec.container.command, *task.spec.container.args]


def listed(local: Local, networks: Mapping[str, Network], now: float) -> Json:
    """One of GET /containers/json; `now` is in Unix seconds."""
    task, plain = local.task, local.plain
    since = task.status.timestamp.seconds
    state = status(local)
    started = plain.started_at.seconds if plain is not None else since
    words = {
        "created": "Created",
        "running": f"Up {_duration(now - started)}",
        "paused": f"Up {_duration(now - started)} (Paused)",
        "restarting": f"Restarting ({task.status.container.exit_code}) {_duration(now - since)} ago",
        "exited": f"Exited ({task.status.container.exit_code}) {_duration(now - since)} ago",
    }[state]
    checked = health(local)
    return {
        "Id": container_id(task),
        "Names": [f"/{task_name(task)}"],
        "Image": task.spec.container.image,
        "ImageID": local.image_id,
        "Command": " ".join(f"'{each}'" if " " in each else each for each in command(task)),
        "Created": task.meta.created_at.seconds,
        "Ports": ports(task),
        "Labels": container_labels(task),
        "State": state,
        "Status": words if checked == "none" or state != "running" else f"{words} ({checked})",
        "HostConfig": {"NetworkMode": network_mode(task)},
        "NetworkSettings": {"Networks": endpoints(task, networks)},
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
            "IP": port.host_address or "0.0.0.0",
            "PrivatePort": port.target_port,
            "PublicPort": port.published_port,
            "Type": word(PortConfig.Protocol.Name(port.protocol), "PROTOCOL_"),
        }
        for port in task.status.ports.ports
    ]


def mounts(task: Task, places: Mapping[str, str] | None = None) -> list[Json]:
    """What is mounted from elsewhere. `places` are volumes' directories on this machine."""
    directories = places or {}
    return [
        {
            "Type": word(Mount.Type.Name(mount.type), "TYPE_"),
            **({"Name": mount.source, "Driver": "local"} if mount.type == Mount.TYPE_VOLUME else {}),
            "Source": directories.get(mount.source, mount.source),
            "Destination": mount.target,
            "Mode": "",
            "RW": not mount.read_only,
            "Propagation": _propagation(mount),
        }
        for mount in task.spec.container.mounts
    ]


def _propagation(mount: Mount) -> str:
    if mount.type != Mount.TYPE_BIND:
        return ""
    return word(Mount.Propagation.Name(mount.bind_propagation), "PROPAGATION_")


def endpoints(task: Task, networks: Mapping[str, Network]) -> Json:
    """Where it is on its networks, by their names."""
    found = {}
    for each in task.networks:
        known = networks.get(each.network_id)
        names = (each.network_id, each.target, known.spec.annotations.name if known is not None else "")
        wanted = next((one for one in task.spec.networks if one.target in names), None)
        asked = wanted.addresses if wanted is not None else ()
        address, _, length = _first(each.addresses, 4).partition("/")
        address6, _, length6 = _first(each.addresses, 6).partition("/")
        gateways = [config.gateway for config in known.ipam] if known is not None else []
        found[known.spec.annotations.name if known is not None else each.target or each.network_id] = {
            "IPAMConfig": {f"IPv{version}Address": own for version in (4, 6) if (own := _first(asked, version))},
            "Links": None,
            "DriverOpts": None,
            "GwPriority": each.gateway_priority,
            "NetworkID": each.network_id,
            "EndpointID": "",
            "Gateway": _first(gateways, 4) if each.addresses else "",
            "IPAddress": address,
            "IPPrefixLen": int(length or 0),
            "IPv6Gateway": _first(gateways, 6) if each.addresses else "",
            "GlobalIPv6Address": address6,
            "GlobalIPv6PrefixLen": int(length6 or 0),
            "MacAddress": mac_of(each.addresses[0]) if each.addresses else "",
            "Aliases": list(each.aliases),
        }
    return found


def _first(addresses: Iterable[str], version: int) -> str:
    """The first address of an IP version, or nothing."""
    return next((address for address in addresses if (":" in address) == (version == 6)), "")


def network_mode(task: Task) -> str:
    """What `docker run --network` said; a service's tasks have none to speak of."""
    return task.spec.networks[0].target if not task.service_id and task.spec.networks else "default"
