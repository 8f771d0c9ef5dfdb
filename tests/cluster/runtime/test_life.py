"""A container's life: made, started, ended, removed; and found again by the next worker. Needs root."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flota.v1.types_pb2 import ResourceRequirements, Resources
from flota.worker.images.config import ImageConfig
from flota.worker.runtime import mounts
from flota.worker.runtime.container import BadContainer, Container, ContainerError, ContainerState, Exit, Log, Phase
from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World, eventually

OWNER = Path(__file__).with_name("owner.py")
ROOT = Path(__file__).resolve().parents[3]
# A shell that tells when it is ready, so that no signal comes before its trap.
TRAPS = "trap 'echo got; exit 5' TERM; echo ready; while true; do sleep 0.01; done"


def process(pid: int) -> list[str]:
    """What /proc says of a process: (name), state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().split()[1:]


async def run(runtime: Runtime, container: Container) -> Exit:
    await runtime.create(container)
    await runtime.launch(container.id)
    return await runtime.wait(container.id)


async def test_it_runs_says_something_and_ends_with_its_code(world: World, runtime: Runtime) -> None:
    container = world.container("echo out; echo err >&2; exit 3")
    assert await run(runtime, container) == Exit(3)
    lines = (runtime.log_file(container.id)).read_text().splitlines()
    assert sorted(line.split(" ")[1:] for line in lines) == [["stderr", "F", "err"], ["stdout", "F", "out"]]


async def test_nothing_runs_before_it_is_launched(world: World, runtime: Runtime) -> None:
    container = world.container("echo ran > /tmp/ran; sleep 1000")
    await runtime.create(container)
    mark = world.root(container.id) / "tmp/ran"
    assert not mark.exists()
    await runtime.launch(container.id)
    await eventually(mark.exists)


async def test_a_signal_reaches_the_first_process(world: World, runtime: Runtime) -> None:
    container = world.container(TRAPS)
    await runtime.create(container)
    await runtime.launch(container.id)
    await eventually(lambda: "ready" in world.output(container))
    await runtime.signal(container.id, signal.SIGTERM)
    assert await runtime.wait(container.id) == Exit(5)
    assert world.output(container) == ["ready", "got"]
    await runtime.signal(container.id, signal.SIGTERM)


async def test_a_killed_one_has_the_signal_in_its_code(world: World, runtime: Runtime) -> None:
    container = world.container("sleep", "1000")
    await runtime.create(container)
    await runtime.launch(container.id)
    await runtime.signal(container.id, signal.SIGKILL)
    end = await runtime.wait(container.id)
    assert end == Exit(137)
    assert end.describe() == "task: non-zero exit (137): SIGKILL"


async def test_out_of_memory_is_told(world: World, runtime: Runtime) -> None:
    limits = ResourceRequirements(limits=Resources(memory_bytes=16 << 20), memory_swap_bytes=16 << 20)
    greedy = world.container("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", resources=limits)
    modest = world.container("true", resources=limits)
    assert await run(runtime, greedy) == Exit(137, oom_killed=True)
    assert await run(runtime, modest) == Exit(0)


async def test_removal_kills_what_runs_and_may_be_repeated(world: World, runtime: Runtime) -> None:
    container = world.container("sleep 1000 & sleep 1000")
    await runtime.create(container)
    await runtime.launch(container.id)
    waiting = asyncio.create_task(runtime.wait(container.id))
    await asyncio.sleep(0)
    await runtime.remove(container.id)
    assert await waiting == Exit(137)
    assert not any(world.left().values()), world.left()
    await runtime.remove(container.id)
    with pytest.raises(ContainerError, match="there is no container"):
        await runtime.wait(container.id)


