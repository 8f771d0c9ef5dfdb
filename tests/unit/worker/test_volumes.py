"""Named volumes as people ask for them: made, listed, removed, pruned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from flota.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from flota.v1.local_pb2 import (
    CreateVolumeRequest,
    ListVolumesRequest,
    PruneVolumesRequest,
    RemoveVolumeRequest,
)
from flota.v1.process_pb2 import WorkerConfig
from flota.v1.types_pb2 import Driver, Mount, Volume
from flota.worker.agent.description import Description, describe
from flota.worker.runtime.container import ContainerError
from flota.worker.volume_calls import VolumeCalls
from flota.worker.volumes import Volumes

NO_CONTEXT = cast(Any, None)


@pytest.fixture
def calls(tmp_path: Path) -> VolumeCalls:
    made = VolumeCalls()
    made.volumes = Volumes(tmp_path / "volumes")
    return made


async def create(calls: VolumeCalls, name: str, labels: Mapping[str, str] = {}, **options: str) -> Volume:
    request = CreateVolumeRequest(name=name, driver=Driver(options=options), labels=labels)
    return (await calls.CreateVolume(request, NO_CONTEXT)).volume


async def listed(calls: VolumeCalls, sizes: bool = False) -> dict[str, Volume]:
    answer = await calls.ListVolumes(ListVolumesRequest(sizes=sizes), NO_CONTEXT)
    return {one.name: one for one in answer.volumes}


def put(directory: Path) -> None:
    (directory / "file").write_bytes(b"x" * 500)


async def use(calls: VolumeCalls, user: str, name: str, tmp_path: Path) -> Path:
    return await calls.volumes.use(user, Mount(type=Mount.TYPE_VOLUME, source=name), tmp_path / "nothing")


async def test_made_and_made_again(calls: VolumeCalls) -> None:
    made = await create(calls, "data", {"a": "b"}, type="tmpfs", device="tmpfs", o="size=1m")
    assert (made.name, made.driver, dict(made.options)["type"], dict(made.labels)) == (
        "data",
        "local",
        "tmpfs",
        {"a": "b"},
    )
    assert made.HasField("created_at")
    assert await create(calls, "data", type="tmpfs", device="tmpfs", o="size=1m") == made
    with pytest.raises(InvalidArgument, match="volume data exists on this node with other driver options"):
        await create(calls, "data")
    assert len((await create(calls, "")).name) == 64


@pytest.mark.parametrize(
    ("name", "driver", "why"),
    [
        ("x", Driver(), "invalid volume name 'x': letters, digits"),
        ("../up", Driver(), "invalid volume name"),
        ("data", Driver(name="nfs"), "invalid driver 'nfs' of volume data: this node has only local"),
        ("data", Driver(options={"size": "1"}), "unknown driver option 'size' of volume data: one of type, device, o"),
        ("data", Driver(options={"type": "nfs"}), "without a device"),
    ],
)
async def test_what_is_wrong_is_named(calls: VolumeCalls, name: str, driver: Driver, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        await calls.CreateVolume(CreateVolumeRequest(name=name, driver=driver), NO_CONTEXT)
    assert await listed(calls) == {}


async def test_who_uses_it_and_how_large_it_is(calls: VolumeCalls, tmp_path: Path) -> None:
    data = await use(calls, "task1", "data", tmp_path)
    (data / "file").write_bytes(b"x" * 1000)
    await create(calls, "other", type="none", device="/srv", o="bind")
    found = await listed(calls, sizes=True)
    assert (list(found["data"].task_ids), found["data"].size_bytes, found["data"].mountpoint) == (
        ["task1"],
        1000,
        str(data),
    )
    # What a driver mounts is not on this disk.
    assert (found["other"].size_bytes, list(found["other"].task_ids)) == (-1, [])


async def test_one_that_is_used_stays(calls: VolumeCalls, tmp_path: Path) -> None:
    await use(calls, "task1", "data", tmp_path)
    with pytest.raises(FailedPrecondition, match="volume data is used by task1"):
        await calls.RemoveVolume(RemoveVolumeRequest(name="data", force=True), NO_CONTEXT)
    await calls.volumes.release("task1")
    await calls.RemoveVolume(RemoveVolumeRequest(name="data"), NO_CONTEXT)
    with pytest.raises(NotFound, match="no such volume: data"):
        await calls.RemoveVolume(RemoveVolumeRequest(name="data"), NO_CONTEXT)
    await calls.RemoveVolume(RemoveVolumeRequest(name="data", force=True), NO_CONTEXT)


async def test_pruning_takes_what_nothing_uses(calls: VolumeCalls, tmp_path: Path) -> None:
    await use(calls, "task1", "used", tmp_path)
    for name, labels in (("old", {"scratch": "1"}), ("keep", {"keep": ""})):
        volume = await create(calls, name, labels)
        put(Path(volume.mountpoint))
    nameless = await create(calls, "")
    answer = await calls.PruneVolumes(PruneVolumesRequest(), NO_CONTEXT)
    assert list(answer.names) == [nameless.name]
    answer = await calls.PruneVolumes(PruneVolumesRequest(labels={"scratch": ""}), NO_CONTEXT)
    assert not answer.names
    answer = await calls.PruneVolumes(PruneVolumesRequest(labels={"scratch": ""}, all=True), NO_CONTEXT)
    assert (list(answer.names), answer.reclaimed_bytes) == (["old"], 500)
    answer = await calls.PruneVolumes(PruneVolumesRequest(all=True), NO_CONTEXT)
    assert list(answer.names) == ["keep"]
    assert set(await listed(calls)) == {"used"}


async def test_managers_are_told_of_what_comes_and_goes(calls: VolumeCalls) -> None:
    told = Description(
        lambda: describe(WorkerConfig(hostname="one"), None, [Volume(name=one.name) for one in calls.volumes.all()])
    )
    calls.volumes.changed = told.refresh_soon
    for count in (1, 2):
        before = told.current
        await create(calls, f"data{count}")
        await told.changed(before)
        assert len(told.current.volumes) == count
    before = told.current
    await calls.RemoveVolume(RemoveVolumeRequest(name="data1"), NO_CONTEXT)
    await told.changed(before)
    assert [one.name for one in told.current.volumes] == ["data2"]


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What mount(8) was told, which does nothing."""
    told = tmp_path / "told"
    program = tmp_path / "bin/mount"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return lambda: told.read_text().splitlines() if told.exists() else []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"type": "nfs", "device": ":/export", "o": "addr=10.0.0.9,rw,nfsvers=4"},
            ["-t", "nfs", "-o", "addr=10.0.0.9,rw,nfsvers=4", ":/export"],
        ),
        (
            {"type": "nfs4", "device": ":/export", "o": "ro,addr=localhost,soft"},
            ["-t", "nfs4", "-o", "ro,addr=127.0.0.1,soft", ":/export"],
        ),
        ({"type": "tmpfs", "device": "tmpfs", "o": "addr=kept"}, ["-t", "tmpfs", "-o", "addr=kept", "tmpfs"]),
        ({"type": "none", "device": "/srv", "o": "bind"}, ["-o", "bind", "/srv"]),
        ({"type": "bind", "device": "/srv", "o": "ro"}, ["-o", "bind,ro", "/srv"]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
async def test_what_is_mounted(
    calls: VolumeCalls, tmp_path: Path, mounted: Callable[[], list[str]], options: dict[str, str], expected: list[str]
) -> None:
    await create(calls, "data", **options)
    assert mounted() == [], "only when a task uses it"
    place = await use(calls, "task1", "data", tmp_path)
    assert [word.replace("addr=::1", "addr=127.0.0.1") for word in mounted()] == [*expected, str(place)]


async def test_a_server_that_nobody_knows_is_named(
    calls: VolumeCalls, tmp_path: Path, mounted: Callable[[], list[str]]
) -> None:
    await create(calls, "data", type="nfs", device=":/export", o="addr=nobody.invalid")
    with pytest.raises(ContainerError, match=r"the server 'nobody\.invalid' of volume data is not found"):
        await use(calls, "task1", "data", tmp_path)
    assert mounted() == []
