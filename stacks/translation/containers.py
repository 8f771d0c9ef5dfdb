"""What runs in each task of a service, as a ContainerSpec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from posixpath import normpath
from typing import Any

from flota.stacks.compose.canonical.mounts import mount_of
from flota.stacks.compose.tree import Map, Spot
from flota.stacks.devices import parse_device
from flota.stacks.mounts import parse_short_tmpfs
from flota.stacks.translation.names import NAMESPACE, labels, object_name
from flota.stacks.units import duration_message, parse_duration
from flota.v1.security_options import security_options
from flota.v1.specs_pb2 import ContainerSpec
from flota.v1.types_pb2 import FileTarget, HealthConfig, Mount, Platform, Ulimit

_CAPABILITY = re.compile(r"(?:CAP_)?[A-Z][A-Z_]*")
# The kernel's names, and the ones Docker's images and people use.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Containers:
    """Makes the containers of one stack's services."""

    def __init__(self, stack: str, tree: Map, warnings: list[str]) -> None:
        self._stack = stack
        self._tree = tree
        self._warnings = warnings

    def container(self, name: str, service: Map, spot: Spot) -> ContainerSpec:
        """The container of a service. Raises ComposeError."""
        container = ContainerSpec(
            image=service["image"],
            labels=labels(self._stack, service.get("labels")),
            command=service.get("entrypoint", ()),
            args=service.get("command", ()),
            hostname=service.get("hostname", ""),
            env=[f"{key}={value}" for key, value in sorted(service.get("environment", {}).items())],
            dir=service.get("working_dir", ""),
            user=service.get("user", ""),
            groups=service.get("group_add", ()),
            tty=service.get("tty", False),
            open_stdin=service.get("stdin_open", False),
            read_only=service.get("read_only", False),
            stop_signal=service.get("stop_signal", ""),
            hosts=[_host_line(text) for text in service.get("extra_hosts", ())],
            init=service.get("init", False),
            sysctls=service.get("sysctls", {}),
            oom_score_adj=service.get("oom_score_adj", 0),
        )
        if "stop_grace_period" in service:
            container.stop_grace_period.CopyFrom(duration_message(parse_duration(service["stop_grace_period"])))
        self._set_capabilities(container, service, spot)
        security = security_options(service.get("security_opt", ()))
        container.no_new_privileges = security.no_new_privileges
        container.seccomp_unconfined = security.seccomp_unconfined
        _set_ulimits(container, service.get("ulimits", {}))
        container.devices.extend(map(parse_device, service.get("devices", ())))
        _set_dns(container, service)
        health = _health(service.get("healthcheck", {}))
        if health.ByteSize():
            container.healthcheck.CopyFrom(health)
        self._set_mounts(container, name, service, spot)
        self._set_files(container, service, spot)
        return container

    def _set_capabilities(self, container: ContainerSpec, service: Map, spot: Spot) -> None:
        for key, into in (("cap_add", container.capability_add), ("cap_drop", container.capability_drop)):
            listed = service.get(key, [])
            for index, text in enumerate(listed):
                word = text.strip().upper()
                if not _CAPABILITY.fullmatch(word):
                    spot.of(service, key).of(listed, index).fail(f"{text!r} is not a capability such as NET_ADMIN")
                into.append(word if word == "ALL" or word.startswith("CAP_") else f"CAP_{word}")
            into.sort()

    def _set_mounts(self, container: ContainerSpec, name: str, service: Map, spot: Spot) -> None:
        mounts: list[tuple[Mount, Spot]] = []
        volumes = service.get("volumes", [])
        for index, entry in enumerate(volumes):
            here = spot.of(service, "volumes").of(volumes, index)
            mount = mount_of(entry)
            if mount.type == Mount.TYPE_VOLUME and mount.source in self._tree.get("volumes", {}):
                self._set_volume(mount, here)
            mounts.append((mount, here))
        tmpfs = service.get("tmpfs", [])
        for index, text in enumerate(tmpfs):
            mount, ignored = parse_short_tmpfs(text)
            if ignored:
                self._warnings.append(
                    f"tmpfs ({name}, {mount.target}): {', '.join(ignored)} is ignored: size, mode, ro and rw are known"
                )
            mounts.append((mount, spot.of(service, "tmpfs").of(tmpfs, index)))
        targets: set[str] = set()
        for mount, here in mounts:
            target = normpath(mount.target)
            if target in targets:
                here.fail(f"another mount has the same target, {mount.target}")
            if mount.type == Mount.TYPE_VOLUME and not mount.source and mount.read_only:
                here.fail("a volume without a name cannot be read-only: it would stay empty")
            targets.add(target)
            container.mounts.append(mount)

    def _set_volume(self, mount: Mount, spot: Spot) -> None:
        volumes = self._tree["volumes"]
        entry: Map = volumes[mount.source]
        here = Spot(volumes.place_of(mount.source), ("volumes", mount.source))
        mount.source = object_name(self._stack, mount.source, entry, here)
        if entry.get("external"):
            return
        mount.volume_labels.update(entry.get("labels", {}))
        mount.volume_labels[NAMESPACE] = self._stack
        if entry.get("driver", "local") != "local":
            here.of(entry, "driver").fail(f"volumes of driver {entry['driver']!r} are not supported; local is")
        if "driver" in entry or "driver_opts" in entry:
            mount.volume_driver.name = entry.get("driver", "")
            mount.volume_driver.options.update(entry.get("driver_opts", {}))

    def _set_files(self, container: ContainerSpec, service: Map, spot: Spot) -> None:
        for section in ("secrets", "configs"):
            listed = service.get(section, [])
            seen: set[str] = set()
            for index, entry in enumerate(listed):
                here = spot.of(service, section).of(listed, index)
                name, file = self._file(section, entry, here)
                if file.name in seen:
                    here.fail(f"another one has the same target, {file.name}")
                seen.add(file.name)
                if section == "secrets":
                    container.secrets.add(secret_name=name, file=file)
                else:
                    container.configs.add(config_name=name, file=file)
        container.secrets.sort(key=lambda reference: (reference.secret_name, reference.file.name))
        container.configs.sort(key=lambda reference: (reference.config_name, reference.file.name))

    def _file(self, section: str, entry: Map, spot: Spot) -> tuple[str, FileTarget]:
        """A secret's or config's name in the cluster, and where it appears."""
        source = entry["source"]
        thing: Map = self._tree[section][source]
        here = Spot(self._tree[section].place_of(source), (section, source))
        target = entry.get("target") or (source if section == "secrets" else f"/{source}")
        for key in ("uid", "gid"):
            value = entry.get(key, "0")
            if not (value.isascii() and value.isdigit()):
                spot.of(entry, key).fail(f"{value!r} is not a number")
        if target.endswith("/") or ".." in target.split("/") or "\0" in target:
            spot.of(entry, "target").fail(f"{target!r} is not a file's name or path without '..'")
        file = FileTarget(
            name=target, uid=entry.get("uid", "0"), gid=entry.get("gid", "0"), mode=int(entry.get("mode", "0444"), 8)
        )
        return object_name(self._stack, source, thing, here), file


