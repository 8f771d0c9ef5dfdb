"""Named volumes of this node: directories that outlive the tasks that use them (Docker's "local" driver).

    STATE/volumes/NAME/volume.json   labels, driver options, when it was made
                      /_data         what containers see; with driver options, what those mount
                      /users/ID      one empty file per container that uses it
                      /filling       there while content of an image is copied in

A volume is made at its first use and stays until somebody removes it.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

from flota.rpc.errors import FailedPrecondition, NotFound
from flota.v1.types_pb2 import Driver, Mount
from flota.worker.runtime import mounts, processes
from flota.worker.runtime.container import BadContainer, ContainerError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_DRIVERS = ("", "local")
# Docker's label of a volume that nobody gave a name.
ANONYMOUS = "com.docker.volume.anonymous"
_OPTIONS = ("type", "device", "o")
_MOUNT_LIMIT = 30.0
_COPY_LIMIT = 3600.0


class VolumeInUse(FailedPrecondition):
    """A container uses it. The message is for people."""


class VolumeNotFound(NotFound):
    """There is no such volume on this node. The message is for people."""


@dataclass(frozen=True)
class Volume:
    """What is known of a volume. `options` are the driver's: type, device, o, as mount(8) has them."""

    name: str
    created: str
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


class Volumes:
    """The volumes in `directory`. `changed` is called when one has come or gone."""

    def __init__(self, directory: Path) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._directory = directory
        # A lock is there as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def use(self, user: str, mount: Mount, content: Path) -> Path:
        """The directory of the volume `mount` names, made if need be; `user` holds it until `release`.

        `content` is what the image has at the mount's target: an empty volume begins with it. Raises BadContainer,
        ContainerError.
        """
        name = mount.source
        _check_name(name)
        driver = mount.volume_driver if mount.HasField("volume_driver") else None
        async with self._lock(name):
            volume = self._made(name, driver, mount.volume_labels)
            data = self._directory / name / "_data"
            if volume.options and not await asyncio.to_thread(mounts.is_mounted, data):
                await _mount(volume, data)
            users = self._directory / name / "users"
            users.mkdir(exist_ok=True)
            (users / user).touch()
            if not mount.volume_nocopy:
                await fill(content, data)
            return data

    async def release(self, user: str) -> None:
        """`user` is gone. What was mounted for its volumes is unmounted with the last one's. Raises OSError."""
        for held in await asyncio.to_thread(self._held, user):
            async with self._lock(held.name):
                (held / "users" / user).unlink(missing_ok=True)
                if not any((held / "users").iterdir()):
                    await asyncio.to_thread(mounts.unmount, held / "_data")

    async def create(self, name: str, driver: Driver, labels: Mapping[str, str]) -> Volume:
        """A volume for later, with a made-up name if `name` is empty; the one there is, if it has the same options.

        Raises BadContainer, OSError.
        """
        if not name:
            name, labels = secrets.token_hex(32), {**labels, ANONYMOUS: ""}
        _check_name(name)
        async with self._lock(name):
            return self._made(name, driver, labels)

    def mountpoint(self, name: str) -> Path:
        """What containers see of a volume."""
        return self._directory / name / "_data"

    def all(self) -> list[Volume]:
        """Every volume, by name."""
        names = sorted(os.listdir(self._directory)) if self._directory.is_dir() else []
        return [volume for name in names if (volume := self._read(name))]

    def users(self, name: str) -> set[str]:
        """The containers that use a volume."""
        with suppress(FileNotFoundError):
            return set(os.listdir(self._directory / name / "users"))
        return set()

    async def remove(self, name: str) -> None:
        """Delete a volume and what is in it. Raises VolumeNotFound, VolumeInUse, OSError."""
        async with self._lock(name):
            if not _NAME.fullmatch(name) or self._read(name) is None:
                raise VolumeNotFound(f"no such volume: {name}")
            if users := self.users(name):
                raise VolumeInUse(f"volume {name} is used by {', '.join(sorted(users))}")
            await asyncio.to_thread(mounts.unmount_below, self._directory / name)
            await asyncio.to_thread(mounts.delete, self._directory / name)
        self.changed()

    async def prune(self, wanted: Callable[[Volume], bool]) -> list[str]:
        """Remove the volumes that nothing uses, those of them that are `wanted`; their names. Raises OSError."""
        gone = []
        for volume in await asyncio.to_thread(self.all):
            if wanted(volume) and not self.users(volume.name):
                with suppress(VolumeInUse, VolumeNotFound):
                    await self.remove(volume.name)
                    gone.append(volume.name)
        return gone

    def _held(self, user: str) -> list[Path]:
        return [file.parent.parent for file in self._directory.glob(f"*/users/{user}")]

    def _made(self, name: str, driver: Driver | None, labels: Mapping[str, str]) -> Volume:
        """The volume, new or not; `driver` is None when that may be any."""
        wanted = _options(name, driver or Driver())
        known = self._read(name)
        if known is not None:
            if driver is not None and wanted != known.options:
                raise BadContainer(
                    f"volume {name} exists on this node with other driver options: {known.options or 'none'}"
                )
            return known
        volume = Volume(name, datetime.now(UTC).isoformat(), dict(labels), wanted)
        directory = self._directory / name
        # Others may look into a volume whose path they know, as far as its own modes let them.
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        (directory / "_data").mkdir(parents=True, exist_ok=True)
        (directory / "_data").chmod(0o755)
        new = directory / "volume.json.new"
        new.write_text(json.dumps(asdict(volume), indent=1))
        new.rename(directory / "volume.json")
        self.changed()
        return volume

    def _read(self, name: str) -> Volume | None:
        try:
            return Volume(**json.loads((self._directory / name / "volume.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadContainer(
            f"invalid volume name {name!r}: letters, digits, _ . and -, at least two, a letter or digit first"
        )


async def fill(content: Path, data: Path) -> None:
    """Copy an image's directory into an empty one, with owners, modes and all. Raises ContainerError.

    A copy that was interrupted is begun anew.
    """
    marker = data.parent / "filling"
    if await asyncio.to_thread(_nothing_to_fill, content, data, marker):
        return
    command = ["cp", "--archive", "--no-target-directory", f"{content}/", str(data)]
    try:
        done = await processes.run(command, limit=_COPY_LIMIT)
    except TimeoutError:
        raise ContainerError(f"copying the image's content into {data} took more than {_COPY_LIMIT:g} s") from None
    if done.code != 0:
        raise ContainerError(f"the image's content could not be copied into {data}: {done.output}")
    marker.unlink()


def _nothing_to_fill(content: Path, data: Path, marker: Path) -> bool:
    if marker.exists():
        for entry in os.scandir(data):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry)
            else:
                os.unlink(entry)
    elif any(os.scandir(data)):
        return True
    if not content.is_dir():
        marker.unlink(missing_ok=True)
        return True
    marker.touch()
    return False


def _options(name: str, driver: Driver) -> dict[str, str]:
    """The driver's options, checked. Raises BadContainer."""
    if driver.name not in _DRIVERS:
        raise BadContainer(f"invalid driver {driver.name!r} of volume {name}: this node has only local")
    options = dict(driver.options)
    for key in options:
        if key not in _OPTIONS:
            raise BadContainer(f"unknown driver option {key!r} of volume {name}: one of {', '.join(_OPTIONS)}")
    if options and not options.get("device"):
        raise BadContainer(f"driver options of volume {name} without a device: type, device and o go together")
    return options


async def _mount(volume: Volume, data: Path) -> None:
    """Mount what the driver's options say, through mount(8). Raises ContainerError."""
    kind, device, options = (volume.options.get(key, "") for key in _OPTIONS)
    if kind.startswith("nfs"):
        options = await _with_address(volume.name, options)
    command = ["mount"]
    if kind and kind not in ("none", "bind"):
        command += ["-t", kind]
    if kind == "bind" and "bind" not in options:
        options = f"bind,{options}" if options else "bind"
    if options:
        command += ["-o", options]
    try:
        done = await processes.run([*command, device, str(data)], limit=_MOUNT_LIMIT)
    except TimeoutError:
        raise ContainerError(f"mounting {device} for volume {volume.name} took more than {_MOUNT_LIMIT:g} s") from None
    if done.code != 0:
        why = done.output.partition("\n")[0]
        if "unknown filesystem type" in why:
            why = f"the kernel of this node knows no file system {kind!r}"
        raise ContainerError(f"{device} could not be mounted for volume {volume.name}: {why}")


async def _with_address(name: str, options: str) -> str:
    """The kernel's NFS wants addr= as a number."""
    words = options.split(",")
    for index, word in enumerate(words):
        key, _, host = word.partition("=")
        if key == "addr" and host:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                raise ContainerError(f"the server {host!r} of volume {name} is not found: {error}") from None
            words[index] = f"addr={found[0][4][0]}"
    return ",".join(words)
