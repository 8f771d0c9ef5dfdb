"""conmon, the monitor of one container: it holds the container's output, writes its log and its exit code, and
outlives us.

`launch` starts one that creates a container; `Monitored` follows container and monitor through pidfds, whether we
started them or an earlier worker did. The exit code is conmon's file `exit` in the container's bundle.
"""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flota.worker.runtime import processes
from flota.worker.runtime.container import ContainerError, Exit, Log
from flota.worker.runtime.oci import Program, refusal

_EXIT = "exit"
_OUT_OF_MEMORY = "oom"
_RECORD = "record.json"
# A third of the processor time of others, if there is not enough for all.
_NICENESS = 5
_PATH = os.environ.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Place = Callable[[int], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Record:
    """What is remembered of a container that was created: enough to find its processes again, and none other."""

    boot: str
    pid: int
    pid_started: int
    monitor: int
    monitor_started: int

    def write(self, bundle: Path) -> None:
        """Keep it: from now on the container is wholly made."""
        temporary = bundle / f"{_RECORD}.new"
        temporary.write_text(json.dumps(asdict(self)))
        temporary.rename(bundle / _RECORD)

    @classmethod
    def read(cls, bundle: Path) -> "Record | None":
        """None when the container was never wholly made."""
        try:
            return cls(**json.loads((bundle / _RECORD).read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    @classmethod
    def lost(cls) -> "Record":
        """Of a container that is known by its log alone: all else went with the machine's memory."""
        return cls("", 0, 0, 0, 0)


@dataclass(frozen=True)
class Order:
    """What a monitor is to do."""

    container_id: str
    # For the journal.
    name: str
    bundle: Path
    log_file: Path
    terminal: bool
    stdin: bool
    log: Log


async def launch(order: Order, conmon: str, program: Program, place: Place, limit: float) -> Record:
    """Start conmon and have it create the container. Raises ContainerError; nothing of conmon is left then.

    `place` moves conmon into its group before it starts anything.
    """
    with Pipe() as reports, Pipe() as start:
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; what takes time is the wait below
                _command(order, conmon, program),
                cwd=order.bundle,  # where conmon leaves files
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=reports.writer,
                pass_fds=(reports.writer, start.reader),
                start_new_session=True,
                umask=0o022,  # for what the runtime makes in the container
                # The terminal's socket is made in TMPDIR, and a socket's path has 107 bytes at most.
                env={
                    "PATH": _PATH,
                    "TMPDIR": ".",
                    "_OCI_SYNCPIPE": str(reports.writer),
                    "_OCI_STARTPIPE": str(start.reader),
                },
            )
        except OSError as error:
            raise ContainerError(f"{conmon} could not be started: {error}") from None
        try:
            reports.close_writer()
            await processes.to_the_end(place(process.pid))
            os.write(start.writer, b"\n")
            async with asyncio.timeout(limit):
                pid = await _answer(reports.reader)
        except BaseException as error:
            process.kill()
            await processes.to_the_end(processes.finished(process, limit))
            if isinstance(error, TimeoutError):
                raise ContainerError(f"the container could not be made within {limit:g} s") from None
            raise
    # Its end is seen through a pidfd (Monitored), perhaps by another worker than this one.
    process.returncode = 0
    # All that is left for it is to copy words: when a container has too many of them, it gives way to us. What it has
    # started by now has not inherited that.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
    return Record(boot_id(), pid, started(pid), process.pid, started(process.pid))


def _command(order: Order, conmon: str, program: Program) -> list[str]:
    command = [
        *(conmon, "--api-version", "--sync", "--cid", order.container_id, "--cuuid", order.container_id),
        *("--bundle", str(order.bundle), "--full-attach", "--container-pidfile", str(order.bundle / "pid")),
        *("--persist-dir", str(order.bundle), "--no-sync-log", *_log(order)),
        *("--runtime", program.path, *(f"--runtime-arg={option}" for option in program.options)),
    ]
    if order.terminal:
        command.append("--terminal")
    if order.stdin:
        command.append("--stdin")
    return command


def _log(order: Order) -> list[str]:
    if not order.log.kept:
        return ["--log-path", "none:"]
    options = ["--log-path", f"k8s-file:{order.log_file}"]
    if order.log.journal:
        options += ["--log-path", "journald:", "--log-tag", order.container_id, "--name", order.name]
    if order.log.size:
        options += ["--log-size-max", str(order.log.size)]
    return options


async def _answer(reports: int) -> int:
    """The container's first process as conmon reports it. Raises ContainerError with what it says instead."""
    text = b""
    while True:
        await processes.readable(reports)
        chunk = os.read(reports, 1 << 16)
        text += chunk
        for line in text.splitlines(keepends=True):
            if line.startswith(b'{"data"') and line.endswith(b"\n"):
                answer = json.loads(line)
                if answer["data"] > 0:
                    return int(answer["data"])
                raise refusal(answer.get("message", ""))
        if not chunk:
            raise refusal(text.decode(errors="replace"))


class Pipe:
    """Two descriptors, closed at the end of the block if not before."""

    def __enter__(self) -> "Pipe":
        self.reader, self.writer = os.pipe()
        return self

    def close_writer(self) -> None:
        """Leave the writing to those who inherited it."""
        os.close(self.writer)
        self.writer = -1

    def __exit__(self, *error: object) -> None:
        os.close(self.reader)
        if self.writer >= 0:
            os.close(self.writer)


class Monitored:
    """A container that was created, and its monitor. `exit` is set when the container has ended."""

    def __init__(self, record: Record, bundle: Path, out_of_memory: Callable[[], bool]) -> None:
        """`out_of_memory` is asked at the end."""
        self.record = record
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._bundle = bundle
        self._out_of_memory = out_of_memory
        alive = record.boot == boot_id()
        self._by_reboot = not alive
        self._init = _open(record.pid, record.pid_started) if alive else -1
        self._monitor = _open(record.monitor, record.monitor_started) if alive else -1
        if self._monitor >= 0:
            asyncio.get_running_loop().add_reader(self._monitor, self._ended)
        else:
            self._settle()

    @property
    def has_ended(self) -> bool:
        """Whether the monitor is gone, and with it the container."""
        return self.exit.done()

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process; nothing happens if it has ended."""
        if self._init >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, number)

    def close(self) -> None:
        """Follow it no longer."""
        self._let_go()
        self.exit.cancel()

    def _ended(self) -> None:
        with suppress(ChildProcessError):
            # Ours only if this worker started it.
            os.waitpid(self.record.monitor, os.WNOHANG)
        self._settle()

    def _settle(self) -> None:
        code = self._code()
        if code is None:
            # Without its monitor a container has nobody who reads its output and learns its end.
            self.signal(signal.SIGKILL)
        killed = (self._bundle / _OUT_OF_MEMORY).exists() or self._out_of_memory()
        self._let_go()
        self.exit.set_result(Exit(code, oom_killed=killed and code != 0, by_reboot=code is None and self._by_reboot))

    def _code(self) -> int | None:
        try:
            return int((self._bundle / _EXIT).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _let_go(self) -> None:
        if self._monitor >= 0:
            asyncio.get_running_loop().remove_reader(self._monitor)
            os.close(self._monitor)
        if self._init >= 0:
            os.close(self._init)
        self._init = self._monitor = -1


def _open(pid: int, since: int) -> int:
    """A pidfd of that very process; -1 if it is gone."""
    if not since:
        return -1
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    if started(pid) != since:
        os.close(descriptor)
        return -1
    return descriptor


def started(pid: int) -> int:
    """When a process began, in clock ticks since the machine did; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@cache
def boot_id() -> str:
    """Changes with every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
