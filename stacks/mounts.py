"""Mounts as people write them: `type=volume,source=data,target=/data,readonly`, and Compose's `data:/data:ro`."""

from __future__ import annotations

import csv
from posixpath import isabs, normpath

from flota.stacks.errors import BadValue, did_you_mean
from flota.stacks.units import parse_size
from flota.v1.types_pb2 import Driver, Mount

TYPES = {"bind": Mount.TYPE_BIND, "volume": Mount.TYPE_VOLUME, "tmpfs": Mount.TYPE_TMPFS}
PROPAGATIONS = {
    "rprivate": Mount.PROPAGATION_RPRIVATE,
    "private": Mount.PROPAGATION_PRIVATE,
    "rshared": Mount.PROPAGATION_RSHARED,
    "shared": Mount.PROPAGATION_SHARED,
    "rslave": Mount.PROPAGATION_RSLAVE,
    "slave": Mount.PROPAGATION_SLAVE,
}
# In a Compose file; ours, since Compose knows no nodes: tasks follow the volume.
AFFINITY = "x-affinity"
# What becomes of what is mounted below a bind: it comes along, and is read-only with it (enabled, readonly) or not.
RECURSIVE = ("enabled", "disabled", "writable", "readonly")
_SYNONYMS = {
    "src": "source",
    "destination": "target",
    "dst": "target",
    "ro": "readonly",
    "bind-create-src": "bind-create-source",
}
_KEYS = (
    *("type", "source", "target", "readonly", "consistency", "bind-propagation", "bind-nonrecursive", "bind-recursive"),
    *("bind-create-src", "volume-driver", "volume-opt", "volume-label", "volume-nocopy", "volume-subpath"),
    *("tmpfs-size", "tmpfs-mode", "affinity"),
)


def split_fields(text: str) -> list[str]:
    """Split at commas; a field in double quotes may contain some. Raises BadValue."""
    try:
        return next(iter(csv.reader([text], strict=True)), [])
    except csv.Error as error:
        raise BadValue(text, str(error)) from None


def truth(value: str, whole: object) -> bool:
    """true or false, as Go reads them."""
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise BadValue(whole, f"{value!r} is neither true nor false")


def octal_mode(text: str, whole: object) -> int:
    """A file's permissions, octal."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise BadValue(whole, f"{text!r} is not an octal mode such as 0444")
    return mode


def parse_mount(text: str) -> Mount:
    """A mount of `--mount`. Raises BadValue."""
    mount = Mount(type=Mount.TYPE_VOLUME)
    prefixes: set[str] = set()
    for part in split_fields(text):
        key, equals, value = part.partition("=")
        key = _SYNONYMS.get(key.strip().lower(), key.strip().lower())
        if not equals and key not in ("readonly", "volume-nocopy", "bind-nonrecursive", "bind-create-source"):
            raise BadValue(text, f"{part!r} must be key=value{did_you_mean(key, _KEYS)}")
        _set(mount, key, value if equals else "true", text)
        prefixes.add(key.split("-")[0])
    kind = next(name for name, value in TYPES.items() if value == mount.type)
    for other in TYPES:
        if other != kind and other in prefixes:
            raise BadValue(text, f"{other}-… options do not fit type={kind}")
    check_mount(mount, text)
    return mount


def _set(mount: Mount, key: str, value: str, whole: str) -> None:
    match key:
        case "type":
            if value.lower() not in TYPES:
                raise BadValue(whole, f"the type {value!r} is not one of bind, volume, tmpfs")
            mount.type = TYPES[value.lower()]
        case "source":
            mount.source = value
        case "target":
            mount.target = value
        case "readonly":
            mount.read_only = truth(value, whole)
        case "consistency":
            pass  # Docker reads it and does nothing on Linux.
        case "bind-propagation":
            if value.lower() not in PROPAGATIONS:
                raise BadValue(whole, f"the propagation {value!r} is not one of {', '.join(PROPAGATIONS)}")
            mount.bind_propagation = PROPAGATIONS[value.lower()]
        case "bind-nonrecursive":
            mount.bind_nonrecursive = truth(value, whole)
        case "bind-recursive":
            if value.lower() not in RECURSIVE:
                raise BadValue(whole, f"bind-recursive={value} is not one of {', '.join(RECURSIVE)}")
            set_recursive(mount, value.lower())
        case "bind-create-source":
            mount.bind_create_source = truth(value, whole)
        case "volume-nocopy":
            mount.volume_nocopy = truth(value, whole)
        case "volume-subpath":
            mount.volume_subpath = value
        case "volume-driver":
            mount.volume_driver.name = value
        case "volume-opt":
            name, _, option = value.partition("=")
            mount.volume_driver.options[name] = option
        case "volume-label":
            name, _, label = value.partition("=")
            mount.volume_labels[name] = label
        case "affinity":
            if value != "node":
                raise BadValue(whole, f"the affinity {value!r} is not node")
            mount.volume_node_affinity = True
        case "tmpfs-size":
            mount.tmpfs_size_bytes = parse_size(value)
        case "tmpfs-mode":
            mount.tmpfs_mode = octal_mode(value, whole)
        case _:
            raise BadValue(whole, f"the key {key!r} is not known{did_you_mean(key, _KEYS)}")


def check_mount(mount: Mount, whole: object) -> None:
    """Hold what is true for every mount. Raises BadValue."""
    if not mount.target:
        raise BadValue(whole, "target=PATH is missing")
    if not isabs(mount.target):
        raise BadValue(whole, f"the target {mount.target!r} must be an absolute path in the container")
    if is_root(mount.target):
        raise BadValue(whole, "the container's root cannot be mounted over")
    if mount.volume_node_affinity and (mount.type != Mount.TYPE_VOLUME or not mount.source):
        raise BadValue(whole, "affinity=node needs type=volume and source=NAME")
    if mount.type == Mount.TYPE_BIND:
        if not mount.source:
            raise BadValue(whole, "a bind mount needs source=PATH")
        if not isabs(mount.source) and not mount.source.startswith("{{"):
            raise BadValue(whole, f"the source {mount.source!r} of a bind mount must be an absolute path")
    if mount.type == Mount.TYPE_TMPFS and mount.source:
        raise BadValue(whole, "a tmpfs has no source")


def set_recursive(mount: Mount, word: str) -> None:
    """`word` is one of RECURSIVE."""
    mount.bind_nonrecursive = word == "disabled"
    mount.bind_writable_below = word == "writable"


def is_root(target: str) -> bool:
    """Whether an absolute path is a way to write /: //, /., /x/.."""
    return not normpath(target).strip("/")


