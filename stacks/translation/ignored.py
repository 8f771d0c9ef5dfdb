"""Keys of the Compose Specification that a swarm has no use for: each is named once, with the services that have it.

docs/compose.md has the same table for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flota.stacks.translation.scheduling import SPREAD_OVER_NODES
from flota.v1.security_options import security_options

_NAMES = "containers are named by the swarm; other services find them by the service's name"
_MACHINE = "it is about one machine's container"
_KERNEL = "tasks have no such setting"
_BUILD = "images are not built here"

# Key of a service → why it means nothing here.
SERVICE_KEYS: dict[str, str] = {
    "annotations": "tasks have labels, not annotations",
    "attach": "nothing is attached; see flota service logs",
    "blkio_config": _KERNEL,
    "build": f"{_BUILD}; image: is run",
    "cgroup": _KERNEL,
    "cgroup_parent": _KERNEL,
    "cgroupns_mode": _KERNEL,
    "container_name": _NAMES,
    "cpu_count": "only Windows has it; use deploy.resources.limits.cpus",
    "cpu_percent": "only Windows has it; use deploy.resources.limits.cpus",
    "cpu_period": "use deploy.resources.limits.cpus",
    "cpu_quota": "use deploy.resources.limits.cpus",
    "cpu_rt_period": _KERNEL,
    "cpu_rt_runtime": _KERNEL,
    "cpu_shares": "use deploy.resources.reservations.cpus",
    "cpuset": _MACHINE,
    "credential_spec": "only Windows has it",
    "develop": "it is for development on one machine",
    "device_cgroup_rules": "use devices:",
    "domainname": "use hostname: with dots",
    "expose": "all ports are open between the services of a network",
    "external_links": "use networks: and aliases:",
    "gpus": "use deploy.resources.reservations.generic_resources",
    "ipc": _KERNEL,
    "isolation": "only Windows has it",
    "links": "services of a network find each other by name; use depends_on: for the order, aliases: for other names",
    "mac_address": _MACHINE,
    "models": "no models are run here",
    "network_mode": "tasks are on overlay networks; use networks:",
    "oom_kill_disable": _KERNEL,
    "pid": _KERNEL,
    "post_start": "there are no hooks",
    "pre_start": "there are no hooks",
    "pre_stop": "there are no hooks",
    "privileged": "tasks are never privileged; use cap_add:",
    "provider": "image: is run",
    "pull_policy": "a worker pulls what it does not have",
    "pull_refresh_after": "a worker pulls what it does not have",
    "runtime": "the node decides",
    "shm_size": "mount a tmpfs at /dev/shm instead",
    "storage_opt": _MACHINE,
    "use_api_socket": "there is no engine's socket in tasks",
    "userns_mode": _KERNEL,
    "uts": _KERNEL,
}
_ATTACHMENT_KEYS: dict[str, str] = {
    "gw_priority": "the node chooses the gateway",
    "interface_name": "interfaces are named by the node",
    "link_local_ips": _KERNEL,
    "mac_address": "addresses are the allocator's",
    "priority": "networks are attached in the order of their names",
}


def ignored_keys(tree: Mapping[str, Any]) -> list[str]:
    """A line for each key that is known and means nothing here."""
    users: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for where, key, reason in _found(tree):
        users.setdefault(key, []).append(where)
        reasons[key] = reason
    return [f"{key} ({_listed(users[key])}) is ignored: {reasons[key]}" for key in sorted(users)]


def _found(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, service in tree.get("services", {}).items():
        for key in service:
            if key in SERVICE_KEYS and service[key] not in (False, [], {}, ""):
                yield name, key, SERVICE_KEYS[key]
        for option in security_options(service.get("security_opt", ())).unknown:
            yield name, f"security_opt: {option}", _KERNEL
        for attachment in service.get("networks", {}).values():
            for key in attachment:
                if key in _ATTACHMENT_KEYS:
                    yield name, f"networks.{key}", _ATTACHMENT_KEYS[key]
        for mount in service.get("volumes", ()):
            if "selinux" in mount.get("bind", {}):
                yield name, "volumes.bind.selinux", "nodes relabel nothing"
            if "consistency" in mount:
                yield name, "volumes.consistency", "it means nothing on Linux"
        for port in service.get("ports", ()):
            if "app_protocol" in port:
                yield name, "ports.app_protocol", "the mesh does not look into connections"
        for preference in service.get("deploy", {}).get("placement", {}).get("preferences", ()):
            if preference["spread"] in SPREAD_OVER_NODES:
                reason = "tasks are dealt evenly over nodes anyway"
                yield name, f"deploy.placement.preferences: spread: {preference['spread']}", reason
        reservations = service.get("deploy", {}).get("resources", {}).get("reservations", {})
        if reservations.get("devices"):
            yield name, "deploy.resources.reservations.devices", "use generic_resources"
        if any(depends.get("restart") for depends in service.get("depends_on", {}).values()):
            yield name, "depends_on.restart", "an update of one service leaves the others alone"
    for name, network in tree.get("networks", {}).items():
        if network.get("enable_ipv4") is False:
            yield f"network {name}", "enable_ipv4: false", "networks have IPv4"
        if network.get("ipam", {}).get("options"):
            yield f"network {name}", "ipam.options", "addresses are the allocator's"
    for name, secret in tree.get("secrets", {}).items():
        if "driver_opts" in secret:
            yield f"secret {name}", "driver_opts", "secrets have no drivers"
    if tree.get("models"):
        yield "the file", "models", SERVICE_KEYS["models"]


def _listed(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:5]) + (f" and {len(unique) - 5} more" if len(unique) > 5 else "")
