"""A task's mounts as config.json wants them: order, options, what may not be.

Pure, but for a bind's source, which is looked at and made if the spec asks for that.
"""

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from flota.v1.types_pb2 import Mount
from flota.worker.runtime import mounts
from flota.worker.runtime.bundle import HostMount
from flota.worker.runtime.container import BadContainer

_PROPAGATIONS = {
    Mount.PROPAGATION_RPRIVATE: "rprivate",
    Mount.PROPAGATION_PRIVATE: "private",
    Mount.PROPAGATION_RSHARED: "rshared",
    Mount.PROPAGATION_SHARED: "shared",
    Mount.PROPAGATION_RSLAVE: "rslave",
    Mount.PROPAGATION_SLAVE: "slave",
}
_TMPFS_MODE = 0o1777


def target(path: str) -> str:
    """A mount's place in the container in its shortest form. Raises BadContainer."""
    if not path.startswith("/"):
        raise BadContainer(f"invalid mount target {path!r}: must be an absolute path")
    result = posixpath.normpath("/" + path.lstrip("/"))
    if result == "/":
        raise BadContainer(f"invalid mount target {path!r}: the root of the container cannot be mounted over")
    return result


def bind(mount: Mount) -> HostMount:
    """A path of the node. Raises BadContainer."""
    source = Path(mount.source)
    if not source.is_absolute():
        raise BadContainer(f"invalid mount source {mount.source!r} (bind): must be an absolute path")
    if mount.bind_create_source:
        try:
            source.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadContainer(f"invalid mount source {mount.source!r} (bind): {error.strerror}") from None
    if not source.exists():
        raise BadContainer(f"invalid mount source {mount.source!r} (bind): there is no such path on this node")
    propagation = _PROPAGATIONS[mount.bind_propagation]
    if propagation.endswith("shared") and not mounts.shared(source.resolve()):
        raise BadContainer(
            f"invalid bind propagation {propagation} of {mount.source!r}: that is not on a shared mount of this node"
        )
    if mount.bind_nonrecursive:
        # Nothing is below, and crun takes the r of a propagation for the bind's.
        return directory(mount, str(source), "bind", propagation.removeprefix("r"))
    bound = directory(mount, str(source), "rbind", propagation)
    if mount.read_only and not mount.bind_writable_below and source.is_dir() and _can_set_all():
        # As Docker has it. crun can do it for directories only, and nothing is mounted below a file.
        return replace(bound, options=(*bound.options, "rro"))
    return bound


@cache
def _can_set_all() -> bool:
    """Whether the kernel has mount_setattr(2): all that is mounted below a place becomes read-only at once."""
    release = [int(number) for number in re.findall(r"\d+", os.uname().release)[:2]]
    return tuple(release) >= (5, 12)


def directory(mount: Mount, source: str, kind: str = "rbind", propagation: str = "rprivate") -> HostMount:
    """A directory (or file) of ours or the node's at the mount's target."""
    options = (kind, propagation, "ro" if mount.read_only else "rw")
    return HostMount(target(mount.target), "bind", source, options)


def tmpfs(mount: Mount) -> HostMount:
    """A file system in memory."""
    options = ["nosuid", "nodev", "noexec", f"mode={mount.tmpfs_mode or _TMPFS_MODE:o}"]
    if mount.tmpfs_size_bytes:
        options.append(f"size={mount.tmpfs_size_bytes}")
    if mount.read_only:
        options.append("ro")
    return HostMount(target(mount.target), "tmpfs", "tmpfs", tuple(options))


def file(path: str, source: Path, *, read_only: bool) -> HostMount:
    """A single file of ours."""
    return HostMount(target(path), "bind", str(source), ("bind", "rprivate", "ro" if read_only else "rw"))


def arrange(wanted: Iterable[HostMount], own: Iterable[HostMount]) -> list[HostMount]:
    """All of them, what is deeper later. The spec's go before our `own` of the same target. Raises BadContainer."""
    places: dict[str, HostMount] = {}
    for one in wanted:
        if one.target in places:
            raise BadContainer(f"duplicate mount target {one.target!r}: each place can be mounted once")
        places[one.target] = one
    for one in own:
        places.setdefault(one.target, one)
    return sorted(places.values(), key=lambda one: one.target.count("/"))