def parse_short_volume(text: str, folder: str) -> Mount:
    """Compose's `[SOURCE:]TARGET[:OPTIONS]`; a relative source is taken from `folder`. Raises BadValue."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise BadValue(text, "[SOURCE:]TARGET[:OPTIONS] is needed, such as data:/var/lib/data:ro")
    if len(parts) == 1:
        mount = Mount(type=Mount.TYPE_VOLUME, target=parts[0])
    else:
        source = parts[0]
        if source.startswith(("/", ".", "~")):
            mount = Mount(type=Mount.TYPE_BIND, source=absolute(source, folder), target=parts[1])
        else:
            mount = Mount(type=Mount.TYPE_VOLUME, source=source, target=parts[1])
    for option in parts[2].split(",") if len(parts) == 3 else []:
        _short_option(mount, option, text)
    check_mount(mount, text)
    return mount


def _short_option(mount: Mount, option: str, whole: str) -> None:
    if option in ("ro", "rw"):
        mount.read_only = option == "ro"
    elif option == "nocopy" and mount.type == Mount.TYPE_VOLUME:
        mount.volume_nocopy = True
    elif option in PROPAGATIONS and mount.type == Mount.TYPE_BIND:
        mount.bind_propagation = PROPAGATIONS[option]
    elif option in ("z", "Z", "cached", "delegated", "consistent"):
        pass  # SELinux labels and hints for other systems: nothing to do here.
    else:
        raise BadValue(
            whole, f"the option {option!r} is not one of ro, rw, nocopy (volumes), {', '.join(PROPAGATIONS)}"
        )


def parse_short_tmpfs(text: str) -> tuple[Mount, list[str]]:
    """Compose's `PATH[:OPTIONS]`, and those of the options that a task's tmpfs does not have. Raises BadValue."""
    target, _, options = text.partition(":")
    mount = Mount(type=Mount.TYPE_TMPFS, target=target)
    ignored = []
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            mount.tmpfs_size_bytes = parse_size(value)
        elif key == "mode":
            mount.tmpfs_mode = octal_mode(value, text)
        elif key in ("ro", "rw"):
            mount.read_only = key == "ro"
        else:
            ignored.append(option)
    check_mount(mount, text)
    return mount, ignored


def absolute(path: str, folder: str) -> str:
    """`path` as an absolute path: ~ is the home of whoever deploys, relative ones start at `folder`."""
    if path.startswith("~"):
        from os.path import expanduser

        return expanduser(path)
    return normpath(path if isabs(path) else f"{folder}/{path}")


def driver_of(name: str, options: dict[str, str]) -> Driver:
    """A driver with its options."""
    return Driver(name=name, options=options)
