"""Devices of the node that a container asks for, found and put into the words of the OCI runtime specification."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flota.v1.types_pb2 import Device
from flota.worker.runtime.container import BadContainer

_ALL = "rwm"
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
# Of one directory; a mistake such as /proc would give very many.
_MOST = 1000


class Found(NamedTuple):
    """What config.json says of a device: its node (linux.devices), and that it may be used (resources.devices)."""

    node: dict[str, Any]
    rule: dict[str, Any]


def look(devices: Iterable[Device]) -> list[Found]:
    """The node's devices as they are now. Raises BadContainer for one that is not there or is none."""
    return [found for device in devices for found in _look(device)]


def _look(device: Device) -> Iterator[Found]:
    source, target = Path(device.source), Path(device.target or device.source)
    try:
        if not source.is_dir():
            yield _found(source, target, device.permissions, source.stat())
            return
        inside = [file for file in sorted(source.rglob("*")) if _is_device(file)]
    except FileNotFoundError:
        raise BadContainer(f"device {device.source} is not on this node") from None
    except OSError as error:
        raise BadContainer(f"device {device.source} cannot be used: {error.strerror}") from None
    if not inside:
        raise BadContainer(f"there is no device in {device.source} on this node")
    if len(inside) > _MOST:
        raise BadContainer(f"there are more than {_MOST} devices in {device.source}: name those that are needed")
    for file in inside:
        yield _found(file, target / file.relative_to(source), device.permissions, file.stat())


def _is_device(file: Path) -> bool:
    return stat.S_IFMT(file.lstat().st_mode) in _KINDS


def _found(source: Path, target: Path, permissions: str, known: os.stat_result) -> Found:
    kind = _KINDS.get(stat.S_IFMT(known.st_mode))
    if kind is None:
        raise BadContainer(f"{source} is no device on this node: for files and directories use a bind mount")
    major, minor = os.major(known.st_rdev), os.minor(known.st_rdev)
    node = {
        "path": str(target),
        "type": kind,
        "major": major,
        "minor": minor,
        "fileMode": stat.S_IMODE(known.st_mode),
        "uid": known.st_uid,
        "gid": known.st_gid,
    }
    return Found(node, {"allow": True, "type": kind, "major": major, "minor": minor, "access": permissions or _ALL})
