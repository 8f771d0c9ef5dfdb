"""One file's tree made canonical: a table of readers, key by key."""

from __future__ import annotations

from functools import cache

from flota.stacks.compose.canonical import entries, mounts, ports, words
from flota.stacks.compose.canonical.leaves import (
    Reader,
    count,
    cpus,
    duration,
    each_item,
    each_value,
    fields,
    flag,
    pairs,
    ratio,
    same,
    size,
    size_or_unlimited,
    text,
    texts,
    unique_texts,
)
from flota.stacks.compose.canonical.leaves import words as command
from flota.stacks.compose.tree import Map, Spot
from flota.stacks.extension import EXTENSION
from flota.stacks.mounts import absolute

_MOST = 1_000_000
_UPDATE = fields(
    {
        "parallelism": count(most=_MOST),
        "delay": duration,
        "failure_action": same,
        "monitor": duration,
        "max_failure_ratio": ratio,
        "order": same,
    }
)
_DEPLOY = fields(
    {
        "mode": same,
        "endpoint_mode": same,
        "replicas": count(most=_MOST),
        "labels": words.labels,
        "update_config": _UPDATE,
        "rollback_config": _UPDATE,
        "restart_policy": fields({"delay": duration, "max_attempts": count(), "window": duration}),
        "placement": fields(
            {
                "constraints": texts,
                "preferences": each_item(fields({"spread": text})),
                "max_replicas_per_node": count(most=_MOST),
            }
        ),
        "resources": fields(
            {
                "limits": fields({"cpus": cpus, "memory": size, "pids": count(-1)}),
                "reservations": fields(
                    {
                        "cpus": cpus,
                        "memory": size,
                        "generic_resources": each_item(
                            fields({"discrete_resource_spec": fields({"kind": text, "value": count(1)})})
                        ),
                    }
                ),
            }
        ),
    }
)
_HEALTH = fields(
    {
        "test": entries.health_test,
        **dict.fromkeys(("interval", "timeout", "start_period", "start_interval"), words.health_time),
        "retries": count(most=_MOST),
        "disable": flag,
    }
)
_EXTENSION = fields({"max_concurrent": count(1, _MOST), "stopped": flag})
_PLAIN_READERS: dict[str, Reader] = {
    "cpuset": text,
    "hostname": words.hostname,
    "image": words.image,
    "stop_signal": words.stop_signal,
    "user": words.line,
    "working_dir": words.folder,
    **dict.fromkeys(
        ("attach", "init", "oom_kill_disable", "privileged", "read_only", "stdin_open", "tty", "use_api_socket"), flag
    ),
    **dict.fromkeys(("cap_add", "cap_drop", "expose"), unique_texts),
    **dict.fromkeys(("device_cgroup_rules", "external_links", "links", "security_opt", "volumes_from"), unique_texts),
    **dict.fromkeys(("annotations", "labels"), words.labels),
    **dict.fromkeys(("command", "entrypoint"), words.lines(command)),
    "group_add": words.lines(unique_texts),
    "dns": words.dns_servers,
    "dns_opt": words.dns_options,
    "dns_search": words.dns_search,
    **dict.fromkeys(("mem_limit", "mem_reservation", "shm_size"), size),
    **dict.fromkeys(("secrets", "configs"), entries.references),
    "cpus": cpus,
    "depends_on": entries.depends_on,
    "deploy": _DEPLOY,
    "environment": words.environment,
    "devices": entries.devices,
    "extra_hosts": entries.extra_hosts,
    "healthcheck": _HEALTH,
    "logging": fields({"driver": text, "options": pairs()}),
    "mem_swappiness": count(most=100),
    "memswap_limit": size_or_unlimited,
    "networks": entries.networks,
    "oom_score_adj": count(-1000, 1000),
    "pids_limit": count(-1),
    "platform": entries.platform,
    "ports": ports.ports,
    "profiles": unique_texts,
    "restart": entries.restart,
    "scale": count(most=_MOST),
    "stop_grace_period": duration,
    "sysctls": words.sysctls,
    "tmpfs": mounts.tmpfs,
    "ulimits": entries.ulimits,
    EXTENSION: _EXTENSION,
}


def _path(folder: str) -> Reader:
    def read(value: str, spot: Spot) -> str:
        if not value.strip():
            spot.fail("a file's path is needed")
        return absolute(value, folder)

    return read


def _external(value: object, spot: Spot) -> object:
    return value if isinstance(value, Map) else flag(value, spot)


@cache
def _service_readers(folder: str) -> Reader:
    by_folder: dict[str, Reader] = {
        "volumes": mounts.mounts(folder),
        "env_file": entries.files(folder),
        "label_file": entries.files(folder),
    }
    return fields(_PLAIN_READERS | by_folder)


def _object(readers: dict[str, Reader]) -> Reader:
    """A network, volume, secret or config; external: {name: x} is written external: true, name: x."""
    plain = fields(
        readers | {"external": _external, "name": words.network_name, "labels": words.labels, "driver_opts": pairs()}
    )

    def read(value: object, spot: Spot) -> Map:
        made: Map = plain(value, spot)
        external = made.get("external")
        if isinstance(external, Map):
            name = external.get("name")
            if name and made.get("name", name) != name:
                spot.of(made, "external").fail(f"it is named {name!r} here and {made['name']!r} under name:")
            made.put("external", True)
            if name:
                made.put("name", words.network_name(name, spot.of(external, "name")), external.place_of("name"))
        return made

    return read


_IPAM = fields(
    {
        "options": pairs(),
        "config": each_item(
            fields(
                {
                    "aux_addresses": each_value(words.address),
                    "gateway": words.address,
                    "ip_range": words.subnet,
                    "subnet": words.subnet,
                }
            )
        ),
    }
)
_NETWORK = _object({"ipam": _IPAM, **dict.fromkeys(("internal", "attachable", "enable_ipv4", "enable_ipv6"), flag)})
_VOLUME = _object({})


def canonical_service(service: Map, folder: str, spot: Spot) -> Map:
    """A service, in place. Raises ComposeError."""
    made: Map = _service_readers(folder)(service, spot)
    return made


def make_canonical(tree: Map, folder: str) -> None:
    """A whole file, in place; relative paths are taken from `folder`. Raises ComposeError."""
    top = Spot(tree.place, ())
    tree.drop("version")
    for key in [key for key, value in tree.items() if value is None]:
        tree.drop(key)
    file_object = _object({"file": _path(folder)})
    sections: dict[str, Reader] = {
        "services": _service_readers(folder),
        "networks": _NETWORK,
        "volumes": _VOLUME,
        "secrets": file_object,
        "configs": file_object,
    }
    for section, reader in sections.items():
        if section in tree:
            spot = top.of(tree, section)
            for name, value in tree[section].items():
                tree[section][name] = reader(value, spot.of(tree[section], name))
