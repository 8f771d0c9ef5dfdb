"""One process of a child program, from its start to its end (the words both sides use: process.proto).

It is started in a session of its own, so that a ^C in our terminal is ours alone, and it ends when its standard input
does: also when we are killed.
"""

import asyncio
import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from flota.rpc.errors import FailedPrecondition

_log = structlog.get_logger("child")
# A child that was told to end gets this long before SIGTERM, and as long before SIGKILL.
_PATIENCE = 8.0
_LONGEST_LINE = 1 << 20
# For all children, what glibc's malloc does: threads share two arenas (with one for each a worker of 100 tasks needs
# 5 MiB more), and what is free at the end of the heap goes back to the kernel, also after large blocks were in use (an
# image that is unpacked would cost 5 MiB for good).
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}


class ChildFailed(FailedPrecondition):
    """A child cannot do its work; the message is its own sentence on why."""


class ChildProcess:
    """See the module's docstring. Make it with `start`, end it with `end`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen(), name=f"words of the {name}")

    @classmethod
    async def start(cls, name: str, argv: Sequence[str], descriptors: Sequence[int] = ()) -> "ChildProcess":
        """Start one; it gets ready to be configured, and has our `descriptors`, too. Raises ChildFailed."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,
                pass_fds=descriptors,
                cwd="/",
                env=ENVIRONMENT | os.environ,
            )
        except OSError as error:
            raise ChildFailed(f"the {name} process cannot be started: {error.strerror}: {argv[0]}") from None
        return cls(name, process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None and not self._listening.done()

    async def configure(self, line: bytes) -> None:
        """Tell it what it is; returns when it is ready. Raises ChildFailed."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(line + b"\n")
            await stdin.drain()
        answer = await self._answers.get()
        if answer == "ready":
            return
        if answer:
            raise ChildFailed(answer.removeprefix("failed "))
        # For whoever asks again.
        self._answers.put_nowait("")
        raise ChildFailed(f"the {self.name} process ended before it was ready ({_how(await self.wait())})")

    async def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while line := await stdout.readline():
            word = line.decode(errors="replace").strip()
            if word == "ready" or word.startswith("failed "):
                self._answers.put_nowait(word)
            elif word:
                _log.info("a child says something", child=self.name, word=word)
        self._answers.put_nowait("")

    async def wait(self) -> int:
        """Wait for its end; gives its exit status, negative for a signal."""
        return await self._process.wait()

    async def ended(self) -> str:
        """Wait for its end; says how that was."""
        return _how(await self.wait())

    async def end(self) -> None:
        """End it: by the end of its input, then SIGTERM, then SIGKILL. Returns when it is gone."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._process.wait()
                break
            _log.warning("a child does not end", child=self.name, sending=number.name)
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
        await self._process.wait()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)


def _how(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


# Who a child is stands in a file, so that the next daemon can wait for what a killed one left behind.


def note(path: Path, pid: int) -> None:
    """Write down which process the child is."""
    path.write_text(f"{pid} {_started(pid)}\n")


async def predecessor_gone(name: str, path: Path) -> None:
    """Wait until the child that a former daemon left behind is gone; kill it when it does not go by itself."""
    pid, started = _noted(path)
    try:
        handle = os.pidfd_open(pid) if pid else -1
    except OSError:
        handle = -1
    if handle < 0:
        return
    try:
        if _started(pid) == started:
            _log.info("waiting for a former daemon's child to end", child=name, pid=pid)
            if not await asyncio.to_thread(_ended, handle, _PATIENCE):
                _log.warning("a former daemon's child does not end: killing it", child=name, pid=pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                await asyncio.to_thread(_ended, handle, _PATIENCE)
    finally:
        os.close(handle)


def _noted(path: Path) -> tuple[int, int]:
    """Process id and start of the child that stands in the file; zeros when none does."""
    try:
        pid, started = path.read_text().split()
        return int(pid), int(started)
    except (OSError, ValueError):
        return 0, 0


def _ended(handle: int, limit: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(limit * 1000))


def _started(pid: int) -> int:
    """When a process started, in the kernel's ticks; 0 when it is gone or dead (proc(5): fields 3 and 22 of stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])
