"""What a container's spec may say. Pure; raises InvalidArgument that names field, value and what is allowed.

Semantics: SwarmKit's manager/controlapi and Docker's daemon checks; where Docker lets a mistake pass until a task fails
on some node, it is refused here.
"""

import ipaddress
import re
import signal
from collections.abc import Iterable

from flota.manager.control.image_names import check_image
from flota.manager.control.mount_rules import check_mounts
from flota.manager.control.names import check_duration, check_labels
from flota.rpc.errors import InvalidArgument
from flota.v1.specs_pb2 import ContainerSpec
from flota.v1.types_pb2 import Device, DnsConfig, FileTarget, HealthConfig, Ulimit

_HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*")
_CAPABILITY = re.compile(r"(?:CAP_)?[A-Z][A-Z_]*[A-Z]", re.IGNORECASE)
_SYSCTL = re.compile(r"[a-z0-9_]+(?:[./][a-zA-Z0-9_-]+)+")
_REALTIME = re.compile(r"(?:SIG)?RTM(?:IN(?:\+\d{1,2})?|AX(?:-\d{1,2})?)")
_ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
)  # fmt: skip
_SHORTEST_HEALTH_TIME = 0.001


def check_container(container: ContainerSpec) -> None:
    """Everything but references to secrets, configs and networks, which need the store."""
    check_image(container.image)
    check_labels("container label", container.labels)
    _check_texts(container)
    if container.hostname and "{{" not in container.hostname:
        _check_hostname(container.hostname)
    if container.dir and not container.dir.startswith("/"):
        raise InvalidArgument.of("working directory", container.dir, "an absolute path is needed")
    for variable in container.env:
        _check_variable(variable)
    check_mounts(container.mounts)
    check_signal(container.stop_signal)
    check_duration("stop grace period", container.stop_grace_period)
    check_health(container.healthcheck)
    for line in container.hosts:
        _check_host_line(line)
    _check_dns(container.dns)
    for key in container.sysctls:
        if not _SYSCTL.fullmatch(key):
            raise InvalidArgument.of("sysctl", key, "a name like net.core.somaxconn is needed")
    for capability in (*container.capability_add, *container.capability_drop):
        if not _CAPABILITY.fullmatch(capability):
            raise InvalidArgument.of("capability", capability, "a name like CAP_NET_ADMIN, or ALL, is needed")
    _check_ulimits(container.ulimits)
    _check_devices(container.devices)
    if not -1000 <= container.oom_score_adj <= 1000:
        raise InvalidArgument.of("OOM score adjustment", container.oom_score_adj, "allowed is -1000 to 1000")


def _check_texts(container: ContainerSpec) -> None:
    fields = [
        ("command", container.command), ("argument", container.args), ("group", container.groups),
        ("user", [container.user]), ("working directory", [container.dir]),
    ]  # fmt: skip
    for field, values in fields:
        for value in values:
            if "\0" in value:
                raise InvalidArgument.of(field, value, "it contains a NUL character")


def _check_hostname(hostname: str) -> None:
    labels = hostname.split(".")
    if not _HOSTNAME.fullmatch(hostname) or len(hostname) > 253 or max(map(len, labels)) > 63:
        raise InvalidArgument.of(
            "hostname", hostname, "DNS labels of at most 63 letters, digits and '-' are needed, joined by dots"
        )


def _check_variable(variable: str) -> None:
    key, separator, _ = variable.partition("=")
    if not key or not separator:
        raise InvalidArgument.of("environment variable", variable, "KEY=VALUE is needed, with a key")
    if "\0" in variable:
        raise InvalidArgument.of("environment variable", key, "it contains a NUL character")


def check_signal(name: str) -> None:
    """A signal by name, with or without SIG, or by number; empty = the image's."""
    if not name:
        return
    upper = name.upper()
    if name.isdigit():
        known = 1 <= int(name) <= 64
    else:
        known = upper.removeprefix("SIG") in _SIGNALS or bool(_REALTIME.fullmatch(upper))
    if not known:
        raise InvalidArgument.of("stop signal", name, "a name like SIGTERM or a number from 1 to 64 is needed")


_SIGNALS = {one.name.removeprefix("SIG") for one in signal.Signals}


