"""Containers on cgroup v2 with every controller, by crun and by runc; beside systemd where it is the first process."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flota.v1.types_pb2 import ResourceRequirements
from flota.worker.runtime.container import Phase
from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World, private_mounts
from tests.machine.telling import end, must, say, tried

ROOT = Path("/sys/fs/cgroup")
CRUN = Path("/usr/bin/crun")
PATIENCE = 300.0
SYSTEMD = Path("/run/systemd/system").exists()
MIB = 1 << 20
# Writes to its disk, spins, and has as many processes as it may.
BUSY = (
    "dd if=/dev/zero of=/srv/x bs=1M count=4; sync; (while :; do :; done) & "
    "(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 1000 & done); exec sleep 1000"
)
FILES = ("cpu.max", "memory.max", "memory.swap.max", "pids.max")
# What has systemd look at all groups again.
LOOK_AGAIN = (
    "systemctl set-property --runtime flota.service CPUWeight= IOWeight=; systemctl daemon-reload; "
    "systemctl daemon-reexec"
)


def wanted(cpus: float, memory: int, swap: int = 0, pids: int = 0) -> ResourceRequirements:
    found = ResourceRequirements(memory_swap_bytes=swap, pids_limit=pids)
    found.limits.nano_cpus, found.limits.memory_bytes = int(cpus * 1e9), memory
    return found


async def comes(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not check():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


async def bounded(world: World, runtime: Runtime) -> None:
    parent = ROOT / world.cgroup_parent[1:]
    one = world.container(BUSY, resources=wanted(0.1, 64 * MIB, 96 * MIB, 12))
    await runtime.create(one)
    await runtime.launch(one.id)
    group = parent / one.id

    def text(name: str) -> str:
        return (group / name).read_text().strip()

    def limits() -> list[str]:
        return [text(name) for name in FILES]

    must("the kernel has its limits", limits() == ["10000 100000", str(64 * MIB), str(32 * MIB), "12"], limits())
    must("controllers", {"cpu", "io", "memory", "pids"} <= set(text("cgroup.controllers").split()))
    must("the processor's quota holds it back", await comes(lambda: "nr_throttled 0" not in text("cpu.stat")))
    must("it is refused more processes", await comes(lambda: text("pids.events") != "max 0"), text("pids.current"))

    use = (await runtime.usage([one.id]))[one.id]
    seen = (use.memory.limit, use.pids_limit, use.pids, use.cpu.throttled)
    must("figures", seen[:2] == (64 * MIB, 12) and 3 < use.pids <= 12 and use.cpu.throttled > 0, seen)
    await runtime.pause(one.id)
    must("paused is paused", "frozen 1" in text("cgroup.events"))
    before = text("cpu.stat").splitlines()[0]
    await asyncio.sleep(1)
    must("nothing of it runs", text("cpu.stat").splitlines()[0] == before)
    await runtime.resume(one.id)
    must("it goes on", await comes(lambda: text("cpu.stat").splitlines()[0] != before))
    await runtime.update(one.id, wanted(0.2, 80 * MIB))
    now = limits()
    must("other limits", now == ["20000 100000", str(80 * MIB), str(80 * MIB), "max"], now)
    done = await runtime.execute(one.id, ["/bin/sh", "-c", "cat /proc/self/cgroup"], limit=PATIENCE)
    must("it sees its group as the root", done.output.strip() == "0::/")
    if SYSTEMD:
        look_again()
        must("systemd changes nothing of it", limits() == now, limits())
    await runtime.stop()
    await runtime.start()
    found = await runtime.adopt()
    must("a worker that starts again takes it up", found[one.id].phase == Phase.RUNNING)
    await runtime.remove(one.id)
    must("its group goes with it", not group.exists())
    if SYSTEMD:
        look_again()
        weight = (parent / "cpu.weight").read_text().strip() if (parent / "cpu.weight").exists() else "none"
        must("nor of the weight of all while there is no container", weight == "50", weight)


def look_again() -> None:
    say(LOOK_AGAIN)
    subprocess.run(["sh", "-c", LOOK_AGAIN], check=True)
    # It does so in its own time.
    time.sleep(3)


async def hungry(world: World, runtime: Runtime) -> None:
    hog = world.container("/bin/busybox", "tail", "/dev/zero", resources=wanted(0, 32 * MIB, 32 * MIB))
    await runtime.create(hog)
    await runtime.launch(hog.id)
    ended = await asyncio.wait_for(runtime.wait(hog.id), PATIENCE)
    must("killed for want of memory, and told so", ended.oom_killed, ended)
    await runtime.remove(hog.id)


async def told(name: str, world: World) -> None:
    runtime = world.runtime()
    await runtime.start()
    must(f"by {name} {runtime.version}", runtime.name == name)
    await bounded(world, runtime)
    await hungry(world, runtime)
    await runtime.stop()


def main() -> int:
    for name in ("crun", "runc"):
        away = CRUN.with_name("crun.away")
        if name == "runc":
            CRUN.rename(away)
        try:
            with private_mounts():
                world = World(Path("/var/lib/flota") / name, f"/flota-{name}")
                tried(f"limits by {name}", lambda name=name, world=world: asyncio.run(told(name, world)))  # type: ignore[misc]
                world.close()
        finally:
            if away.exists():
                away.rename(CRUN)
    return end()


if __name__ == "__main__":
    sys.exit(main())
