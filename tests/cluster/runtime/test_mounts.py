"""What a container has at which place: secrets, configs, tmpfs, binds, volumes. Needs root."""

import asyncio
import shutil
from pathlib import Path

import pytest

from flota.v1.types_pb2 import Driver, Mount
from flota.worker.images.config import ImageConfig
from flota.worker.runtime.container import BadContainer, ContainerError, Exit, PlacedFile
from flota.worker.runtime.mounts import mount, unmount
from flota.worker.runtime.runtime import Runtime
from flota.worker.volumes import VolumeInUse, VolumeNotFound
from tests.cluster.runtime.world import World, eventually, running, said


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
