"""Running short commands (crun, cp, mount) without blocking the event loop and without helper processes.

A child's end is seen through its pidfd. Output of our own tools goes to a memory file, so that no reader task is
needed and a daemonized grandchild that keeps the descriptor does not hold anything up; output of a user's command,
which may be without end, through a pipe of which only the beginning is kept.
"""

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_OUTPUT_LIMIT = 64 << 10
_KILL_LIMIT = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class Completed:
    """`code` is negative for a signal. `output` is what it wrote to both standard streams, at most 64 KiB."""

    code: int
    output: str


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def readable(descriptor: int) -> None:
    """Wait until `descriptor` is readable (for a pidfd: until the process has ended)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _settle, done)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Wait until `descriptor` takes something, or nobody reads it any longer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, _settle, done)
    try:
        await done
    finally:
        loop.remove_writer(descriptor)


def parent(pid: int) -> int:
    """The parent of a process. Raises OSError when it is gone, ValueError."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


async def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    limit: float = 30,
    pass_fds: Sequence[int] = (),
    most: int = _OUTPUT_LIMIT,
) -> Completed:
    """Run a command to its end, for at most `limit` seconds; `most` bytes of its output are of interest.

    Raises TimeoutError (the command is killed), OSError when it cannot be started.
    """
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; what takes time is the wait below
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, pass_fds=pass_fds
        )
        try:
            await finished(process, limit)
        except BaseException:
            process.kill()
            process.wait()
            raise
        text = os.pread(output, most, 0).decode(errors="replace")
        return Completed(process.returncode, text.strip())
    finally:
        os.close(output)


async def run_users(command: Sequence[str], *, limit: float, end: Callable[[int], None]) -> Completed:
    """Run a command that does what a user asked for. At the limit, or when cancelled, `end` is to end it.

    `end` gets the child's process id. Raises TimeoutError, OSError when it cannot be started.
    """
    reader, writer = os.pipe()
    loop = asyncio.get_running_loop()
    kept = bytearray()

    def read() -> bool:
        try:
            chunk = os.read(reader, _OUTPUT_LIMIT)
        except BlockingIOError:
            return False
        kept.extend(chunk[: _OUTPUT_LIMIT - len(kept)])
        if not chunk:
            loop.remove_reader(reader)
        return bool(chunk)

    try:
        os.set_blocking(reader, False)
        loop.add_reader(reader, read)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - a vfork; what takes time is the wait below
                command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True
            )
        finally:
            os.close(writer)
        try:
            await finished(process, limit)
        except BaseException:
            end(process.pid)
            await to_the_end(_ended(process))
            raise
        while read():
            pass
        return Completed(process.returncode, kept.decode(errors="replace").strip())
    finally:
        loop.remove_reader(reader)
        os.close(reader)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        await finished(process, _KILL_LIMIT)
    except TimeoutError:
        process.kill()
        process.wait()


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end also when the caller is cancelled meanwhile; the cancellation is raised after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: BLE001 - raised by the result below
            break
    if cancelled:
        if not task.cancelled():
            task.exception()  # seen
        raise cancelled
    return task.result()


async def finished(process: subprocess.Popen[bytes], limit: float) -> None:
    """Wait for a child's end and take its exit code. Raises TimeoutError."""
    async with asyncio.timeout(limit):
        await ended(process)


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child's end, however long that takes, and take its exit code."""
    if process.poll() is not None:
        return
    descriptor = os.pidfd_open(process.pid)
    try:
        await readable(descriptor)
    finally:
        os.close(descriptor)
    process.wait()
