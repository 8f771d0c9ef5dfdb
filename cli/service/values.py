"""One flag's value, read: networks, secrets, labels, ulimits, hosts. Every reader raises BadValue."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable, Mapping

from flota.stacks.errors import BadValue, did_you_mean
from flota.stacks.mounts import octal_mode, split_fields
from flota.v1.types_pb2 import (
    Dependency,
    FileTarget,
    GenericResource,
    NetworkAttachmentConfig,
    PlacementPreference,
    Ulimit,
)

_FILE_KEYS = ("source", "target", "uid", "gid", "mode")
_NETWORK_KEYS = ("name", "alias", "driver-opt", "ip", "ip6")


def key_value(text: str) -> tuple[str, str]:
    """KEY=VALUE; KEY alone has an empty value (labels)."""
    key, _, value = text.partition("=")
    if not key.strip():
        raise BadValue(text, "KEY=VALUE is needed")
    return key, value


def strict_key_value(text: str) -> tuple[str, str]:
    """KEY=VALUE, both needed."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadValue(text, "KEY=VALUE is needed")
    return key, value


def words(text: str) -> list[str]:
    """A command line as a shell would split it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadValue(text, f"it cannot be split into words ({str(error).lower()})") from None


def environment(texts: Iterable[str], mine: Mapping[str, str]) -> list[str]:
    """KEY=VALUE lines; KEY alone takes the value that it has in `mine`, and is left out when it has none there."""
    lines = []
    for text in texts:
        key, equals, _ = text.partition("=")
        if not key or any(character.isspace() for character in key):
            raise BadValue(text, "KEY=VALUE or KEY is needed, without spaces in KEY")
        if equals:
            lines.append(text)
        elif key in mine:
            lines.append(f"{key}={mine[key]}")
    return lines


def environment_file(content: str, mine: Mapping[str, str]) -> list[str]:
    """The lines of an --env-file: KEY=VALUE or KEY, # begins a comment."""
    lines = [line.lstrip() for line in content.splitlines()]
    return environment((line for line in lines if line and not line.startswith("#")), mine)


def network(text: str) -> NetworkAttachmentConfig:
    """A network's name, or name=NAME,alias=ALIAS,…"""
    if "=" not in text:
        if not text:
            raise BadValue(text, "a network's name is needed")
        return NetworkAttachmentConfig(target=text)
    attachment = NetworkAttachmentConfig()
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        match key.strip().lower():
            case _ if not equals or not value:
                raise BadValue(text, f"{field!r} must be key=value")
            case "name":
                attachment.target = value
            case "alias":
                attachment.aliases.append(value.lower())
            case "driver-opt":
                name, _, option = value.partition("=")
                attachment.driver_options[name] = option
            case "ip" | "ip6":
                attachment.addresses.append(value)
            case unknown:
                raise BadValue(text, f"the key {unknown!r} is not known{did_you_mean(unknown, _NETWORK_KEYS)}")
    if not attachment.target:
        raise BadValue(text, "name=NETWORK is missing")
    return attachment


def file_reference(text: str, folder: str) -> tuple[str, FileTarget]:
    """A secret or config: NAME, or source=NAME,target=FILE,uid=,gid=,mode=. Without target it appears as folder/NAME.

    Secrets' targets are names within /run/secrets (folder ""), configs' are paths (folder "/").
    """
    if "=" not in text and "," not in text:
        if not text:
            raise BadValue(text, "a name is needed")
        return text, FileTarget(name=folder + text, uid="0", gid="0", mode=0o444)
    name, file = "", FileTarget(uid="0", gid="0", mode=0o444)
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        match key.strip().lower():
            case _ if not equals or not value:
                raise BadValue(text, f"{field!r} must be key=value")
            case "source" | "src":
                name = value
            case "target":
                file.name = value
            case "uid":
                file.uid = value
            case "gid":
                file.gid = value
            case "mode":
                file.mode = octal_mode(value, text)
            case unknown:
                raise BadValue(text, f"the key {unknown!r} is not known{did_you_mean(unknown, _FILE_KEYS)}")
    if not name:
        raise BadValue(text, "source=NAME is missing")
    file.name = file.name or folder + name
    return name, file


def preference(text: str) -> PlacementPreference:
    """spread=node.labels.KEY"""
    strategy, equals, descriptor = text.partition("=")
    if strategy.strip() != "spread" or not equals or not descriptor.strip():
        raise BadValue(text, "spread=node.labels.KEY or spread=engine.labels.KEY is needed")
    made = PlacementPreference()
    made.spread.descriptor = descriptor.strip()
    return made


def generic_resource(text: str) -> GenericResource:
    """KIND=COUNT"""
    kind, equals, count = text.partition("=")
    if not equals or not kind or not count.isascii() or not count.isdigit():
        raise BadValue(text, "KIND=COUNT is needed, such as gpu=2")
    return GenericResource(kind=kind, count=int(count))


def ulimit(text: str) -> Ulimit:
    """NAME=SOFT[:HARD]; -1 is unlimited."""
    match = re.fullmatch(r"([a-z]+)=(-1|\d+)(?::(-1|\d+))?", text)
    if match is None:
        raise BadValue(text, "NAME=SOFT[:HARD] is needed, such as nofile=1024:4096")
    soft = int(match[2])
    hard = int(match[3]) if match[3] else soft
    if hard != -1 and (soft == -1 or soft > hard):
        raise BadValue(text, "the soft limit is above the hard one")
    return Ulimit(name=match[1], soft=soft, hard=hard)


def host(text: str) -> str:
    """HOST:ADDRESS, turned into a line of /etc/hosts."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    try:
        ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        raise BadValue(text, "HOST:ADDRESS is needed, such as db:10.0.0.5") from None
    if not separator or not name:
        raise BadValue(text, "HOST:ADDRESS is needed, such as db:10.0.0.5")
    return f"{address.strip('[]')} {name}"


def capability(text: str) -> str:
    """A capability's name in Docker's form: CAP_NET_ADMIN, ALL or RESET."""
    name = text.strip().upper()
    if not re.fullmatch(r"[A-Z_]+", name):
        raise BadValue(text, "a capability such as NET_ADMIN is needed")
    return name if name in ("ALL", "RESET") or name.startswith("CAP_") else f"CAP_{name}"


def address(text: str) -> str:
    """An IP address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(text, "an IP address is needed") from None


def constraint(text: str) -> str:
    """KEY==VALUE or KEY!=VALUE, without spaces around the operator; what KEY may be is the server's business."""
    match = re.fullmatch(r"\s*([^\s=!]+)\s*(==|!=)\s*(.+?)\s*", text)
    if match is None:
        raise BadValue(text, "KEY==VALUE or KEY!=VALUE is needed, such as node.role==manager")
    return f"{match[1]}{match[2]}{match[3]}"


_CONDITIONS = {
    "started": Dependency.CONDITION_STARTED,
    "healthy": Dependency.CONDITION_HEALTHY,
    "completed": Dependency.CONDITION_COMPLETED,
}


def dependency(text: str) -> Dependency:
    """SERVICE or SERVICE:CONDITION. Raises BadValue."""
    service, colon, condition = text.partition(":")
    if not service or (colon and condition not in _CONDITIONS):
        raise BadValue(text, f"SERVICE[:CONDITION] is needed, with one of {', '.join(_CONDITIONS)}")
    return Dependency(service=service, condition=_CONDITIONS[condition or "healthy"])
