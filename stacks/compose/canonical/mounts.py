"""Readers of volumes and tmpfs, short and long; and the mount that an entry means."""

from __future__ import annotations

from typing import Any

from flota.stacks.compose.canonical.entries import file_mode
from flota.stacks.compose.canonical.leaves import (
    Reader,
    fields,
    flag,
    keeps_variables,
    pairs,
    same,
    size,
    text,
    texts,
)
from flota.stacks.compose.tree import Items, Map, Spot
from flota.stacks.errors import BadValue
from flota.stacks.mounts import (
    AFFINITY,
    PROPAGATIONS,
    absolute,
    check_mount,
    parse_short_tmpfs,
    parse_short_volume,
    set_recursive,
)
from flota.v1.types_pb2 import Mount

_PROPAGATION_WORDS = {number: word for word, number in PROPAGATIONS.items()}


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
    set_recursive(mount, bind.get("recursive", "enabled"))
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
