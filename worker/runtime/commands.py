"""Commands that people run in a running container, with input, output, a terminal, signals and an exit code.

The runtime's `exec` stays as the command's parent and takes its exit code. Without a terminal it hands our three pipes
on. With one, it makes a terminal in the container and copies between that and ours: so ours is in raw mode from the
start. crun does not pass a new size on (1.8.1 does nothing at SIGWINCH), so it is set on crun's end of that terminal,
of which we take a copy for a moment. A command is known to run when the runtime has written its pid.

Nothing is read that the caller does not take: who reads slowly makes the command wait in its write.
"""

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import tty
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flota.rpc.pipe import Pipe
from flota.worker.runtime import processes
from flota.worker.runtime.container import ContainerError

STDOUT, STDERR = 1, 2
_CHUNK = 32 << 10
_START_LIMIT = 30.0
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.05
# Between the signal that asks a command to end and SIGKILL.
_GRACE = 10.0
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_SYS_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)
_MISSING = "no such file or directory"


class CannotRun(ContainerError):
    """The container has no such command, or it cannot be executed. `code` is what a shell would say."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.code = _NOT_FOUND if _MISSING in reason.lower() else _NOT_EXECUTABLE


@dataclass(frozen=True)
class Size:
    """Of a terminal."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Files:
    """What a command is told to the runtime in, and what the runtime tells; gone once the command runs."""

    process: Path
    pid_file: Path
    log: Path

    @classmethod
    def within(cls, scratch: Path, number: int) -> "Files":
        """Those of the command with this number."""
        return cls(*(scratch / f"exec-{number}.{kind}" for kind in ("json", "pid", "log")))

    def pid(self) -> int:
        """The command's process; 0 as long as it is not begun."""
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def reason(self) -> str:
        """Why the runtime could not begin it."""
        with suppress(OSError, ValueError, IndexError, KeyError):
            return str(json.loads(self.log.read_text().splitlines()[-1])["msg"])
        return "the runtime did not say why it could not be run"

    def remove(self) -> None:
        """Take them away."""
        for file in (self.process, self.pid_file, self.log):
            file.unlink(missing_ok=True)


