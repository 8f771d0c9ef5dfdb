"""What a container sees and may do: user, environment, limits, files, mounts, volumes. Needs root."""

import asyncio
import dataclasses
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flota.v1.types_pb2 import Driver, Mount, ResourceRequirements, Resources, Ulimit
from flota.worker.images.config import ImageConfig
from flota.worker.runtime import machine
from flota.worker.runtime.container import BadContainer, Container, ContainerError, Exit, PlacedFile
from flota.worker.runtime.mounts import mount, unmount
from flota.worker.runtime.runtime import Runtime
from flota.worker.volumes import VolumeInUse, VolumeNotFound
from tests.cluster.runtime.world import World, eventually

MEMORY = "/sys/fs/cgroup/memory"


async def said(world: World, runtime: Runtime, container: Container) -> list[str]:
    """Run it to its end; what it said."""
    await runtime.create(container)
    await runtime.launch(container.id)
    assert await runtime.wait(container.id) == Exit(0), world.output(container)
    return world.output(container)


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


async def running(runtime: Runtime, container: Container) -> Container:
    await runtime.create(container)
    await runtime.launch(container.id)
    return container


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


async def test_secrets_and_configs(world: World, runtime: Runtime) -> None:
    files = (
        PlacedFile("/run/secrets/key", b"secret\n", 1000, 1000, 0o400),
        PlacedFile("/app.conf", b"config\n", 0, 0, 0o444),
    )
    line = "cat /run/secrets/key /app.conf; stat -c '%u %g %a' /run/secrets/key /app.conf; "
    line += "grep -q ' /run/secrets/key tmpfs ro' /proc/mounts && echo memory"
    lines = await said(world, runtime, world.container(line, user="app", files=files))
    assert lines == ["secret", "config", "1000 1000 400", "0 0 444", "memory"]
    container = world.container("echo x > /app.conf", files=files)
    await running(runtime, container)
    assert await runtime.wait(container.id) == Exit(1)


async def test_tmpfs(world: World, runtime: Runtime) -> None:
    mounts = [
        Mount(type=Mount.TYPE_TMPFS, target="/cache", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o750),
        Mount(type=Mount.TYPE_TMPFS, target="/run/../plain/"),
    ]
    line = "stat -c %a /cache /plain; dd if=/dev/zero of=/cache/big bs=1M count=2 2>/dev/null || echo full"
    assert await said(world, runtime, world.container(line, mounts=mounts)) == ["750", "1777", "full"]


async def test_binds(world: World, runtime: Runtime, tmp_path: Path) -> None:
    shared, fixed = tmp_path / "shared", tmp_path / "fixed"
    shared.mkdir()
    fixed.write_text("fixed\n")
    mounts = [
        Mount(type=Mount.TYPE_BIND, source=str(shared), target="/data"),
        Mount(type=Mount.TYPE_BIND, source=str(fixed), target="/data/inner/fixed", read_only=True),
        Mount(type=Mount.TYPE_BIND, source=str(tmp_path / "made/now"), target="/made", bind_create_source=True),
    ]
    line = "echo hi > /data/file; echo hi > /made/file; cat /data/inner/fixed; "
    line += "echo x 2>/dev/null > /data/inner/fixed || echo no"
    assert await said(world, runtime, world.container(line, mounts=mounts)) == ["fixed", "no"]
    assert (shared / "file").read_text() == "hi\n"
    assert (tmp_path / "made/now/file").read_text() == "hi\n"


async def test_what_is_mounted_read_only_is(world: World, runtime: Runtime, tmp_path: Path) -> None:
    mounts = [
        Mount(type=Mount.TYPE_TMPFS, target="/memory", read_only=True),
        Mount(type=Mount.TYPE_VOLUME, source="data", target="/srv/content", read_only=True),
        Mount(type=Mount.TYPE_VOLUME, target="/nameless", read_only=True),
        Mount(type=Mount.TYPE_BIND, source=str(tmp_path), target="/bind", read_only=True),
    ]
    places = ["/memory", "/srv/content", "/nameless", "/bind"]
    line = f"cat /srv/content/file; for x in {' '.join(places)}; do touch $x/no 2>/dev/null || echo $x; done"
    expected = ["from the image", *places]
    assert await said(world, runtime, world.container(line, mounts=mounts)) == expected


