"""What a container sees and may do: user, environment, capabilities, limits, commands. Needs root."""

import dataclasses
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flota.v1.types_pb2 import Mount, ResourceRequirements, Resources, Ulimit
from flota.worker.images.config import ImageConfig
from flota.worker.runtime import machine
from flota.worker.runtime.container import BadContainer, ContainerError, PlacedFile
from flota.worker.runtime.runtime import Runtime
from tests.cluster.runtime.world import World, eventually, running, said

MEMORY = "/sys/fs/cgroup/memory"


def parent(pid: int) -> Path:
    """/proc of a process's parent."""
    return Path("/proc") / Path(f"/proc/{pid}/stat").read_text().split()[3]


def descriptors(process: Path) -> set[str]:
    """What a process has open."""
    found = set()
    for one in (process / "fd").iterdir():
        # The directory that is being read here is gone already.
        with suppress(FileNotFoundError):
            found.add(os.readlink(one))
    return found


async def test_the_files_of_its_network(world: World, runtime: Runtime) -> None:
    container = world.container("hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf")
    hosts = ["127.0.0.1 localhost", "10.0.0.2 box"]
    assert await said(world, runtime, container) == ["box", "box", *hosts, "nameserver 127.0.0.11"]


async def test_it_is_in_its_sandbox(world: World, runtime: Runtime) -> None:
    assert await said(world, runtime, world.container("ls /sys/class/net; echo $$")) == ["lo", "1"]


async def test_environment_directory_and_home(world: World, runtime: Runtime) -> None:
    image = ImageConfig(env=("A=image", "B=image"), working_dir="/made/on/the/way", user="app")
    lines = await said(world, runtime, world.container("pwd; env; stat -c %u .", image=image, env=["B=spec", "A"]))
    assert lines[0] == "/made/on/the/way"
    assert "B=spec" in lines
    assert "HOME=/home/app" in lines
    assert "HOSTNAME=box" in lines
    assert not any(line.startswith("A=") for line in lines)
    assert lines[-1] == "1000"


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", [], "uid=0(root) gid=0(root)"),
        ("app", [], "uid=1000(app) gid=1000(app) groups=2000(extra)"),
        ("1234:extra", ["77"], "uid=1234 gid=2000(extra) groups=77"),
    ],
)
async def test_the_account(world: World, runtime: Runtime, user: str, groups: list[str], expected: str) -> None:
    assert await said(world, runtime, world.container("/bin/id", user=user, groups=groups)) == [expected]


async def test_modes_do_not_depend_on_the_daemon(world: World, tmp_path: Path) -> None:
    (world.layers / "base").chmod(0o751)
    files = (PlacedFile("/conf/file", b"", 0, 0, 0o444),)
    mount = Mount(type=Mount.TYPE_VOLUME, source="data", target="/data")
    before = os.umask(0o077)
    try:
        runtime = world.runtime()
        await runtime.start()
        line = "stat -c '%a %u' / /etc/hosts /new /new/place /conf /data; cat /etc/resolv.conf /conf/file"
        container = world.container(line, user="app", dir="/new/place", files=files, mounts=[mount])
        lines = await said(world, runtime, container)
        await runtime.remove(container.id)
        await runtime.stop()
    finally:
        os.umask(before)
    assert lines[:-1] == ["751 0", "644 0", "755 1000", "755 1000", "755 0", "755 0"]


async def test_an_image_without_anything(world: World, runtime: Runtime) -> None:
    container = dataclasses.replace(world.container("/bin/busybox", "ls", "/", "/etc"), layers=())
    with pytest.raises(BadContainer, match="'/bin/busybox', is not in the image"):
        await runtime.create(container)
    mounts = [Mount(source=str(world.layers / "base/bin"), target="/bin", read_only=True)]
    container = dataclasses.replace(world.container("/bin/busybox", "ls", "/", mounts=mounts), layers=())
    assert await said(world, runtime, container) == ["bin", "dev", "etc", "proc", "sys"]


