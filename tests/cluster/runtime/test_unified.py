"""cgroup v2 on a machine that has v1: the same runtime where a cgroup2 is what is mounted at /sys/fs/cgroup.

Such a cgroup2 has no controllers, for the v1 hierarchies have them. So this is about groups: who is in them, that they
outlive a worker, that their processes are killed and that they go. What controllers are told is in tests/unit/runtime.
"""

import asyncio
import shutil
from pathlib import Path

import pytest

from flota.worker.runtime import machine, mounts
from flota.worker.runtime.capabilities import from_mask
from flota.worker.runtime.container import Exit, Phase
from flota.worker.runtime.machine import CGROUPS
from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World, eventually


@pytest.fixture(scope="module", autouse=True)
def _unified(_mounts: None) -> None:
    """In the module's own mount namespace."""
    if machine.look("/x", "").unified_cgroups:
        pytest.skip("this machine has cgroup v2 alone: every test here is about it")
    mounts.mount("cgroup2", CGROUPS, "cgroup2")


@pytest.fixture(autouse=True)
def _a_runtime_that_can(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """crun raises a limit for the device rules of v2, and not every root may do that; runc does without."""
    if "CAP_SYS_RESOURCE" in _held():
        return
    if shutil.which("runc") is None:
        pytest.skip("crun may not raise a limit here, and runc is not installed")
    tools = world.directory / "tools"
    tools.mkdir()
    for name in ("conmon", "catatonit", "cp", "runc"):
        (tools / name).symlink_to(shutil.which(name) or "/nothing")
    monkeypatch.setenv("PATH", str(tools))


def _held() -> frozenset[str]:
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return from_mask(int(lines["CapEff"], 16))


def name_of(pid: int | str) -> str:
    """A process' name; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def test_a_life(world: World, runtime: Runtime) -> None:
    container = world.container("sleep 1000 & trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done")
    await runtime.create(container)
    group = CGROUPS / world.cgroup_parent[1:] / container.id
    assert group.is_dir()
    monitors = (group.parent / "monitors/cgroup.procs").read_text().split()
    assert list(map(name_of, monitors)) == ["conmon"]
    pid = (await runtime.launch(container.id)).pid
    await eventually(lambda: world.output(container) == ["ready"])
    members = await runtime.members(container.id)
    assert pid in members
    assert members == set(map(int, (group / "cgroup.procs").read_text().split()))
    assert len(members) >= 2
    done = await runtime.execute(container.id, ["/bin/sh", "-c", "cat /proc/self/cgroup; exit 3"], limit=60)
    assert (done.code, done.output.splitlines()[-1]) == (3, "0::/"), "it sees its group as the root"
    stats = (await runtime.usage([container.id]))[container.id]
    assert stats.cpu.total > 0
    await runtime.signal(container.id, 15)
    assert await runtime.wait(container.id) == Exit(7)
    await runtime.remove(container.id)
    assert not group.exists()


async def test_it_outlives_a_worker_and_all_its_processes_are_killed(world: World, runtime: Runtime) -> None:
    container = world.container("(trap '' TERM; sleep 1000) & (sleep 1000) & echo ready; sleep 1000")
    await runtime.create(container)
    pid = (await runtime.launch(container.id)).pid
    await eventually(lambda: world.output(container) == ["ready"])
    members = await runtime.members(container.id)
    await runtime.stop()
    again = world.runtime()
    await again.start()
    found = await again.adopt()
    assert (found[container.id].phase, found[container.id].pid) == (Phase.RUNNING, pid)
    assert await again.members(container.id) == members
    await again.remove(container.id)
    assert not any(map(name_of, members))
    await again.stop()
    await runtime.start()


async def test_what_a_container_s_end_leaves_running_is_killed_with_its_group(world: World, runtime: Runtime) -> None:
    """Processes of an inner group too, by the one word that v2 has for it where the kernel knows it."""
    container = world.container("sleep", "1000")
    await runtime.create(container)
    await runtime.launch(container.id)
    group = CGROUPS / world.cgroup_parent[1:] / container.id
    inner = group / "inner"
    inner.mkdir()
    process = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
    (inner / "cgroup.procs").write_text(str(process.pid))
    assert process.pid in await runtime.members(container.id)
    await runtime.remove(container.id)
    assert await asyncio.wait_for(process.wait(), 60) == -9
    assert not group.exists()