async def test_what_is_mounted_below_a_bind_comes_along_unless_it_shall_not(
    world: World, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    mount("tmpfs", tmp_path / "below", "tmpfs")
    try:
        (tmp_path / "below/file").touch()
        both = [
            Mount(type=Mount.TYPE_BIND, source=str(tmp_path), target="/all"),
            Mount(type=Mount.TYPE_BIND, source=str(tmp_path), target="/one", bind_nonrecursive=True),
        ]
        line = "ls /all/below; echo -; ls /one/below; echo -"
        assert await said(world, runtime, world.container(line, mounts=both)) == ["file", "-", "-"]
        both = [
            Mount(type=Mount.TYPE_BIND, source=str(tmp_path), target="/fixed", read_only=True),
            Mount(type=Mount.TYPE_BIND, source=str(tmp_path), target="/top", read_only=True, bind_writable_below=True),
        ]
        line = "for x in /fixed /fixed/below /top /top/below; do touch $x/new 2>/dev/null && echo $x; done; true"
        assert await said(world, runtime, world.container(line, mounts=both)) == ["/top/below"]
    finally:
        unmount(tmp_path / "below")


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (Mount(source="/no/such/path", target="/x"), "'/no/such/path' .bind.: there is no such path on this node"),
        (Mount(source="relative", target="/x"), "'relative' .bind.: must be an absolute path"),
        (Mount(source="/etc", target="x"), "invalid mount target 'x': must be an absolute path"),
        (Mount(source="/etc", target="/x/.."), "the root of the container cannot be mounted over"),
        (Mount(source="/proc/nothing", target="/x", bind_create_source=True), "'/proc/nothing' .bind.: "),
        (Mount(source="bad name", target="/x", type=Mount.TYPE_VOLUME), "invalid volume name 'bad name'"),
    ],
)
async def test_mounts_that_cannot_be(world: World, runtime: Runtime, mount: Mount, message: str) -> None:
    with pytest.raises(BadContainer, match=message):
        await runtime.create(world.container("true", mounts=[mount]))


async def test_one_place_is_mounted_once(world: World, runtime: Runtime) -> None:
    mounts = [Mount(type=Mount.TYPE_TMPFS, target=target) for target in ("/x", "/x/")]
    with pytest.raises(BadContainer, match="duplicate mount target '/x'"):
        await runtime.create(world.container("true", mounts=mounts))


