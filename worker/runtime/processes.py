"""Running short commands (crun, conmon) without blocking the event loop and without helper processes.

A child's end is seen through its pidfd; its output goes to a memory file, so that no reader task is needed and a
daemonized grandchild that keeps the descriptor does not hold anything up.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_OUTPUT_LIMIT = 64 << 10


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


async def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    limit: float = 30,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a command to its end, for at most `limit` seconds.

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
        text = os.pread(output, _OUTPUT_LIMIT, 0).decode(errors="replace")
        return Completed(process.returncode, text.strip())
    finally:
        os.close(output)


async def finished(process: subprocess.Popen[bytes], limit: float) -> None:
    """Wait for a child's end and take its exit code. Raises TimeoutError."""
    descriptor = os.pidfd_open(process.pid)
    try:
        async with asyncio.timeout(limit):
            await readable(descriptor)
    finally:
        os.close(descriptor)
    process.wait()
