"""Readers of the lists that have a short and a long form: ports, volumes, secrets and configs, env files, networks,
depends_on, extra_hosts, ulimits."""

from __future__ import annotations

import ipaddress
from typing import Any

from flota.stacks.compose.canonical.leaves import (
    Reader,
    count,
    fields,
    flag,
    keeps_variables,
    pairs,
    same,
    size,
    text,
    texts,
)
from flota.stacks.compose.canonical.words import ULIMITS, address, aliases
from flota.stacks.compose.tree import Items, Map, Spot, text_of
from flota.stacks.devices import format_device, parse_device
from flota.stacks.errors import BadValue, ComposeError, did_you_mean
from flota.stacks.mounts import (
    AFFINITY,
    PROPAGATIONS,
    absolute,
    check_mount,
    octal_mode,
    parse_short_tmpfs,
    parse_short_volume,
)
from flota.stacks.ports import (
    MODES,
    PROTOCOLS,
    PROXY_PROTOCOL,
    mode_of,
    parse_port,
    port_number,
    protocol_of,
    proxy_protocol_of,
)
from flota.v1.types_pb2 import Mount, PortConfig

_PROTOCOL_WORDS = {number: word for word, number in PROTOCOLS.items()}
_MODE_WORDS = {number: word for word, number in MODES.items()}
_PROPAGATION_WORDS = {number: word for word, number in PROPAGATIONS.items()}


# --- ports --------------------------------------------------------------------------------------------------------


def ports(value: Any, spot: Spot) -> Items:
    """A list of {target, published, protocol, mode, …}; a range becomes one entry for each port."""
    made = Items(value.place)
    for index, each in enumerate(value):
        here = spot.of(value, index)
        try:
            entries = [_long_port(each)] if isinstance(each, Map) else _short_ports(text_of(each), here)
        except BadValue as error:
            raise here.bad(error) from None
        for entry in entries:
            made.put(entry, here.place)
    return made


def _short_ports(text: str, spot: Spot) -> list[Map]:
    if "=" in text:
        raise BadValue(text, "in a file the long form is a mapping with target:, published:, protocol:, mode:")
    configs, _ = parse_port(text)
    front, _, _ = text.partition("/")[0].rpartition(":")
    address = front.rpartition(":")[0].strip("[]")
    entries = []
    for config in configs:
        entry = Map(spot.place)
        if address:
            entry.put("host_ip", _address(address, text))
        _put_port(entry, config)
        entries.append(entry)
    return entries


def _put_port(entry: Map, config: PortConfig) -> None:
    entry.put("target", config.target_port)
    if config.published_port:
        entry.put("published", str(config.published_port))
    entry.put("protocol", _PROTOCOL_WORDS[config.protocol])
    entry.put("mode", _MODE_WORDS[config.publish_mode])


def _address(text: str, whole: object) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(whole, f"{text!r} is not an IP address") from None


def _long_port(entry: Map) -> Map:
    shown = " ".join(f"{key}={text_of(value)}" for key, value in entry.items())
    published = text_of(entry.get("published") or "0")
    if "-" in published:
        raise BadValue(shown, "published takes one port here; write an entry for each, or the short form for a range")
    config = PortConfig(
        target_port=port_number(text_of(entry["target"]), shown),
        published_port=port_number(published, shown, zero=True),
        protocol=protocol_of(entry.get("protocol", "tcp"), shown),
        publish_mode=mode_of(entry.get("mode", "ingress"), shown),
    )
    if PROXY_PROTOCOL in entry:
        config.proxy_protocol = proxy_protocol_of(text_of(entry[PROXY_PROTOCOL]), shown)
        entry[PROXY_PROTOCOL] = text_of(entry[PROXY_PROTOCOL]).lower()
    if entry.get("host_ip"):
        entry["host_ip"] = _address(entry["host_ip"].strip("[]"), shown)
    entry.drop("published")
    _put_port(entry, config)
    return entry


# --- volumes and tmpfs --------------------------------------------------------------------------------------------

