"""Readers of the lists that have a short and a long form: secrets and configs, env files, networks, depends_on,
extra_hosts, ulimits. (Ports and volumes: ports.py, mounts.py.)"""

from __future__ import annotations

import ipaddress
from typing import Any

from flota.stacks.compose.canonical.leaves import (
    Reader,
    count,
    fields,
    flag,
    pairs,
    same,
    text,
    texts,
)
from flota.stacks.compose.canonical.words import ULIMITS, address, aliases
from flota.stacks.compose.tree import Items, Map, Spot, text_of
from flota.stacks.devices import format_device, parse_device
from flota.stacks.errors import BadValue, ComposeError, did_you_mean
from flota.stacks.mounts import (
    absolute,
    octal_mode,
)

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
