"""What one container is made from, and how one ends: the values that pass between task controllers and the runtime."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum, auto

from flota.overlay import Sandbox
from flota.v1.objects_pb2 import Task
from flota.worker.images.config import ImageConfig


class ContainerError(Exception):
    """A container could not be made, started or reached. The message is for people."""


class BadContainer(ContainerError):
    """The container cannot be as the spec or the image want it: trying again will not help."""


@dataclass(frozen=True)
class PlacedFile:
    """A secret or config: a file in memory only, seen in the container at `path`, read-only."""

    path: str
    data: bytes
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Log:
    """What becomes of what a container says."""

    # Bytes of a file before a new one takes its place; 0 = no limit.
    size: int = 0
    # To journald as well; the file is kept for `service logs`.
    journal: bool = False
    # Whether there is a file.
    kept: bool = True
    # How many there are at most, and whether full ones are compressed.
    files: int = 1
    compress: bool = False


@dataclass(frozen=True)
class Container:
    """Everything one container is made from. `task` is expanded: no templates left in it."""

    task: Task
    image: ImageConfig
    # Names of directories in the layer store, lowest first.
    layers: tuple[str, ...]
    sandbox: Sandbox
    hostname: str
    files: tuple[PlacedFile, ...] = ()
    log: Log = Log()
    # What an earlier run of it wrote is there, and is to be so again (remove's keep_files).
    again: bool = False

    @property
    def id(self) -> str:
        """A container is called what its task is called."""
        return self.task.id


@dataclass(frozen=True)
class Exit:
    """How a container ended. `code` is 128 + signal if one killed it; None when nobody could tell."""

    code: int | None
    oom_killed: bool = False
    # It went with its machine, which was started anew since.
    by_reboot: bool = False

    def describe(self) -> str:
        """For people; empty for a clean end."""
        if self.code is None and self.by_reboot:
            return "the machine went down, and the container with it"
        if self.code is None:
            return "the container's monitor was lost, and with it the exit code"
        if self.oom_killed and self.code:
            return f"task: non-zero exit ({self.code}): out of memory"
        if self.code == 0:
            return ""
        if self.code > 128:
            try:
                return f"task: non-zero exit ({self.code}): {signal.Signals(self.code - 128).name}"
            except ValueError:
                pass
        return f"task: non-zero exit ({self.code})"


@dataclass(frozen=True)
class Running:
    """A container that has been started. `pid` is its first process, as this machine sees it."""

    pid: int
    container_id: str


class Phase(Enum):
    """How far a container is."""

    CREATED = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True)
class ContainerState:
    """A container that was found after a restart. `pid` is 0 and `exit` set exactly when it has ended."""

    phase: Phase
    pid: int = 0
    exit: Exit | None = None


def signal_number(name: str, default: int = signal.SIGTERM) -> int:
    """ "TERM", "SIGTERM" or "15"; empty = default. Raises ValueError."""
    if not name:
        return default
    if name.isdigit():
        if 0 < int(name) < signal.NSIG:
            return int(name)
    else:
        upper = name.upper()
        upper = upper if upper.startswith("SIG") else f"SIG{upper}"
        if upper.startswith("SIGRTMIN+") and upper[9:].isdigit():
            return int(signal.SIGRTMIN) + int(upper[9:])
        if upper in signal.Signals.__members__:
            return int(signal.Signals[upper])
    raise ValueError(f"unknown signal {name!r}")
