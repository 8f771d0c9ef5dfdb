"""What a command in a running container runs as: the container's own process, changed as asked for.

The account is looked up in the container's root as it is now, which the container may be changing: no symlink leads out
of it, and only a regular file of modest size is read.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flota.worker.runtime import accounts, mounts
from flota.worker.runtime.commands import Size
from flota.worker.runtime.container import BadContainer

_MOST = 1 << 20
_NAME_SYNTAX = "KEY=VALUE is needed"


@dataclass(frozen=True)
class Execution:
    """What to run, as exec was asked for it. Empty = as the container's own process has it."""

    command: Sequence[str]
    env: Sequence[str] = ()
    user: str = ""
    directory: str = ""
    terminal: bool = False
    stdin: bool = False
    quiet: bool = False
    privileged: bool = False
    size: Size | None = None


def process_of(base: dict[str, Any], wanted: Execution, root: Path, available: frozenset[str]) -> dict[str, Any]:
    """The `process` part for the runtime. `available`: the capabilities this machine can give. Raises BadContainer."""
    if not wanted.command or not wanted.command[0]:
        raise BadContainer("no command: say what to run in the container")
    if wanted.directory and not wanted.directory.startswith("/"):
        raise BadContainer(f"invalid workdir {wanted.directory!r}: an absolute path is needed")
    result = dict(base) | {"args": list(wanted.command), "terminal": wanted.terminal}
    if wanted.directory:
        result["cwd"] = wanted.directory
    values = {name: value for name, _, value in (entry.partition("=") for entry in base["env"])}
    if wanted.terminal:
        values.setdefault("TERM", "xterm")
    bounding = sorted(available) if wanted.privileged else base["capabilities"]["bounding"]
    account = _account(wanted, base, root)
    if wanted.user:
        values["HOME"] = account.home
    held = bounding if account.uid == 0 or wanted.privileged else []
    result["user"] = {"uid": account.uid, "gid": account.gid, "additionalGids": list(account.groups)}
    if wanted.user or wanted.privileged:
        result["capabilities"] = {"bounding": bounding, "effective": held, "permitted": held}
    for entry in wanted.env:
        name, equals, value = entry.partition("=")
        if not name or not equals or "\0" in entry:
            raise BadContainer(f"invalid env {entry!r}: {_NAME_SYNTAX}")
        values[name] = value
    result["env"] = [f"{name}={value}" for name, value in values.items()]
    if wanted.terminal and wanted.size is not None:
        result["consoleSize"] = {"height": wanted.size.rows, "width": wanted.size.columns}
    return result


def _account(wanted: Execution, base: dict[str, Any], root: Path) -> accounts.Account:
    user = base["user"]
    if not wanted.user:
        return accounts.Account(user["uid"], user["gid"], tuple(user.get("additionalGids", ())), "")
    try:
        return accounts.resolve(wanted.user, (), _text(root, "/etc/passwd"), _text(root, "/etc/group"))
    except accounts.UnknownAccount as error:
        raise BadContainer(f"{error}: give a user of the image, or a number") from None


def _text(root: Path, path: str) -> str:
    try:
        descriptor = mounts.open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return file.read(_MOST).decode(errors="replace")