async def test_what_programs_expect_of_dockers_containers(world: World, runtime: Runtime) -> None:
    line = "test -f /.dockerenv && echo inside; grep -c ' / ' /etc/mtab; test -d /sys/fs/cgroup && echo groups"
    assert await said(world, runtime, world.container(line)) == ["inside", "1", "groups"]
    # What an image has of it hides ours.
    (world.layers / "base/etc/mtab").write_text("mine\n")
    assert await said(world, runtime, world.container("cat", "/etc/mtab")) == ["mine"]


async def test_limits_can_be_read_inside(world: World, runtime: Runtime) -> None:
    """What a Java machine or a Go program sizes itself by."""
    resources = ResourceRequirements(limits=Resources(memory_bytes=64 << 20))
    line = (
        "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null;"
        " mkdir mine memory/mine 2>/dev/null || echo refused"
    )
    container = world.container(line, resources=resources)
    assert await said(world, runtime, container) == [str(64 << 20), "refused"]


async def test_no_new_privileges_and_system_calls(world: World, runtime: Runtime) -> None:
    line = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"
    assert await said(world, runtime, world.container(line)) == ["NoNewPrivs:\t0", "Seccomp:\t2"]
    container = world.container(line, no_new_privileges=True, seccomp_unconfined=True)
    assert await said(world, runtime, container) == ["NoNewPrivs:\t1", "Seccomp:\t0"]
    # What is run in it later is bound by the same.
    container = await running(runtime, world.container("sleep", "1000", no_new_privileges=True))
    done = await runtime.execute(container.id, ["/bin/grep", "NoNewPrivs", "/proc/self/status"], limit=30)
    assert done.output == "NoNewPrivs:\t1"


async def test_labels_are_no_orders_to_the_runtime(world: World, runtime: Runtime) -> None:
    """crun does what annotations named run.oci.… say; a label of an image is not to become one."""
    image = ImageConfig(labels={"run.oci.pidfd_receiver": "/a/socket/of/the/node"})
    container = world.container("echo said", image=image, labels={"run.oci.seccomp.receiver": "/another"})
    assert await said(world, runtime, container) == ["said"]


async def test_an_unknown_account(world: World, runtime: Runtime) -> None:
    with pytest.raises(BadContainer, match="user 'nobody' is not in the image's /etc/passwd"):
        await runtime.create(world.container("true", user="nobody"))


async def test_a_read_only_root(world: World, runtime: Runtime) -> None:
    tmpfs = Mount(type=Mount.TYPE_TMPFS, target="/tmp")
    line = "touch /file 2>/dev/null && echo written; touch /tmp/file && echo tmpfs; cat /etc/hostname"
    assert await said(world, runtime, world.container(line, read_only=True, mounts=[tmpfs])) == ["tmpfs", "box"]


async def test_capabilities(world: World, runtime: Runtime) -> None:
    async def held(**spec: object) -> int:
        (line,) = await said(world, runtime, world.container("grep CapEff /proc/self/status", **spec))
        return int(line.split()[1], 16)

    chown, net_admin = 1 << 0, 1 << 12
    usual = await held()
    assert usual & chown
    assert not usual & net_admin
    assert await held(capability_add=["NET_ADMIN"], capability_drop=["ALL"]) == net_admin
    assert await held(capability_add=["ALL"]) & net_admin
    assert await held(user="app") == 0


async def test_a_capability_that_the_node_does_not_have(world: World, runtime: Runtime) -> None:
    missing = sorted(set(machine.capabilities.KNOWN) - machine.look("/x", "").capabilities)
    if not missing:
        pytest.skip("this machine has every capability")
    with pytest.raises(BadContainer, match=f"this node itself does not have the capability {missing[0]}"):
        await runtime.create(world.container("true", capability_add=[missing[0]]))


async def test_system_calls_that_are_refused(world: World, runtime: Runtime) -> None:
    # clone(CLONE_NEWUSER | SIGCHLD), unshare(CLONE_NEWNS), clone3, add_key, socket(AF_VSOCK), and a plain socket.
    script = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (56, 272, 435, 248, 41), "aarch64": (220, 97, 435, 217, 198)}[platform.machine()]
