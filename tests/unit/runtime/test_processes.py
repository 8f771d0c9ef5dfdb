"""Short commands: their output, their limit, their end."""

import asyncio
import os
import signal

import pytest

from flota.worker.runtime import processes

ENDLESS = ["/bin/sh", "-c", "echo said; exec sleep 1000"]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def test_output_and_code() -> None:
    assert await processes.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]) == processes.Completed(
        3, "out\nerr"
    )
    done = await processes.run(["/bin/sh", "-c", "echo $A"], env={"A": "b"})
    assert done == processes.Completed(0, "b")
    assert (await processes.run(["/bin/sh", "-c", "kill -9 $$"])).code == -9


async def test_a_command_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        await processes.run(["/bin/nothing-like-it"])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        await processes.run_users(["/bin/nothing-like-it"], limit=1, end=kill)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_limit_kills() -> None:
    with pytest.raises(TimeoutError):
        await processes.run(ENDLESS, limit=0.1)
    with pytest.raises(TimeoutError):
        await processes.run_users(ENDLESS, limit=0.1, end=kill)


async def test_of_much_output_the_beginning_is_kept() -> None:
    script = "echo first; dd if=/dev/zero bs=64k count=50 2>/dev/null | tr '\\0' x; echo last"
    done = await processes.run_users(["/bin/sh", "-c", script], limit=10, end=kill)
    assert done.code == 0
    assert done.output.startswith("first\nxxx")
    assert len(done.output) == 64 << 10


async def test_what_goes_on_behind_a_command_holds_nothing_up() -> None:
    done = await processes.run_users(["/bin/sh", "-c", "sleep 5 & echo done"], limit=3, end=kill)
    assert done == processes.Completed(0, "done")


async def test_cancelling_ends_the_command() -> None:
    ended = []

    def end(pid: int) -> None:
        ended.append(pid)
        kill(pid)

    task = asyncio.create_task(processes.run_users(ENDLESS, limit=100, end=end))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(ended[0], 0)


async def test_work_that_is_done_to_its_end() -> None:
    go = asyncio.Event()
    steps = []

    async def work() -> str:
        steps.append("begun")
        await go.wait()
        steps.append("ended")
        return "result"

    task = asyncio.create_task(processes.to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    assert steps == ["begun"]
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["begun", "ended"]
    assert await processes.to_the_end(work()) == "result"


async def test_an_error_of_work_done_to_its_end() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await processes.to_the_end(work())
