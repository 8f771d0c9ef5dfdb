"""What mounts may look like. Pure; raises InvalidArgument. Semantics: Docker's volume/mounts parser and validator.

Sources and targets may contain templates ({{.Task.Slot}}); those are checked where they are expanded.
"""

import posixpath
import re
from collections.abc import Iterable

from flota.manager.scheduler.demand import TEMPLATE
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1.types_pb2 import Mount

_PROPAGATIONS = "rprivate, private, rshared, shared, rslave and slave"
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def check_mounts(mounts: Iterable[Mount]) -> None:
    """Each by itself, and no target twice."""
    targets: set[str] = set()
    for mount in mounts:
        check_mount(mount)
        target = posixpath.normpath(mount.target)
        if target in targets:
            raise InvalidArgument.of("mount target", mount.target, "another mount has the same target")
        targets.add(target)


def check_mount(mount: Mount) -> None:
    """One mount."""
    if not mount.target.startswith("/"):
        raise InvalidArgument.of("mount target", mount.target, "an absolute path in the container is needed")
    if posixpath.normpath(mount.target).lstrip("/") == "":
        raise InvalidArgument.of("mount target", mount.target, "the container's root cannot be mounted over")
    if mount.bind_propagation not in Mount.Propagation.values():
        raise InvalidArgument.of("mount propagation", mount.bind_propagation, f"allowed are {_PROPAGATIONS}")
    if mount.type == Mount.TYPE_BIND:
        _check_bind(mount)
    elif mount.type == Mount.TYPE_VOLUME:
        _check_volume(mount)
    elif mount.type == Mount.TYPE_TMPFS:
        _check_tmpfs(mount)
    else:
        raise InvalidArgument.of("mount type", mount.type, "allowed are bind, volume and tmpfs")


def _check_bind(mount: Mount) -> None:
    if not mount.source.startswith(("/", "{{")):
        raise InvalidArgument.of("bind mount source", mount.source, "an absolute path of the node is needed")
    _refuse_volume_options(mount, "bind")
    _refuse_tmpfs_options(mount, "bind")


def _check_volume(mount: Mount) -> None:
    if mount.source and "{{" not in mount.source and not _VOLUME_NAME.fullmatch(mount.source):
        hint = "; for a path of the node use type bind" if mount.source.startswith("/") else ""
        raise InvalidArgument.of(
            "volume name", mount.source,
            f"two or more letters, digits, '_', '.' and '-' are needed, beginning with a letter or digit{hint}",
        )  # fmt: skip
    if not mount.source and mount.read_only:
        raise InvalidArgument(f"mount {mount.target}: an anonymous volume cannot be read-only, it would stay empty")
    if mount.volume_node_affinity:
        _check_affinity(mount)
    if mount.volume_driver.name not in ("", "local"):
        raise Unsupported(f"volume driver {mount.volume_driver.name!r} is not supported: only local is")
    subpath = mount.volume_subpath
    if subpath and (subpath.startswith("/") or ".." in subpath.split("/")):
        raise InvalidArgument.of("volume subpath", subpath, "a path within the volume is needed, without '..'")
    if _has_bind_options(mount):
        raise InvalidArgument(f"mount {mount.target}: bind options do not go with a volume")
    _refuse_tmpfs_options(mount, "volume")


def _has_bind_options(mount: Mount) -> bool:
    return bool(
        mount.bind_propagation or mount.bind_nonrecursive or mount.bind_create_source or mount.bind_writable_below
    )


def _check_affinity(mount: Mount) -> None:
    """Where the volume is is asked before the task has a node."""
    if not mount.source:
        raise InvalidArgument(f"mount {mount.target}: affinity=node needs a volume with a name (source=NAME)")
    if "{{" in TEMPLATE.sub("", mount.source):
        raise InvalidArgument.of(
            "volume name", mount.source,
            "with affinity=node only {{.Task.Slot}}, {{.Service.Name}} and {{.Service.ID}} may stand in it",
        )  # fmt: skip


def _check_tmpfs(mount: Mount) -> None:
    if mount.source:
        raise InvalidArgument.of("tmpfs mount source", mount.source, "a tmpfs has no source")
    if mount.tmpfs_size_bytes < 0:
        raise InvalidArgument.of("tmpfs size", mount.tmpfs_size_bytes, "0 (no limit) or more bytes are allowed")
    if mount.tmpfs_mode > 0o7777:
        raise InvalidArgument.of("tmpfs mode", f"{mount.tmpfs_mode:o}", "at most 7777 (octal) is allowed")
    if _has_bind_options(mount):
        raise InvalidArgument(f"mount {mount.target}: bind options do not go with a tmpfs")
    _refuse_volume_options(mount, "tmpfs")


def _refuse_volume_options(mount: Mount, kind: str) -> None:
    if mount.volume_node_affinity:
        raise InvalidArgument(f"mount {mount.target}: affinity=node is for volumes, not for a {kind} mount")
    if mount.volume_nocopy or mount.volume_subpath or mount.volume_labels or mount.HasField("volume_driver"):
        raise InvalidArgument(f"mount {mount.target}: volume options do not go with a {kind} mount")


def _refuse_tmpfs_options(mount: Mount, kind: str) -> None:
    if mount.tmpfs_size_bytes or mount.tmpfs_mode:
        raise InvalidArgument(f"mount {mount.target}: tmpfs options do not go with a {kind} mount")