_BIND: Reader = fields({"propagation": same, "create_host_path": flag, "recursive": same, "selinux": same})
_VOLUME: Reader = fields({"labels": pairs(), "nocopy": flag, "subpath": text, AFFINITY: same})


def mounts(folder: str) -> Reader:
    """A list of {type, source, target, read_only, …}; relative sources are taken from `folder`."""

    def read(value: Any, spot: Spot) -> Items:
        made = Items(value.place)
        for index, each in enumerate(value):
            here = spot.of(value, index)
            try:
                entry = _long_mount(each, folder, here) if isinstance(each, Map) else _short_mount(each, folder, here)
                if not keeps_variables():
                    check_mount(mount_of(entry), entry["target"])
            except BadValue as error:
                raise here.bad(error) from None
            made.put(entry, here.place)
        return made

    return read


def _short_mount(text: str, folder: str, spot: Spot) -> Map:
    mount = parse_short_volume(text, folder)
    entry = Map(spot.place)
    entry.put("type", "bind" if mount.type == Mount.TYPE_BIND else "volume")
    if mount.source:
        entry.put("source", mount.source)
    entry.put("target", mount.target)
    if mount.read_only:
        entry.put("read_only", True)
    if mount.bind_propagation:
        entry.put("bind", Map(spot.place))
        entry["bind"].put("propagation", _PROPAGATION_WORDS[mount.bind_propagation])
    if mount.volume_nocopy:
        entry.put("volume", Map(spot.place))
        entry["volume"].put("nocopy", True)
    return entry


def _tmpfs_mode(value: Any, spot: Spot) -> str:
    return file_mode(value, spot)


_TMPFS: Reader = fields({"size": size, "mode": _tmpfs_mode})


def _long_mount(entry: Map, folder: str, spot: Spot) -> Map:
    for key in [key for key, value in entry.items() if value is None]:
        entry.drop(key)
    source = entry.get("source", "")
    if "type" not in entry:
        entry.put("type", "bind" if source.startswith(("/", ".", "~")) else "volume")
    kind = entry["type"]
    if kind not in ("bind", "volume", "tmpfs"):
        spot.of(entry, "type").fail(f"mounts of type {kind} are not supported; bind, volume and tmpfs are")
    for other in ("bind", "volume", "tmpfs", "image", "cluster"):
        if other in entry and other != kind:
            spot.of(entry, other).fail(f"{other}: options do not fit a mount of type {kind}")
    if kind == "bind" and source and not source.startswith("{{"):
        entry["source"] = absolute(source, folder)
    reader = {"bind": _BIND, "volume": _VOLUME, "tmpfs": _TMPFS}[kind]
    if kind in entry:
        entry[kind] = reader(entry[kind], spot.of(entry, kind))
    affinity = entry.get("volume", {}).get(AFFINITY, "node")
    if affinity != "node":
        spot.of(entry, "volume").of(entry["volume"], AFFINITY).fail(f"the affinity {affinity!r} is not node")
    if "read_only" in entry:
        entry["read_only"] = flag(entry["read_only"], spot.of(entry, "read_only"))
    return entry


def mount_of(entry: Map) -> Mount:
    """The message of a canonical entry; volumes' names and drivers are not filled in."""
    mount = Mount(
        type=Mount.Type.Value(f"TYPE_{entry['type'].upper()}"),
        source=entry.get("source", ""),
        target=entry["target"],
        read_only=entry.get("read_only", False),
    )
    bind, volume, tmpfs = entry.get("bind", {}), entry.get("volume", {}), entry.get("tmpfs", {})
    mount.bind_propagation = PROPAGATIONS[bind.get("propagation", "rprivate")]
    mount.bind_nonrecursive = bind.get("recursive") == "disabled"
    mount.bind_create_source = bind.get("create_host_path", False)
    mount.volume_nocopy = volume.get("nocopy", False)
    mount.volume_subpath = volume.get("subpath", "")
    mount.volume_node_affinity = AFFINITY in volume
    mount.volume_labels.update(volume.get("labels", {}))
    mount.tmpfs_size_bytes = int(tmpfs.get("size", 0))
    mount.tmpfs_mode = int(tmpfs.get("mode", "0"), 8)
    return mount


