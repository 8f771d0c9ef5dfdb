"""Where a node keeps its things, and that only one daemon at a time has them.

The locks are the kernel's (flock): they end with the daemon, however that ends.
"""

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

# What a unix socket's address holds, less its final zero byte (unix(7)).
_LONGEST_SOCKET_PATH = 107
_LOCK = "daemon.lock"


class CannotStart(Exception):
    """This machine, or what stands on its disk, does not allow a daemon here; the message is for people."""


@dataclass(frozen=True)
class Places:
    """The paths below the two directories (docs/rooms.md has them too)."""

    state: Path
    run: Path

    @property
    def identity(self) -> Path:
        """PEM files: who this node is. With autolock the key in there is sealed."""
        return self.state / "identity"

    @property
    def open_identity(self) -> Path:
        """The same with the key in clear, for our processes; the run directory is memory."""
        return self.run / "identity"

    @property
    def record(self) -> Path:
        """What the daemon remembers of its membership; there exactly while it is a member."""
        return self.state / "node.json"

    @property
    def raft(self) -> Path:
        """A manager's log and snapshots."""
        return self.state / "raft"

    @property
    def socket(self) -> Path:
        """What people and tools talk to."""
        return self.run / "flota.sock"

    @property
    def docker_socket(self) -> Path:
        """What Docker's clients talk to."""
        return self.run / "docker.sock"

    def child_socket(self, name: str) -> Path:
        """What a child process answers."""
        return self.run / f"{name}.sock"

    def child_file(self, name: str) -> Path:
        """Which process the child is."""
        return self.run / f"{name}.pid"

    def claim(self) -> list[int]:
        """Make the directories and take them; gives back descriptors that hold the locks. Raises CannotStart."""
        longest = len(os.fsencode(self.child_socket("manager")))
        if longest > _LONGEST_SOCKET_PATH:
            raise CannotStart(
                f"invalid run directory {str(self.run)!r}: the sockets in it would have paths of {longest} bytes, "
                f"{_LONGEST_SOCKET_PATH} are allowed"
            )
        held: list[int] = []
        try:
            for directory, mode in ((self.state, 0o711), (self.run, 0o755)):
                held.append(_claim(directory, mode))
        except BaseException:
            for descriptor in held:
                os.close(descriptor)
            raise
        return held


def _claim(directory: Path, mode: int) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=mode)
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        hint = " (flota's daemon needs root)" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise CannotStart(f"cannot use the directory {directory}: {error.strerror}{hint}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise CannotStart(f"another flota daemon (process {owner}) is using {directory}") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
