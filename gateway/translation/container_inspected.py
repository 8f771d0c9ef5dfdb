"""A container of this machine as `docker inspect` shows it: what was wanted, what its image adds, how it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flota.gateway.translation.container import Local, container_id, endpoints, health, mounts, status
from flota.gateway.translation.events import container_labels
from flota.gateway.translation.host_config import config_as_asked, host_config, port_map
from flota.gateway.translation.shown_spec import healthcheck
from flota.gateway.translation.words import NEVER, time_of
from flota.v1.network_options import BRIDGE
from flota.v1.objects_pb2 import Network, Task
from flota.v1.task_states import task_name

Json = dict[str, Any]


def inspected(local: Local, networks: Mapping[str, Network], image: Json, places: Mapping[str, str]) -> Json:
    """GET /containers/{id}/json. `image` is what its image's configuration says of the process, `places` are volumes'
    directories on this machine."""
    task, plain = local.task, local.plain
    state = status(local)
    config = _config(task, image) | config_as_asked(plain)
    words = [*(config["Entrypoint"] or ()), *(config["Cmd"] or ())]
    on = endpoints(task, networks)
    return {
        "Id": container_id(task),
        "Created": time_of(task.meta, "created_at"),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": _state(local, state),
        "Image": local.image_id,
        "Name": f"/{task_name(task)}",
        "RestartCount": plain.restarts if plain is not None else 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "LogPath": local.log_path,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "HostConfig": host_config(task, plain),
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "Mounts": mounts(task, places),
        "Config": config,
        "NetworkSettings": {
            "Bridge": "",
            "SandboxID": "",
            "SandboxKey": "",
            "Ports": port_map(task.status.ports.ports, "0.0.0.0"),
            "Networks": on,
            **_on_bridge(on.get(BRIDGE)),
        },
    }


def _on_bridge(endpoint: Json | None) -> Json:
    """Where it is on the network `bridge`, as the API had it before there were others; scripts still read it."""
    empty = {"IPAddress": "", "IPPrefixLen": 0, "Gateway": "", "MacAddress": "", "EndpointID": ""}
    empty |= {"IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0}
    return {name: endpoint[name] if endpoint is not None else value for name, value in empty.items()}


def _state(local: Local, state: str) -> Json:
    task, plain = local.task, local.plain
    seen = task.status
    described: Json = {
        "Status": state,
        "Running": state in ("running", "paused"),
        "Paused": state == "paused",
        "Restarting": state == "restarting",
        "OOMKilled": seen.container.oom_killed,
        "Dead": False,
        "Pid": seen.container.pid if state in ("running", "paused") else 0,
        "ExitCode": seen.container.exit_code,
        "Error": seen.error,
        "StartedAt": time_of(seen.container, "started_at"),
        "FinishedAt": time_of(seen, "timestamp") if state == "exited" else NEVER,
    }
    if plain is not None:
        described |= {"StartedAt": time_of(plain, "started_at"), "FinishedAt": time_of(plain, "finished_at")}
    if local.health is not None:
        described["Health"] = {
            "Status": health(local),
            "FailingStreak": local.health.failing_streak,
            "Log": [
                {
                    "Start": time_of(probe, "started_at"),
                    "End": time_of(probe, "ended_at"),
                    "ExitCode": probe.exit_code,
                    "Output": probe.output,
                }
                for probe in local.health.log
            ],
        }
    return described


def _config(task: Task, image: Json) -> Json:
    """What runs: the spec's word, else the image's. An entrypoint of the spec's own takes nothing of the command."""
    spec = task.spec.container
    check = (image.get("Healthcheck") or {}) | healthcheck(spec.healthcheck)
    return {
        **({"Healthcheck": check} if check else {}),
        "Hostname": spec.hostname or container_id(task)[:12],
        "Domainname": "",
        "User": spec.user or image.get("User", ""),
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "ExposedPorts": image.get("ExposedPorts") or {},
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": False,
        "Env": _environment(image.get("Env") or (), spec.env),
        "Cmd": list(spec.args) or (None if spec.command else image.get("Cmd")),
        "Entrypoint": list(spec.command) or image.get("Entrypoint"),
        "Image": spec.image,
        "Volumes": image.get("Volumes"),
        "WorkingDir": spec.dir or image.get("WorkingDir", ""),
        "Labels": (image.get("Labels") or {}) | container_labels(task),
        "StopSignal": spec.stop_signal or image.get("StopSignal") or "SIGTERM",
    }


def image_config(task: Task, image: Json) -> Json:
    """What an image of the container says of its own containers."""
    config = _config(task, image)
    named = ("User", "ExposedPorts", "Env", "Cmd", "Entrypoint", "Volumes", "WorkingDir", "Labels", "StopSignal")
    return {name: config[name] for name in named if config[name]} | (
        {"Healthcheck": image["Healthcheck"]} if image.get("Healthcheck") else {}
    )


def _environment(image: Iterable[str], spec: Iterable[str]) -> list[str]:
    """The image's, but for what the spec says itself."""
    own = list(spec)
    names = {entry.partition("=")[0] for entry in own}
    return [entry for entry in image if entry.partition("=")[0] not in names] + own