class Command:
    """One command. `run` makes it; `close` it when it is of no interest any more, it ends then if it has not."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: bool, stdin: int, outputs: dict[int, int]) -> None:
        """`outputs`: descriptor → STDOUT or STDERR. Descriptors do not block, and are closed here."""
        self.pid = 0
        self._process = process
        self._terminal = terminal
        self._stdin = stdin
        self._outputs = outputs
        self._speaking: Pipe[tuple[int, bytes]] = Pipe()
        self._reaped = asyncio.create_task(_reap(process), name=f"exec {process.pid}")

    @property
    def has_ended(self) -> bool:
        """Whether there is an exit code."""
        return self._reaped.done()

    async def started(self, files: Files) -> None:
        """Until the runtime has begun it. Raises CannotRun, ContainerError."""
        pause = _FIRST_LOOK
        try:
            async with asyncio.timeout(_START_LIMIT):
                while not self.has_ended and not self.pid:
                    self.pid = files.pid()
                    if not self.pid:
                        await asyncio.wait((self._reaped,), timeout=pause)
                        pause = min(2 * pause, _LAST_LOOK)
        except TimeoutError:
            raise ContainerError(f"the command was not begun within {_START_LIMIT:g} s") from None
        if not self.pid:
            # It may have ended so quickly that only its trace is left.
            self.pid = files.pid()
        if not self.pid:
            raise CannotRun(files.reason())

    async def output(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """What it writes, as it comes: STDOUT or STDERR, and bytes; until it has ended."""
        pipe: Pipe[tuple[int, bytes]] = Pipe(2)
        self._speaking = pipe
        outputs = self._outputs.items()
        readers = [asyncio.create_task(self._read(descriptor, kind, pipe)) for descriptor, kind in outputs]
        everything = asyncio.gather(*readers, return_exceptions=True)
        everything.add_done_callback(lambda _: pipe.end())
        try:
            async for part in pipe:
                yield part
        finally:
            pipe.close()
            for reader in readers:
                reader.cancel()
            await everything

    def hush(self) -> None:
        """Whoever reads its output now has enough."""
        self._speaking.close()

    async def _read(self, descriptor: int, kind: int, pipe: Pipe[tuple[int, bytes]]) -> None:
        while True:
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                # Others that it started may hold the pipe open for ever: its own end is the end.
                if self.has_ended:
                    return
                await self._readable(descriptor)
                continue
            except OSError as error:
                if error.errno == errno.EIO:
                    # The terminal has hung up.
                    return
                raise
            if not data or not await pipe.put((kind, data)):
                return

    async def _readable(self, descriptor: int) -> None:
        waiting = asyncio.create_task(processes.readable(descriptor))
        try:
            await asyncio.wait((waiting, self._reaped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def write(self, data: bytes) -> None:
        """Its input; waits until it takes it. Nothing happens when it does not read any longer."""
        rest = memoryview(data)
        while rest and self._stdin >= 0:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                await processes.writable(self._stdin)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    return
                raise

    async def end_input(self) -> None:
        """There is no more input."""
        if self._terminal:
            # A terminal has no end; what its line discipline takes for one has to do.
            await self.write(b"\x04")
        elif self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def resize(self, size: Size) -> None:
        """The terminal has another size."""
        if self._terminal and not self.has_ended:
            with suppress(OSError):
                _set_size(self._stdin, size)
                _set_inner_size(self._process.pid, size)

    def signal(self, number: int) -> None:
        """Send a signal to the command itself; nothing happens if it has ended."""
        with suppress(OSError, ValueError):
            if not self.has_ended and processes.parent(self.pid) == self._process.pid:
                os.kill(self.pid, number)

    async def wait(self) -> int:
        """Its exit code: 128 + signal if one killed it."""
        code = await asyncio.shield(self._reaped)
        return 128 - code if code < 0 else code

    async def end(self) -> None:
        """Make it end: its terminal hangs up, or it gets SIGTERM; SIGKILL for all of it when that does not help."""
        self._signal_group(signal.SIGHUP if self._terminal else signal.SIGTERM)
        await asyncio.wait((self._reaped,), timeout=_GRACE)
        if not self.has_ended:
            self._signal_group(signal.SIGKILL)
            await asyncio.wait((self._reaped,), timeout=_GRACE)
        if not self.has_ended:
            self._process.kill()
            await asyncio.wait((self._reaped,))

    async def drain(self) -> None:
        """Drop what it says, until it has ended."""
        async for _ in self.output():
            pass
        await self.wait()

    def close(self) -> None:
        """Let go of its pipes or its terminal."""
        for descriptor in {self._stdin, *self._outputs} - {-1}:
            os.close(descriptor)
        self._stdin, self._outputs = -1, {}

    def _signal_group(self, number: int) -> None:
        with suppress(OSError, ValueError):
            if processes.parent(self.pid) == self._process.pid:
                os.killpg(os.getpgid(self.pid), number)
                return
        if not self.has_ended:
            self._process.send_signal(number)


async def run(
    command: Sequence[str], files: Files, *, terminal: bool, stdin: bool, quiet: bool, size: Size | None
) -> Command:
    """Start the runtime's `command`, and wait until it has begun what it is to run.

    `quiet`: nobody reads the output. Raises CannotRun, ContainerError.
    """
    try:
        made = _with_terminal(command, size) if terminal else _with_pipes(command, stdin, quiet)
    except OSError as error:
        raise ContainerError(f"the command could not be started: {error}") from None
    try:
        await made.started(files)
        if size is not None:
            # Had it been begun already when the size was set, it would not know.
            made.resize(size)
    except BaseException:
        await processes.to_the_end(_discard(made))
        raise
    return made


async def _discard(command: Command) -> None:
    if not command.has_ended:
        await command.end()
    command.close()


def _with_terminal(command: Sequence[str], size: Size | None) -> Command:
    ours, theirs = pty.openpty()
    try:
        tty.setraw(theirs)
        if size is not None:
            _set_size(theirs, size)
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    os.set_blocking(ours, False)
    return Command(process, True, ours, {ours: STDOUT})


def _with_pipes(command: Sequence[str], stdin: bool, quiet: bool) -> Command:
    out = subprocess.DEVNULL if quiet else subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        start_new_session=True,
        bufsize=0,
    )
    ends = [None if one is None else os.dup(one.fileno()) for one in (process.stdin, process.stdout, process.stderr)]
    for one in (process.stdin, process.stdout, process.stderr):
        if one is not None:
            one.close()
    process.stdin = process.stdout = process.stderr = None
    given, said, complained = ends
    outputs = {end: kind for end, kind in ((said, STDOUT), (complained, STDERR)) if end is not None}
    for descriptor in ends:
        if descriptor is not None:
            os.set_blocking(descriptor, False)
    return Command(process, False, -1 if given is None else given, outputs)


async def _reap(process: subprocess.Popen[bytes]) -> int:
    await processes.ended(process)
    return process.returncode


def _set_size(descriptor: int, size: Size) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


def _set_inner_size(runtime: int, size: Size) -> None:
    """Set the size of the terminal that the runtime made; the kernel tells the programs in it. Raises OSError."""
    process = os.pidfd_open(runtime)
    try:
        for name in os.listdir(f"/proc/{runtime}/fd"):
            if not os.readlink(f"/proc/{runtime}/fd/{name}").endswith("/ptmx"):
                continue
            copy = _libc.syscall(_SYS_PIDFD_GETFD, process, int(name), 0)
            if copy >= 0:
                try:
                    _set_size(copy, size)
                finally:
                    os.close(copy)
    finally:
        os.close(process)