def tmpfs(value: Any, spot: Spot) -> Items:
    """A list of PATH[:OPTIONS]."""
    listed = texts(value, spot)
    for index, each in enumerate(listed):
        try:
            parse_short_tmpfs(each)
        except BadValue as error:
            here = spot.of(value, index) if isinstance(value, Items) else spot
            raise here.bad(error) from None
    return listed


# --- secrets, configs, files --------------------------------------------------------------------------------------


def file_mode(value: Any, spot: Spot) -> str:
    """A file's permissions in octal: 0440 (YAML reads it as octal) or "0440"."""
    try:
        mode = value if isinstance(value, int) else octal_mode(text_of(value).removeprefix("0o"), value)
    except BadValue as error:
        raise spot.bad(error) from None
    if not 0 <= mode <= 0o7777:
        spot.fail(f"{text_of(value)!r} is not an octal mode such as 0444")
    return f"{mode:04o}"


_REFERENCE: Reader = fields({"source": text, "target": text, "uid": text, "gid": text, "mode": file_mode})


def references(value: Any, spot: Spot) -> Items:
    """A list of {source, target, uid, gid, mode}."""
    made = Items(value.place)
    for index, each in enumerate(value):
        here = spot.of(value, index)
        if isinstance(each, Map):
            entry = _REFERENCE(each, here)
        else:
            entry = Map(here.place)
            entry.put("source", each)
        made.put(entry, here.place)
    return made


def files(folder: str) -> Reader:
    """env_file and label_file: a list of {path, required, format}."""

    def read(value: Any, spot: Spot) -> Items:
        listed = value if isinstance(value, Items) else Items(spot.place, [value])
        made = Items(listed.place)
        for index, each in enumerate(listed):
            here = spot.of(listed, index) if listed is value else spot
            entry = each if isinstance(each, Map) else Map(here.place)
            path = each["path"] if isinstance(each, Map) else each
            if not path.strip():
                here.fail("a file's path is needed")
            entry.put("path", absolute(path, folder))
            entry.put("required", flag(entry.get("required", True), here))
            made.put(entry, here.place)
        return made

    return read


# --- networks, dependencies, hosts, limits ------------------------------------------------------------------------


def _named(value: Any, make: Reader, spot: Spot) -> Map:
    """A mapping of names to mappings, also when written as a list of names."""
    if isinstance(value, Map):
        for key, each in value.items():
            value[key] = make(each, spot.of(value, key))
        return value
    made = Map(value.place)
    for index, name in enumerate(value):
        made.put(name, make(Map(value.place_of(index)), spot.of(value, index)), value.place_of(index))
    return made


_ATTACHMENT: Reader = fields(
    {
        "aliases": aliases,
        "driver_opts": pairs(),
        "ipv4_address": address,
        "ipv6_address": address,
        "link_local_ips": texts,
    }
)


def networks(value: Any, spot: Spot) -> Map:
    """name → {aliases, ipv4_address, …}"""
    return _named(value, _ATTACHMENT, spot)


def depends_on(value: Any, spot: Spot) -> Map:
    """name → {condition, required, restart}"""

    def read(entry: Any, here: Spot) -> Map:
        made: Map = fields({"condition": same, "required": flag, "restart": flag})(entry, here)
        made.put("condition", made.get("condition", "service_started"))
        made.put("required", made.get("required", True))
        return made

    return _named(value, read, spot)


def extra_hosts(value: Any, spot: Spot) -> Items:
    """A list of HOST=ADDRESS."""
    made = Items(value.place)
    if isinstance(value, Map):
        for host, addresses in value.items():
            here = spot.of(value, host)
            for address in addresses if isinstance(addresses, Items) else [addresses]:
                made.put(f"{host}={_host_address(text_of(address), here)}", here.place)
        return made
    for index, each in enumerate(value):
        here = spot.of(value, index)
        host, separator, address = each.partition("=" if "=" in each else ":")
        if not separator or not host.strip():
            here.fail(f"{each!r} is not HOST=ADDRESS, such as db=10.0.0.5")
        made.put(f"{host.strip()}={_host_address(address, here)}", here.place)
    return made


