"""The OCI runtime program: crun, or runc where there is no crun.

Two short cuts, each with the ordinary way behind it. The program is run from a sealed copy in memory: both crun and
runc copy themselves on every call otherwise, so that no container can overwrite them through /proc (CVE-2019-5736).
And crun's `start` is one byte into a fifo, which needs no process.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from flota.worker.runtime import commands, processes
from flota.worker.runtime.commands import Command, Files, Size
from flota.worker.runtime.container import BadContainer, ContainerError
from flota.worker.runtime.machine import RuntimeUnavailable, hybrid_cgroups
from flota.worker.runtime.processes import Completed

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_HYBRID = (
    "crun refuses this machine's control groups: cgroup v1 with a cgroup2 mounted beside it (/sys/fs/cgroup/unified). "
    "Unmount it where the daemon is started (unshare -m, then umount /sys/fs/cgroup/unified), or boot with cgroup v2 "
    "alone"
)
# What passes by itself; anything else the runtime says will be the same the next time.
_PASSING = (
    "resource temporarily unavailable",
    "cannot allocate memory",
    "no space left",
    "too many open files",
    "busy",
)


class Program:
    """crun or runc, found and tried. `path` is what to execute."""

    def __init__(self, state_root: Path) -> None:
        """`state_root` is where it keeps its own state, one directory per container."""
        self.state_root = state_root
        self.name = ""
        self.version = ""
        self.path = ""
        self._sealed = -1
        self._executed = 0

    async def find(self) -> None:
        """Choose the program. Raises RuntimeUnavailable."""
        installed = shutil.which("crun") or shutil.which("runc")
        if installed is None:
            raise RuntimeUnavailable("neither crun nor runc is installed: apt-get install crun")
        self.name = os.path.basename(installed)
        if self.name == "crun" and hybrid_cgroups():
            raise RuntimeUnavailable(_HYBRID)
        with suppress(OSError):
            self._sealed = _sealed_copy(installed)
            self.path = f"/proc/{os.getpid()}/fd/{self._sealed}"
            if await self._works():
                return
        # A kernel or a policy that does not execute files in memory.
        self._let_go()
        self.path = installed
        if not await self._works():
            raise RuntimeUnavailable(f"{installed} --version fails")

    async def _works(self) -> bool:
        done = await processes.run([self.path, "--version"])
        words = done.output.partition("\n")[0].split()
        self.version = words[-1] if words else ""
        return done.code == 0

    def arguments(self, *arguments: str) -> list[str]:
        """A command line for the program."""
        return [self.path, *self.options, *arguments]

    @property
    def options(self) -> list[str]:
        """What comes before the command's name."""
        return ["--root", str(self.state_root)]

    async def start(self, container_id: str) -> None:
        """Let a created container run. Raises ContainerError."""
        if self.name == "crun" and self._start_by_fifo(container_id):
            return
        done = await processes.run(self.arguments("start", container_id))
        if done.code != 0:
            raise refusal(done.output)

    async def update(self, container_id: str, resources: Mapping[str, Any], scratch: Path) -> None:
        """Give a container that was created other limits (linux.resources). Raises ContainerError."""
        wanted = scratch / "resources.json"
        wanted.write_text(json.dumps(resources))
        try:
            done = await processes.run(self.arguments("update", "--resources", str(wanted), container_id))
        finally:
            wanted.unlink(missing_ok=True)
        if done.code != 0:
            raise ContainerError(f"{self.name} could not update container {container_id}: {done.output}")

    def _start_by_fifo(self, container_id: str) -> bool:
        fifo = self._fifo(container_id)
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise ContainerError("the container ended before it was started") from None
            return False
        try:
            os.unlink(fifo)
            return os.write(descriptor, b"\0") == 1
        finally:
            os.close(descriptor)

    async def execute(self, container_id: str, process: dict[str, Any], scratch: Path, limit: float) -> Completed:
        """Run `process` (as config.json has it) in a running container. `scratch` is a directory for our files.

        Raises TimeoutError; the process and its group are killed then.
        """
        self._executed += 1
        wanted, pid_file = (scratch / f"exec-{self._executed}.{kind}" for kind in ("json", "pid"))
        wanted.write_text(json.dumps(process))
        command = self.arguments("exec", "--process", str(wanted), "--pid-file", str(pid_file), container_id)
        try:
            return await processes.run_users(command, limit=limit, end=lambda parent: _kill(parent, pid_file))
        finally:
            wanted.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)

    @asynccontextmanager
    async def command(
        self, container_id: str, process: dict[str, Any], scratch: Path, *, stdin: bool, quiet: bool
    ) -> AsyncIterator[Command]:
        """Run `process` in a running container, for somebody who speaks with it; it is let go of at the end.

        Raises CannotRun, ContainerError.
        """
        self._executed += 1
        files = Files.within(scratch, self._executed)
        size = process.get("consoleSize")
        try:
            files.process.write_text(json.dumps(process))
            logging = ("--log", f"{'file:' if self.name == 'crun' else ''}{files.log}", "--log-format", "json")
            told = ("--process", str(files.process), "--pid-file", str(files.pid_file))
            command = await commands.run(
                [self.path, *self.options, *logging, "exec", *told, container_id],
                files,
                terminal=process["terminal"],
                stdin=stdin,
                quiet=quiet,
                size=Size(size["height"], size["width"]) if size else None,
            )
        finally:
            files.remove()
        try:
            yield command
        finally:
            command.close()

    def started(self, container_id: str) -> bool:
        """Whether a container that was created has been started."""
        return not self._fifo(container_id).exists()

    def _fifo(self, container_id: str) -> Path:
        return self.state_root / container_id / "exec.fifo"

    def close(self) -> None:
        """Let go of the copy."""
        self._let_go()

    def _let_go(self) -> None:
        if self._sealed >= 0:
            os.close(self._sealed)
            self._sealed = -1


def refusal(output: str) -> ContainerError:
    """What the program said when it refused, as an error for people."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    text = lines[-1] if lines else "it said nothing"
    if text.startswith("open executable: Permission denied"):
        # In the image that is found out before; this is a file that is mounted there.
        text = "the file of the program to run has no permission to be executed (chmod +x), or its mount is noexec"
    elif sysctl := re.match(r"open /proc/sys/(\S+): No such file", text):
        text = f"there is no sysctl {sysctl[1].replace('/', '.')} on this node"
    if any(word in text.lower() for word in _PASSING):
        return ContainerError(f"the container could not be made: {text}")
    return BadContainer(f"the container could not be made: {text}")


def _kill(parent: int, pid_file: Path) -> None:
    """End what `exec` started; killing `exec` itself would leave it running in the container."""
    try:
        pid = int(pid_file.read_text())
        # A process whose parent waits for it is still that process.
        if processes.parent(pid) == parent:
            os.killpg(os.getpgid(pid), signal.SIGKILL)
            return
    except (OSError, ValueError):
        pass
    with suppress(ProcessLookupError):
        os.kill(parent, signal.SIGKILL)


def _sealed_copy(program: str) -> int:
    writable = os.memfd_create(os.path.basename(program), os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        with open(program, "rb") as source, os.fdopen(os.dup(writable), "wb") as target:
            shutil.copyfileobj(source, target)
        os.fchmod(writable, 0o755)
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _SEALS)
        # A file that somebody has open for writing is not executed.
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)