async def test_the_log_may_outlive_the_rest(world: World, runtime: Runtime) -> None:
    container = world.container("echo said")
    await run(runtime, container)
    await runtime.remove(container.id, keep_log=True)
    left = world.left()
    assert world.output(container) == ["said"]
    assert left | {"files": []} == {"mounts": [], "groups": [], "processes": [], "files": []}
    assert left["files"] == [str(runtime.log_file(container.id).parent), str(runtime.log_file(container.id))]
    await runtime.remove(container.id)
    assert not any(world.left().values())


async def test_one_that_was_never_launched_is_removed(world: World, runtime: Runtime) -> None:
    container = world.container("sleep", "1000")
    await runtime.create(container)
    await runtime.remove(container.id)
    assert not any(world.left().values()), world.left()


async def test_a_second_one_of_the_same_name_is_refused_and_the_first_unharmed(world: World, runtime: Runtime) -> None:
    container = world.container("sleep", "1000")
    await runtime.create(container)
    with pytest.raises(ContainerError, match="exists already"):
        await runtime.create(container)
    assert (await runtime.launch(container.id)).pid > 0


async def test_a_cancelled_creation_leaves_nothing(world: World, runtime: Runtime) -> None:
    cancelled = 0
    for turns in range(0, 40, 3):
        container = world.container("sleep", "1000")
        creating = asyncio.create_task(runtime.create(container))
        for _ in range(turns):
            await asyncio.sleep(0)
        creating.cancel()
        try:
            await creating
            # This process had to wait for a processor, and what it waited for had not.
            await runtime.remove(container.id)
        except asyncio.CancelledError:
            cancelled += 1
        assert not any(world.left().values()), (turns, world.left())
    assert cancelled


async def test_directories_deeper_than_any_stack(world: World, runtime: Runtime) -> None:
    container = world.container("i=0; while test $i -lt 3000; do mkdir d; cd d; i=$((i+1)); done; ln -s / root")
    assert await run(runtime, container) == Exit(0)
    await runtime.remove(container.id)
    assert not any(world.left().values()), world.left()


async def test_a_hundred_come_and_go(world: World, runtime: Runtime) -> None:
    async def one(container: Container) -> Exit:
        end = await run(runtime, container)
        await runtime.remove(container.id)
        return end

    descriptors = len(os.listdir("/proc/self/fd"))
    ends = await asyncio.gather(*(one(world.container(f"exit {number % 7}")) for number in range(100)))
    assert ends == [Exit(number % 7) for number in range(100)]
    assert not any(world.left().values()), world.left()
    # The default executor's threads hold none.
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["nothing-like-it"], "'nothing-like-it', is not in the image .PATH is /usr/local/sbin:"),
        (["/bin/nothing"], "'/bin/nothing', is not in the image"),
        (["/etc"], "'/etc', is not a file"),
        (["/etc/passwd"], "'/etc/passwd', is not executable: its mode is 0644"),
        (["/bin/script"], "'/bin/script', needs '/usr/bin/python3', which is not in the image"),
        (["/bin/text"], "'/bin/text', is neither a program nor a script with a #! line"),
    ],
)
async def test_a_program_that_cannot_be_run(world: World, runtime: Runtime, command: list[str], message: str) -> None:
    for name, text in {"script": "#!/usr/bin/python3 -u\n", "text": "hello\n"}.items():
        (world.layers / "base/bin" / name).write_text(text)
        (world.layers / "base/bin" / name).chmod(0o755)
    with pytest.raises(BadContainer, match=message):
        await runtime.create(world.container(*command))
    assert not any(world.left().values()), world.left()


async def test_an_image_without_a_command(world: World, runtime: Runtime) -> None:
    with pytest.raises(BadContainer, match="no command"):
        await runtime.create(world.container())
    image = ImageConfig(entrypoint=("/bin/echo", "from"), cmd=("the image",))
    container = world.container(image=image)
    assert await run(runtime, container) == Exit(0)
    assert world.output(container) == ["from the image"]


async def test_a_missing_layer_is_an_error_for_people(world: World, runtime: Runtime) -> None:
    container = world.container("true")
    (world.layers / "base").rename(world.layers / "gone")
    with pytest.raises(ContainerError, match=r"root could not be made: .*No such file"):
        await runtime.create(container)