def devices(value: Any, spot: Spot) -> Items:
    """A list of SOURCE[:TARGET][:PERMISSIONS], each target once; a map of the three is the same."""
    made = Items(value.place)
    targets: set[str] = set()
    for index, each in enumerate(value):
        here = spot.of(value, index)
        if isinstance(each, Map):
            each = ":".join(filter(None, (text_of(each.get(key, "")) for key in ("source", "target", "permissions"))))
        try:
            device = parse_device(text_of(each))
        except BadValue as error:
            raise here.error(str(error)) from None
        for path in (device.source, device.target):
            if ".." in path.split("/"):
                here.fail(f"{path!r} is not an absolute path without '..'")
        target = device.target or device.source
        if target in targets:
            here.fail(f"the device {target!r} is given twice")
        targets.add(target)
        made.put(format_device(device), here.place)
    return made


def _host_address(address: str, spot: Spot) -> str:
    if address.strip() == "host-gateway":
        spot.fail("host-gateway stands for one machine's address, which a swarm does not have; give an address")
    try:
        return str(ipaddress.ip_address(address.strip().strip("[]")))
    except ValueError:
        raise spot.error(f"{address!r} is not an IP address") from None


def ulimits(value: Any, spot: Spot) -> Map:
    """name → limit, or {soft, hard}"""
    for name, limit in value.items():
        here = spot.of(value, name)
        if name not in ULIMITS:
            here.fail(f"{name!r} is not a limit; one of {', '.join(ULIMITS)} is{did_you_mean(name, ULIMITS)}")
        value[name] = _ulimit(limit, here)
    made: Map = value
    return made


def _ulimit(value: Any, spot: Spot) -> int | Map:
    """One limit, or {soft, hard}; -1 is unlimited."""
    number = count(-1)
    if not isinstance(value, Map):
        return int(number(value, spot))
    limits: Map = fields({"soft": number, "hard": number})(value, spot)
    soft, hard = limits.get("soft"), limits.get("hard")
    if soft is None or hard is None:
        spot.fail("both soft: and hard: are needed")
    if hard != -1 and (soft == -1 or soft > hard):
        spot.fail(f"the soft limit {soft} is above the hard one, {hard}")
    return int(soft) if soft == hard else limits


def platform(value: Any, spot: Spot) -> str:
    """OS[/ARCHITECTURE[/VARIANT]]"""
    parts = value.split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        spot.fail(f"{value!r} is not OS/ARCHITECTURE, such as linux/arm64")
    return str(value)


def restart(value: Any, spot: Spot) -> str:
    """no, always, unless-stopped, on-failure[:MAX]"""
    word = "no" if value is False else text_of(value)
    kind, colon, most = word.partition(":")
    if kind not in ("no", "always", "unless-stopped", "on-failure") or (colon and kind != "on-failure"):
        raise _bad_restart(word, spot)
    if colon and not (most.isascii() and most.isdigit()):
        raise _bad_restart(word, spot)
    return word


def _bad_restart(word: str, spot: Spot) -> ComposeError:
    return spot.error(f"{word!r} is not allowed; no, always, unless-stopped or on-failure[:MAX] is needed")


def health_test(value: Any, spot: Spot) -> Items:
    """[NONE], [CMD, …] or [CMD-SHELL, LINE]; a text is a line for the shell."""
    if not isinstance(value, Items):
        return Items(spot.place, ["CMD-SHELL", text_of(value)])
    listed = texts(value, spot)
    if listed and listed[0] not in ("NONE", "CMD", "CMD-SHELL"):
        spot.fail(f"the list begins with {listed[0]!r}; NONE, CMD or CMD-SHELL must come first (or write one text)")
    least = {"CMD": 2, "CMD-SHELL": 2, "NONE": 1}
    if listed and len(listed) < least[listed[0]]:
        spot.fail(f"behind {listed[0]} the command is missing")
    if listed and listed[0] != "CMD" and len(listed) > least[listed[0]]:
        spot.fail(f"{listed[0]} takes {'one line' if listed[0] == 'CMD-SHELL' else 'nothing'} behind it")
    return listed