async def test_a_mount_goes_before_a_file_of_ours(world: World, runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("mine\n")
    mount = Mount(source=str(tmp_path / "hosts"), target="/etc/hosts")
    assert await said(world, runtime, world.container("/bin/cat", "/etc/hosts", mounts=[mount])) == ["mine"]


async def test_propagation_out_of_a_container(world: World, runtime: Runtime, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    mount = Mount(source=str(place), target="/place", bind_propagation=Mount.PROPAGATION_RSHARED)
    with pytest.raises(BadContainer, match="not on a shared mount"):
        await runtime.create(world.container("true", mounts=[mount]))
    with world.shared(place):
        container = world.container(
            "mkdir /place/in && mount -t tmpfs none /place/in && touch /place/in/file && sleep 1000",
            mounts=[mount],
            capability_add=["SYS_ADMIN"],
        )
        await running(runtime, container)
        await eventually((place / "in/file").exists)


async def test_a_named_volume_begins_with_the_images_content_and_stays(world: World, runtime: Runtime) -> None:
    mount = Mount(type=Mount.TYPE_VOLUME, source="data", target="/srv/content", volume_labels={"a": "b"})
    line = "cat file; echo more > more; stat -c '%u %a' ."
    first = world.container(line, mounts=[mount], dir="/srv/content")
    assert await said(world, runtime, first) == ["from the image", "1000 750"]
    (volume,) = runtime.volumes.all()
    assert (volume.name, volume.labels) == ("data", {"a": "b"})
    with pytest.raises(VolumeInUse, match=f"volume data is used by {first.id}"):
        await runtime.volumes.remove("data")
    await runtime.remove(first.id)
    (world.layers / "base/srv/content/file").write_text("another image\n")
    second = world.container("cat file more", mounts=[mount], dir="/srv/content")
    assert await said(world, runtime, second) == ["from the image", "more"]
    await runtime.remove(second.id)
    await runtime.volumes.remove("data")
    assert runtime.volumes.all() == []
    with pytest.raises(VolumeNotFound, match="no such volume: data"):
        await runtime.volumes.remove("data")


async def test_a_volume_without_the_images_content(world: World, runtime: Runtime) -> None:
    mount = Mount(type=Mount.TYPE_VOLUME, source="empty", target="/srv/content", volume_nocopy=True)
    assert await said(world, runtime, world.container("/bin/ls", "/srv/content", mounts=[mount])) == []


async def test_two_that_begin_a_volume_at_once_share_it(world: World, runtime: Runtime) -> None:
    mount = Mount(type=Mount.TYPE_VOLUME, source="both", target="/srv/content")
    pair = [world.container("cat file; echo x >> all", mounts=[mount], dir="/srv/content") for _ in range(4)]
    answers = await asyncio.gather(*(said(world, runtime, one) for one in pair))
    assert answers == [["from the image"]] * 4
    assert (world.state / "volumes/both/_data/all").read_text() == "x\n" * 4


async def test_an_interrupted_copy_is_begun_anew(world: World, runtime: Runtime) -> None:
    (world.state / "volumes/half/_data/part").mkdir(parents=True)
    (world.state / "volumes/half/filling").touch()
    mount = Mount(type=Mount.TYPE_VOLUME, source="half", target="/srv/content")
    assert await said(world, runtime, world.container("/bin/ls", "/srv/content", mounts=[mount])) == ["file"]


async def test_a_part_of_a_volume(world: World, runtime: Runtime) -> None:
    data = world.state / "volumes/parts/_data"
    (data / "deep/er").mkdir(parents=True)
    (data / "deep/er/file").write_text("deep\n")
    (data / "outside").symlink_to("/etc")
    mount = Mount(type=Mount.TYPE_VOLUME, source="parts", target="/part", volume_subpath="deep/er")
    assert await said(world, runtime, world.container("/bin/cat", "/part/file", mounts=[mount])) == ["deep"]
    single = Mount(type=Mount.TYPE_VOLUME, source="parts", target="/one", volume_subpath="deep/er/file")
    assert await said(world, runtime, world.container("/bin/cat", "/one", mounts=[single])) == ["deep"]
    for path in ("nothing", "outside", "../../../etc"):
        mount.volume_subpath = path
        with pytest.raises(BadContainer, match=f"invalid volume-subpath '{path}' of volume parts: No such file"):
            await runtime.create(world.container("true", mounts=[mount]))


async def test_anonymous_volumes_go_with_their_container(world: World, runtime: Runtime) -> None:
    image = ImageConfig(volumes=("/srv/content", "/other"))
    line = "cat /srv/content/file; touch /other/file && echo writable"
    container = world.container(line, image=image, read_only=True)
    assert await said(world, runtime, container) == ["from the image", "writable"]
    assert runtime.volumes.all() == []


async def test_a_volume_that_mounts_something(world: World, runtime: Runtime, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.mkdir()
    (device / "file").write_text("on the device\n")
    bind = Driver(name="local", options={"type": "none", "o": "bind", "device": str(device)})
    memory = Driver(options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=700"})
    mounts = [
        Mount(type=Mount.TYPE_VOLUME, source="bound", target="/bound", volume_driver=bind),
        Mount(type=Mount.TYPE_VOLUME, source="memory", target="/memory", volume_driver=memory),
    ]
    container = world.container("cat /bound/file; stat -c %a /memory; touch /memory/file", mounts=mounts)
    assert await said(world, runtime, container) == ["on the device", "700"]
    second = world.container("/bin/ls", "/memory", mounts=mounts)
    assert await said(world, runtime, second) == ["file"]
    mounts[0].volume_driver.options["o"] = "rbind"
    with pytest.raises(BadContainer, match="volume bound exists on this node with other driver options"):
        await runtime.create(world.container("true", mounts=mounts))
    await runtime.remove(container.id)
    assert (world.state / "volumes/bound/_data/file").exists()
    await runtime.remove(second.id)
    assert list((world.state / "volumes/bound/_data").iterdir()) == []
    assert (device / "file").exists()


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(name="rexray"), "invalid driver 'rexray' of volume v1: this node has only local"),
        (Driver(options={"size": "1"}), "unknown driver option 'size' of volume v1"),
        (Driver(options={"type": "tmpfs"}), "driver options of volume v1 without a device"),
        (Driver(options={"type": "ext4", "device": "/no/device"}), "/no/device could not be mounted for volume v1: "),
    ],
)
async def test_volume_drivers_that_cannot_be(world: World, runtime: Runtime, driver: Driver, message: str) -> None:
    mount = Mount(type=Mount.TYPE_VOLUME, source="v1", target="/x", volume_driver=driver)
    with pytest.raises(ContainerError, match=message):
        await runtime.create(world.container("true", mounts=[mount]))


async def test_a_file_system_that_the_kernel_does_not_know_is_named(world: World, runtime: Runtime) -> None:
    if "nfs" in Path("/proc/filesystems").read_text() or shutil.which("mount.nfs"):  # noqa: ASYNC240
        pytest.skip("this machine can mount from NFS")
    driver = Driver(options={"type": "nfs", "device": ":/x", "o": "addr=127.0.0.1"})
    mount = Mount(type=Mount.TYPE_VOLUME, source="shared", target="/x", volume_driver=driver)
    words = ":/x could not be mounted for volume shared: the kernel of this node knows no file system 'nfs'"
    with pytest.raises(ContainerError, match=words):
        await runtime.create(world.container("true", mounts=[mount]))