def _host_line(text: str) -> str:
    host, _, address = text.partition("=")
    return f"{address} {host}"


def _set_ulimits(container: ContainerSpec, ulimits: Mapping[str, Any]) -> None:
    for name, value in sorted(ulimits.items()):
        limits = value if isinstance(value, Map) else {"soft": value, "hard": value}
        container.ulimits.append(Ulimit(name=name, soft=limits["soft"], hard=limits["hard"]))


def _set_dns(container: ContainerSpec, service: Map) -> None:
    for key, into in (
        ("dns", container.dns.nameservers),
        ("dns_search", container.dns.search),
        ("dns_opt", container.dns.options),
    ):
        into.extend(service.get(key, ()))
    if not container.dns.ByteSize():
        container.ClearField("dns")


def _health(check: Mapping[str, Any]) -> HealthConfig:
    if check.get("disable"):
        return HealthConfig(test=["NONE"])
    health = HealthConfig(test=check.get("test", ()), retries=check.get("retries", 0))
    for key, field in (
        ("interval", health.interval),
        ("timeout", health.timeout),
        ("start_period", health.start_period),
        ("start_interval", health.start_interval),
    ):
        if key in check:
            field.CopyFrom(duration_message(parse_duration(check[key])))
    return health


def platform_of(text: str) -> Platform:
    """linux/arm64 as a message."""
    system, _, architecture = text.partition("/")
    architecture = architecture.partition("/")[0]
    return Platform(os=system, architecture=_ARCHITECTURES.get(architecture, architecture))