def check_health(health: HealthConfig) -> None:
    """A health check; an empty one is the image's."""
    if health.action not in HealthConfig.Action.values():
        raise InvalidArgument.of("health action", health.action, "allowed are restart and unready")
    if health.test:
        kind = health.test[0]
        if kind not in ("NONE", "CMD", "CMD-SHELL"):
            raise InvalidArgument.of("health check", kind, "it begins with NONE, CMD or CMD-SHELL")
        count = len(health.test) - 1
        if (kind == "NONE" and count) or (kind == "CMD" and not count) or (kind == "CMD-SHELL" and count != 1):
            allowed = {"NONE": "nothing", "CMD": "a command and its arguments", "CMD-SHELL": "one line for the shell"}
            raise InvalidArgument.of("health check", list(health.test), f"{kind} is followed by {allowed[kind]}")
    times = {
        "health interval": health.interval, "health timeout": health.timeout,
        "health start period": health.start_period, "health start interval": health.start_interval,
    }  # fmt: skip
    for field, value in times.items():
        check_duration(field, value)
        length = value.seconds + value.nanos / 1e9
        if 0 < length < _SHORTEST_HEALTH_TIME:
            raise InvalidArgument.of(field, f"{length:g}s", "0 (the default) or at least 1 ms is needed")


def _check_host_line(line: str) -> None:
    address, *names = line.split()
    if not names or not _is_address(address):
        raise InvalidArgument.of("host", line, "an address and at least one name are needed: '10.0.0.1 database'")


def _check_dns(dns: DnsConfig) -> None:
    for server in dns.nameservers:
        if not _is_address(server):
            raise InvalidArgument.of("DNS server", server, "an IP address is needed")
    for domain in dns.search:
        if not domain or any(character.isspace() for character in domain):
            raise InvalidArgument.of("DNS search domain", domain, "a domain name is needed")
    for option in dns.options:
        if not option or any(character.isspace() for character in option):
            raise InvalidArgument.of("DNS option", option, "an option of resolv.conf(5) is needed, such as ndots:2")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_ulimits(ulimits: Iterable[Ulimit]) -> None:
    seen: set[str] = set()
    for ulimit in ulimits:
        if ulimit.name not in _ULIMITS:
            raise InvalidArgument.of("ulimit", ulimit.name, f"allowed are {', '.join(_ULIMITS)}")
        if ulimit.name in seen:
            raise InvalidArgument.of("ulimit", ulimit.name, "it is given twice")
        seen.add(ulimit.name)
        if ulimit.soft < -1 or ulimit.hard < -1:
            raise InvalidArgument.of(f"ulimit {ulimit.name}", min(ulimit.soft, ulimit.hard), "-1 means no limit")
        if ulimit.hard != -1 and (ulimit.soft == -1 or ulimit.soft > ulimit.hard):
            raise InvalidArgument.of(
                f"ulimit {ulimit.name}", f"{ulimit.soft}:{ulimit.hard}", "the soft limit must not be above the hard one"
            )


def _check_devices(devices: Iterable[Device]) -> None:
    seen: set[str] = set()
    for device in devices:
        target = device.target or device.source
        for field, path in (("device", device.source), ("device target", target)):
            if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise InvalidArgument.of(field, path, "an absolute path without '..' is needed, such as /dev/fuse")
        if set(device.permissions) - set("rwm") or len(set(device.permissions)) != len(device.permissions):
            raise InvalidArgument.of(
                f"permissions of device {device.source}", device.permissions, "allowed are r, w and m, each once"
            )
        if target in seen:
            raise InvalidArgument.of("device", target, "it is given twice")
        seen.add(target)


def check_file(word: str, file: FileTarget) -> None:
    """Where a secret or config appears in the container."""
    if not file.name or file.name.endswith("/") or ".." in file.name.split("/") or "\0" in file.name:
        raise InvalidArgument.of(f"{word} target", file.name, "a file name or path without '..' is needed")
    for field, value in (("uid", file.uid), ("gid", file.gid)):
        if value and not (value.isascii() and value.isdigit()):
            raise InvalidArgument.of(f"{word} {field}", value, "a number is needed")
    if file.mode > 0o7777:
        raise InvalidArgument.of(f"{word} mode", f"{file.mode:o}", "at most 7777 (octal) is allowed")
