"""Children of the daemon: started, watched, started again, ended. The processes are real, the program is a tiny one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flota.node import child as children
from flota.node import process as processes
from flota.node.child import Child
from flota.node.process import ChildFailed, note, predecessor_gone
from flota.rpc.errors import Unavailable
from flota.v1.process_pb2 import WorkerConfig

PROGRAM = Path(__file__).with_name("child_program.py")


def told(word: str) -> Callable[[], WorkerConfig]:
    return lambda: WorkerConfig(hostname=word)


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.argv = [sys.executable, "-S", str(PROGRAM), str(directory)]
        self.child = Child("worker", self.argv, directory / "worker.sock", directory / "worker.pid")

    @property
    def lines(self) -> list[tuple[int, str]]:
        """Who was told what."""
        file = self.directory / "lines"
        found = [line.split(" ") for line in file.read_text().splitlines()] if file.exists() else []
        return [(int(pid), word) for pid, word in found]

    async def until_lines(self, count: int) -> list[tuple[int, str]]:
        await until(lambda: len(self.lines) >= count)
        return self.lines


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def spawn(*argv: str, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(argv, **options)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # Who would end by itself is given the time for it, however busy this machine is.
    monkeypatch.setattr(processes, "_PATIENCE", 60.0)
    world = World(tmp_path)
    yield world
    await world.child.stop()
    await world.child.cool()
    assert not [pid for pid, _ in world.lines if alive(pid)]


async def test_a_child_runs_until_it_is_stopped_by_the_end_of_its_input(world: World) -> None:
    await world.child.start(told("well"))
    [(pid, _)] = world.lines
    assert world.child.running
    assert alive(pid)
    assert world.child.channel is not None
    await world.child.stop()
    assert not alive(pid)
    assert (world.directory / "ended").exists()
    assert not (world.directory / "worker.pid").exists()
    with pytest.raises(Unavailable):
        _ = world.child.channel


async def test_a_child_that_dies_is_started_again_with_what_is_true_by_then(world: World) -> None:
    word = "well"
    await world.child.start(lambda: WorkerConfig(hostname=word))
    word = "better"
    os.kill(world.lines[0][0], signal.SIGKILL)
    first, second = await world.until_lines(2)
    assert first[0] != second[0]
    assert second[1] == "better"
    await world.child.until_ready()
    assert world.child.error == ""


async def test_a_refusal_is_the_childs_own_sentence_and_then_nothing_runs(world: World) -> None:
    with pytest.raises(ChildFailed, match=r"^there is no room$"):
        await world.child.start(told("refuse"))
    assert not world.child.wanted
    assert len(world.lines) == 1


async def test_a_child_that_ends_before_it_is_ready_is_no_riddle(world: World) -> None:
    with pytest.raises(ChildFailed, match=r"^the worker process ended before it was ready \(exit status 7\)$"):
        await world.child.start(told("crash"))


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = Child("worker", [str(tmp_path / "nothing")], tmp_path / "worker.sock", tmp_path / "worker.pid")
    with pytest.raises(
        ChildFailed, match=r"the worker process cannot be started: No such file or directory: .*nothing"
    ):
        await child.start(told("well"))


async def test_who_insists_has_it_tried_again_and_knows_why_it_does_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_FIRST_PAUSE", 0.01)
    word = "refuse"
    await world.child.insist(lambda: WorkerConfig(hostname=word))
    await world.child.until_tried()
    with pytest.raises(Unavailable, match="this node's worker is not running: there is no room"):
        _ = world.child.channel
    await world.until_lines(3)
    word = "well"
    await world.child.until_ready()
    assert world.child.error == ""


async def test_the_pause_between_tries_grows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(children.asyncio, "sleep", sleeping)
    await world.child.insist(told("refuse"))
    async with asyncio.timeout(60):
        while len(pauses) < 9:
            await sleep(0.01)
    await world.child.stop()
    assert pauses[:9] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


async def test_a_process_that_is_kept_ready_is_the_one_that_is_started(world: World) -> None:
    await world.child.warm()
    spare = world.child._spare
    assert spare is not None
    await world.child.warm()
    assert world.child._spare is spare
    await world.child.start(told("well"))
    assert world.lines == [(spare.pid, "well")]


async def test_a_spare_that_died_is_not_used(world: World) -> None:
    await world.child.warm()
    spare = world.child._spare
    assert spare is not None
    os.kill(spare.pid, signal.SIGKILL)
    await until(lambda: not spare.alive)
    await world.child.start(told("well"))
    assert world.lines[0][0] != spare.pid


async def test_a_running_process_becomes_something_else_in_place(world: World) -> None:
    await world.child.start(told("well"))
    await world.child.become(told("better"))
    assert [word for _, word in world.lines] == ["well", "better"]
    assert len({pid for pid, _ in world.lines}) == 1
    os.kill(world.lines[0][0], signal.SIGKILL)
    assert (await world.until_lines(3))[2][1] == "better"


async def test_a_process_that_cannot_become_what_it_is_told_says_so(world: World) -> None:
    await world.child.start(told("well"))
    with pytest.raises(ChildFailed, match="there is no room"):
        await world.child.become(told("refuse"))


@pytest.mark.parametrize("word", ["deaf", "stubborn"])
async def test_a_child_that_does_not_end_by_itself_is_made_to(
    world: World, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    await world.child.start(told(word))
    await world.child.stop()
    assert not alive(world.lines[0][0])


async def test_what_a_child_says_beside_does_not_stop_it(world: World) -> None:
    await world.child.start(told("chatty"))
    await until((world.directory / "said").exists)


async def test_a_process_that_cannot_be_written_down_does_not_stay(world: World) -> None:
    (world.directory / "worker.pid").mkdir()
    with pytest.raises(ChildFailed, match="Is a directory"):
        await world.child.start(told("well"))
    (world.directory / "worker.pid").rmdir()
    await world.child.start(told("well"))
    # Only the second one was ever told anything.
    assert len(world.lines) == 1


async def test_who_gives_up_waiting_for_a_start_leaves_nothing(world: World) -> None:
    starting = asyncio.create_task(world.child.start(told("well")))
    await world.until_lines(1)
    starting.cancel()
    await asyncio.wait({starting})
    await world.child.stop()
    assert not alive(world.lines[0][0])


async def test_children_end_when_their_daemon_is_killed(tmp_path: Path) -> None:
    owner = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from flota.node.child import Child\n"
        "from flota.v1.process_pb2 import WorkerConfig\n"
        "async def main():\n"
        "    here = Path(sys.argv[1])\n"
        "    child = Child('worker', sys.argv[2:], here / 'worker.sock', here / 'worker.pid')\n"
        "    await child.warm()\n"
        "    await child.start(lambda: WorkerConfig(hostname='well'))\n"
        "    await child.warm()\n"
        "    print(child._spare.pid, flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    world = World(tmp_path)
    daemon = spawn(sys.executable, "-c", owner, str(tmp_path), *world.argv, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    spare = int(await asyncio.to_thread(daemon.stdout.readline))
    [(child, _)] = world.lines
    assert alive(child)
    assert alive(spare)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    await until(lambda: not alive(child) and not alive(spare))
    assert (tmp_path / "ended").exists()


async def test_a_new_daemon_waits_for_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    left = spawn(sys.executable, "-S", "-c", "input()", stdin=subprocess.PIPE)
    note(tmp_path / "worker.pid", left.pid)
    waiting = asyncio.create_task(predecessor_gone("worker", tmp_path / "worker.pid"))
    assert left.stdin is not None
    left.stdin.close()
    await waiting
    assert left.poll() is not None

    deaf = spawn("sleep", "1000")
    note(tmp_path / "worker.pid", deaf.pid)
    await predecessor_gone("worker", tmp_path / "worker.pid")
    assert deaf.wait() == -signal.SIGKILL


async def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path: Path) -> None:
    other = spawn("sleep", "1000")
    (tmp_path / "worker.pid").write_text(f"{other.pid} 1\n")
    await predecessor_gone("worker", tmp_path / "worker.pid")
    assert other.poll() is None
    other.kill()
    other.wait()
    for content in ("", "nonsense\n", "4194305 7\n"):
        (tmp_path / "worker.pid").write_text(content)
        await predecessor_gone("worker", tmp_path / "worker.pid")
