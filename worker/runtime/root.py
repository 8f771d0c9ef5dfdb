"""A container's root file system and the files it gets: mounted, written and checked before the runtime is called.

    RUN/tasks/ID/            the bundle: config.json, record.json, what conmon leaves (exit, pid, …), and
                 rootfs      the overlay
                 files       secrets and configs, a tmpfs
                 mounts/N    parts of volumes
                 hosts, hostname, resolv.conf
    STATE/tasks/ID/          log
                   upper, work   the overlay's writable layer
                   volumes/N     anonymous volumes; they go with the container
    STATE/skeleton           the layer below every image: places to mount at

RUN is in memory, as a rule: little is made on the disk, because a file made there costs ten times as much.
Runs on the mounting thread. Whatever it makes, removing the container's two directories takes it away.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flota.worker.runtime import accounts, bundle, entry, inside, mounts, placing
from flota.worker.runtime.accounts import Account
from flota.worker.runtime.bundle import HostMount
from flota.worker.runtime.container import BadContainer, Container, ContainerError, PlacedFile

_FILES_SLACK = 64 << 10
_PAGE = 4096


_SKELETON_DIRECTORIES = ("dev", "etc", "proc", "sys")
# Docker's /.dockerenv is how programs find out that they are in a container.
_SKELETON_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv")
# Older Java looks for file systems there, as older tools do.
_MOUNTS = ("etc/mtab", "/proc/mounts")


@dataclass(frozen=True)
class Places:
    """Where one container's things are."""

    bundle: Path
    state: Path
    skeleton: Path

    @property
    def rootfs(self) -> Path:
        """Where the overlay is mounted."""
        return self.bundle / "rootfs"

    @property
    def config(self) -> Path:
        """What the runtime is told."""
        return self.bundle / "config.json"

    @property
    def log(self) -> Path:
        """What the container says."""
        return self.state / "log"


def make_skeleton(skeleton: Path) -> None:
    """Make the lowest layer: what every container has mounts at, so that none has to make it in its own layer.

    Whatever the image has of it hides it.
    """
    for name in _SKELETON_DIRECTORIES:
        (skeleton / name).mkdir(parents=True, exist_ok=True)
        (skeleton / name).chmod(0o755)
    for name in _SKELETON_FILES:
        _write(skeleton / name, b"", 0o644)
    link, target = _MOUNTS
    if not (skeleton / link).is_symlink():
        (skeleton / link).symlink_to(target)


def assemble(container: Container, places: Places, mounter: mounts.Mounter) -> tuple[Account, list[HostMount]]:
    """Mount the root, write our own files. The account to run as, and our files' mounts.

    Raises BadContainer, ContainerError.
    """
    try:
        upper, work = places.state / "upper", places.state / "work"
        for directory in (places.rootfs, upper, work):
            directory.mkdir(parents=True, exist_ok=container.again)
        mounter.overlay(places.rootfs, places.skeleton, container.layers, upper, work, again=container.again)
        account = _account(container, places.rootfs)
        _working_directory(container, places.rootfs, account)
        return account, [*_network_files(container, places.bundle), *_placed_files(container.files, places.bundle)]
    except OSError as error:
        raise ContainerError(f"the container's root could not be made: {error}") from None


def check_program(container: Container, rootfs: Path, placed: list[HostMount]) -> None:
    """Whether what the container runs is there and can be run. Raises BadContainer."""
    targets = [one.target for one in placed]

    def covered(path: str) -> bool:
        return any(path == target or path.startswith(f"{target}/") for target in targets)

    variables = dict(one.partition("=")[::2] for one in bundle.environment(container))
    search = [one for one in variables.get("PATH", "").split(":") if one]
    entry.check(rootfs, bundle.arguments(container)[0], bundle.directory(container), search, covered)


def _account(container: Container, rootfs: Path) -> Account:
    spec = container.task.spec.container
    passwd, group = inside.read_text(rootfs, "/etc/passwd"), inside.read_text(rootfs, "/etc/group")
    try:
        return accounts.resolve(spec.user or container.image.user, spec.groups, passwd, group)
    except accounts.UnknownAccount as error:
        raise BadContainer(str(error)) from None


def _working_directory(container: Container, rootfs: Path, account: Account) -> None:
    wanted = bundle.directory(container)
    path = inside.resolve(rootfs, wanted)
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir():
        raise BadContainer(f"invalid workdir {wanted!r}: /{there.relative_to(rootfs)} is a file in the image")
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir()
        one.chmod(0o755)
        os.chown(one, account.uid, account.gid)


def _network_files(container: Container, directory: Path) -> list[HostMount]:
    contents = {
        "hosts": "".join(f"{line}\n" for line in container.sandbox.hosts),
        "hostname": f"{container.hostname}\n",
        "resolv.conf": container.sandbox.resolv_conf,
    }
    for name, text in contents.items():
        _write(directory / name, text.encode(), 0o644)
    # As Docker has it, a container may write to its own copies.
    return [placing.file(f"/etc/{name}", directory / name, read_only=False) for name in contents]


def edit_hosts(places: Places, change: Callable[[str], str]) -> None:
    """Have /etc/hosts of a container that runs be what `change` makes of it. It stays the same file."""
    file = places.bundle / "hosts"
    text = file.read_text(errors="surrogateescape")
    if (changed := change(text)) != text:
        _write(file, changed.encode(errors="surrogateescape"), 0o644)


def _placed_files(files: tuple[PlacedFile, ...], directory: Path) -> list[HostMount]:
    if not files:
        return []
    place = directory / "files"
    place.mkdir()
    size = sum(-(-len(one.data) // _PAGE) * _PAGE for one in files)
    mounts.secret_tmpfs(place, size + _FILES_SLACK)
    result = []
    for number, one in enumerate(files):
        source = place / str(number)
        _write(source, one.data, one.mode, one.uid, one.gid)
        result.append(placing.file(one.path, source, read_only=True))
    return result


def _write(file: Path, data: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Whatever the daemon's umask is."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(data)
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