clone, unshare, clone3, add_key, socket = numbers
for call in [(clone, 0x10000011, 0, 0, 0, 0), (unshare, 0x20000), (clone3, 0, 0), (add_key, 0, 0, 0, 0, 0),
             (socket, 40, 1, 0), (socket, 2, 1, 0)]:
    result = libc.syscall(*call)
    if result == 0 and call[0] == clone:
        os._exit(0)
    print(ctypes.get_errno() if result < 0 else 0, end=" ", flush=True)
"""
    places = {"/usr": "/usr", "/usr/lib": "/lib", "/usr/lib64": "/lib64"}
    mounts = [Mount(source=source, target=target, read_only=True) for source, target in places.items()]
    container = world.container("/usr/bin/python3", "-c", script, mounts=mounts)
    assert await said(world, runtime, container) == ["1 1 38 1 1 0 "]
    admin = world.container("/usr/bin/python3", "-c", script, mounts=mounts, capability_add=["SYS_ADMIN"])
    # clone3 without arguments is EINVAL, not refused.
    assert await said(world, runtime, admin) == ["0 0 22 1 1 0 "]


async def test_ulimits(world: World, runtime: Runtime) -> None:
    ulimits = [Ulimit(name="nofile", soft=100, hard=200), Ulimit(name="core", soft=0)]
    line = "ulimit -Sn; ulimit -Hn; ulimit -c"
    assert await said(world, runtime, world.container(line, ulimits=ulimits)) == ["100", "200", "0"]
    soft, _ = await said(world, runtime, world.container("ulimit -Sn; ulimit -Hn"))
    assert soft == "1024"


async def test_limits_reach_the_control_group(world: World, runtime: Runtime) -> None:
    wanted = ResourceRequirements(
        limits=Resources(memory_bytes=32 << 20, nano_cpus=500_000_000),
        reservations=Resources(memory_bytes=8 << 20),
        pids_limit=7,
    )
    container = await running(runtime, world.container("sleep", "1000", resources=wanted))

    def value(controller: str, name: str) -> int:
        return int(Path(f"/sys/fs/cgroup/{controller}{world.cgroup_parent}/{container.id}/{name}").read_text())

    if machine.look("/x", "").unified_cgroups:
        assert value("", "memory.max") == 32 << 20
        assert value("", "pids.max") == 7
        return
    assert value("memory", "memory.limit_in_bytes") == 32 << 20
    assert value("memory", "memory.soft_limit_in_bytes") == 8 << 20
    assert value("memory", "memory.memsw.limit_in_bytes") == 64 << 20
    assert value("cpu", "cpu.cfs_quota_us") == 50_000
    assert value("pids", "pids.max") == 7


def weight_file(world: World) -> Path:
    """How much processor time all containers together get when there is not enough."""
    v2 = machine.look("/x", "").unified_cgroups
    return Path(f"/sys/fs/cgroup{'' if v2 else '/cpu'}{world.cgroup_parent}/{'cpu.weight' if v2 else 'cpu.shares'}")


def weight(world: World) -> str:
    return weight_file(world).read_text().strip()


async def test_containers_and_their_monitors_give_way_to_the_daemon(world: World, runtime: Runtime) -> None:
    await runtime.create(container := world.container("sleep", "1000"))
    first = (await runtime.launch(container.id)).pid
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, int(parent(first).name)) == min(19, ours + 5)
    assert os.getpriority(os.PRIO_PROCESS, first) == ours
    assert weight(world) == ("50" if machine.look("/x", "").unified_cgroups else "512")


async def test_a_weight_that_somebody_set_stays(world: World) -> None:
    if machine.look("/x", "").unified_cgroups:
        pytest.skip("as with cgroup v1")
    weight_file(world).parent.mkdir()
    weight_file(world).write_text("2000")
    runtime = world.runtime()
    await runtime.start()
    assert weight(world) == "2000"
    await runtime.stop()
    assert world.groups() == []


async def test_the_monitor_is_in_a_group_and_a_session_of_its_own(world: World, runtime: Runtime) -> None:
    await runtime.create(container := world.container("sleep", "1000"))
    monitor = parent((await runtime.launch(container.id)).pid)
    assert (monitor / "comm").read_text() == "conmon\n"
    assert str(os.getsid(int(monitor.name))) == monitor.name
    groups = [line.split(":")[2] for line in (monitor / "cgroup").read_text().splitlines()]
    assert f"{world.cgroup_parent}/monitors" in groups
    both = descriptors(Path("/proc/self")) & descriptors(monitor)
    assert {one for one in both if not one.startswith("anon_inode:")} <= {"/dev/null"}


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["true"], {"dir": "/bin/busybox/x"}, "invalid workdir '/bin/busybox/x': /bin/busybox is a file in the image"),
        (["true"], {"dir": "/bin/busybox"}, "invalid workdir '/bin/busybox': /bin/busybox is a file in the image"),
        (["true"], {"sysctls": {"net.ipv4.nothing": "1"}}, r"there is no sysctl net\.ipv4\.nothing on this node"),
        (["/etc/hosts"], {}, "the file of the program to run has no permission to be executed"),
    ],
)
async def test_what_somebody_can_put_right_is_named(
    world: World, runtime: Runtime, words: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadContainer, match=message):
        await runtime.create(world.container(*words, **options))


async def test_kernel_settings(world: World, runtime: Runtime) -> None:
    container = world.container("cat /proc/sys/net/ipv4/ip_default_ttl", sysctls={"net.ipv4.ip_default_ttl": "33"})
    assert await said(world, runtime, container) == ["33"]
    with pytest.raises(BadContainer, match=r"sysctl .kernel\.panic. is not namespaced"):
        await runtime.create(world.container("true", sysctls={"kernel.panic": "1"}))


async def test_a_small_init(world: World, runtime: Runtime) -> None:
    lines = await said(world, runtime, world.container("ps -o pid,args; exit 0", init=True))
    assert lines[1].split()[:2] == ["1", "/dev/init"]


async def test_a_terminal(world: World, runtime: Runtime) -> None:
    container = world.container("test -t 1 && test -t 0 && echo terminal; echo $TERM", tty=True, open_stdin=True)
    assert [line.rstrip("\r") for line in await said(world, runtime, container)] == ["terminal", "xterm"]


async def test_standard_input(world: World, runtime: Runtime) -> None:
    assert await said(world, runtime, world.container("/bin/cat")) == []
    waits = await running(runtime, world.container("echo ready; cat; echo over", open_stdin=True))
    await eventually(lambda: world.output(waits) == ["ready"])
    (state,) = [line for line in world.processes() if "conmon" in line and waits.id in line]
    assert state


async def test_commands_in_a_container(world: World, runtime: Runtime) -> None:
    container = await running(runtime, world.container("sleep", "1000", user="app", env=["A=1"], dir="/srv"))
    done = await runtime.execute(container.id, ["/bin/sh", "-c", "id -u; pwd; echo $A; echo err >&2; exit 3"], limit=60)
    assert (done.code, done.output.split()) == (3, ["1000", "/srv", "1", "err"])
    done = await runtime.execute(container.id, ["/bin/nothing"], limit=60)
    assert done.code != 0
    assert "/bin/nothing" in done.output
    much = await runtime.execute(container.id, ["/bin/dd", "if=/dev/zero", "bs=1k", "count=1000"], limit=60)
    assert (much.code, len(much.output)) == (0, 64 << 10)


async def test_a_command_that_takes_too_long_is_killed(world: World, runtime: Runtime) -> None:
    container = await running(runtime, world.container("sleep", "1000"))
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        await runtime.execute(container.id, ["/bin/sh", "-c", "sleep 500 & sleep 500"], limit=0.3)
    assert time.monotonic() - begun < 100
    await eventually(lambda: "500" not in str(world.inside(container)))
    assert world.inside(container) == ["sleep 1000"]
    assert list((world.run / "tasks" / container.id).glob("exec-*")) == []


async def test_no_command_in_what_has_ended(world: World, runtime: Runtime) -> None:
    container = await running(runtime, world.container("true"))
    await runtime.wait(container.id)
    with pytest.raises(ContainerError, match="does not run"):
        await runtime.execute(container.id, ["true"], limit=60)