async def test_the_log_is_kept_within_its_limit(world: World, runtime: Runtime) -> None:
    container = world.container("i=0; while test $i -lt 200; do echo line $i; i=$((i+1)); done", log=Log(2000))
    assert await run(runtime, container) == Exit(0)
    assert runtime.log_file(container.id).stat().st_size <= 2000
    assert world.output(container)[-1] == "line 199"


class Owner:
    """Another process that owns containers; see owner.py."""

    def __init__(self, world: World, *lines: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(OWNER), str(world.directory), world.cgroup_parent, *lines],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.pids = {}
        for line in iter(self.process.stdout.readline, "ready\n"):
            assert line, "the owner is gone"
            container_id, pid = line.split()
            self.pids[container_id] = int(pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


async def test_containers_outlive_their_owner_and_are_found_again(world: World, runtime: Runtime) -> None:
    owner = Owner(world, "sleep 1000", "sleep 0.3; exit 4", "exit 6", "create:exit 7")
    first, ends, ended, waits = owner.pids
    owner.kill()
    found = await runtime.adopt()
    assert found[first] == ContainerState(Phase.RUNNING, owner.pids[first])
    assert found[waits].phase is Phase.CREATED
    assert process(owner.pids[first])[0] == "(sleep)"
    assert await runtime.wait(ends) == Exit(4)
    assert await runtime.wait(ended) == Exit(6)
    assert (await runtime.launch(waits)).pid == found[waits].pid
    assert await runtime.wait(waits) == Exit(7)
    done = await runtime.execute(first, ["/bin/echo", "still here"], limit=60)
    assert (done.code, done.output) == (0, "still here")
    await runtime.signal(first, signal.SIGKILL)
    assert await runtime.wait(first) == Exit(137)


async def test_an_end_that_nobody_saw_is_not_missed(world: World) -> None:
    owner = Owner(world, "while ! test -e /tmp/go; do sleep 0.01; done; exit 9")
    (container_id,) = owner.pids
    owner.kill()
    (world.root(container_id) / "tmp/go").touch()
    await eventually((world.run / "tasks" / container_id / "exit").exists)
    runtime = world.runtime()
    await runtime.start()
    try:
        await runtime.adopt()
        assert await runtime.wait(container_id) == Exit(9)
        assert await runtime.adopt() == {container_id: ContainerState(Phase.ENDED, exit=Exit(9))}
    finally:
        await runtime.remove(container_id)
        await runtime.stop()
    assert not any(world.left().values()), world.left()


async def test_what_was_half_made_is_removed(world: World, runtime: Runtime) -> None:
    owner = Owner(world, "create:sleep 1000")
    (container_id,) = owner.pids
    owner.kill()
    (world.run / "tasks" / container_id / "record.json").unlink()
    assert await runtime.adopt() == {}
    assert not any(world.left().values()), world.left()


async def test_a_lost_monitor_ends_the_container(world: World, runtime: Runtime) -> None:
    container = world.container("sleep", "1000")
    await runtime.create(container)
    pid = (await runtime.launch(container.id)).pid
    monitor = int(process(pid)[2])
    os.kill(monitor, signal.SIGKILL)
    end = await runtime.wait(container.id)
    assert end == Exit(None)
    assert "monitor was lost" in end.describe()


async def test_after_a_start_of_the_machine_the_log_is_left(world: World, runtime: Runtime) -> None:
    container = world.container("echo said")
    await run(runtime, container)
    await runtime.stop()
    for entry in ("tasks", "runtime"):
        mounts.unmount_below(world.run / entry / container.id)
        mounts.delete(world.run / entry / container.id)
    await runtime.start()
    assert await runtime.adopt() == {container.id: ContainerState(Phase.ENDED, exit=Exit(None, by_reboot=True))}
    assert world.output(container) == ["said"]
