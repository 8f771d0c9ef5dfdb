"""What a machine must have, and what is said when it has not. Needs root."""

import shutil

import pytest

from flota.v1.types_pb2 import Mount
from flota.worker.runtime import machine, mounts, moves
from flota.worker.runtime.container import BadContainer, Exit, Phase
from flota.worker.runtime.machine import CGROUPS, RuntimeUnavailable
from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World


async def test_hybrid_control_groups_are_one_clear_error(world: World) -> None:
    if machine.look("/x", "").unified_cgroups:
        pytest.skip("this machine has cgroup v2 alone")
    mounts.mount("cgroup2", CGROUPS / "unified", "cgroup2")
    try:
        with pytest.raises(RuntimeUnavailable, match=r"cgroup v1 with a cgroup2 mounted beside it .*Unmount it where"):
            await world.runtime().start()
    finally:
        mounts.unmount(CGROUPS / "unified")


async def test_what_is_not_installed_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = world.directory / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(RuntimeUnavailable, match="conmon is not installed: apt-get install conmon"):
        await world.runtime().start()
    (tools / "conmon").symlink_to("/bin/true")
    with pytest.raises(RuntimeUnavailable, match="neither crun nor runc is installed: apt-get install crun"):
        await world.runtime().start()
    (tools / "crun").symlink_to("/bin/false")
    with pytest.raises(RuntimeUnavailable, match="crun --version fails"):
        await world.runtime().start()


async def test_what_is_in_use_is_told(runtime: Runtime) -> None:
    assert runtime.name in ("crun", "runc")
    assert runtime.version[0].isdigit()


@pytest.mark.skipif(not moves.can(), reason="Linux 6.18 and its first cgroup namespace are needed")
async def test_forks_do_not_wait_for_moves_between_groups(world: World) -> None:
    """Once a worker has started: an option of the control groups' tree, which a mount without it takes away."""
    tree = world.directory / "tree"
    tree.mkdir()
    found = set()
    # Another test may mount it at this time, but not each time.
    for _ in range(5):
        mounts.mount("cgroup2", tree, "cgroup2", data=",".join(moves.options_of_tree() - {"favordynmods"}))
        try:
            runtime = world.runtime()
            await runtime.start()
            found = moves.options_of_tree()
            await runtime.stop()
        finally:
            mounts.unmount(tree)
        if "favordynmods" in found:
            break
    assert "favordynmods" in found


async def test_runc_does_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("runc is not installed")
    tools = world.directory / "tools"
    tools.mkdir()
    for name in ("conmon", "catatonit", "cp", "runc"):
        (tools / name).symlink_to(shutil.which(name) or "/nothing")
    monkeypatch.setenv("PATH", str(tools))
    runtime = world.runtime()
    await runtime.start()
    assert runtime.name == "runc"
    fixed = Mount(type=Mount.TYPE_BIND, source=str(tools), target="/tools", read_only=True)
    line = "touch /tools/x 2>/dev/null && exit 1; while ! test -e /tmp/go; do sleep 0.01; done; exit 5"
    container = world.container(line, init=True, mounts=[fixed])
    await runtime.create(container)
    assert (await runtime.adopt())[container.id].phase is Phase.CREATED
    await runtime.launch(container.id)
    assert (await runtime.adopt())[container.id].phase is Phase.RUNNING
    done = await runtime.execute(container.id, ["/bin/sh", "-c", "echo here; touch /tmp/go"], limit=10)
    assert (done.code, done.output) == (0, "here")
    assert await runtime.wait(container.id) == Exit(5)
    with pytest.raises(BadContainer, match=r"kernel\.panic"):
        await runtime.create(world.container("true", sysctls={"kernel.panic": "1"}))
    await runtime.remove(container.id)
    await runtime.stop()
    assert not any(world.left().values()), world.left()
    assert world.groups() == []
