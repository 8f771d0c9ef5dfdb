"""Disks that are full, refuse to write, or lost what they had: a manager claims nothing that it cannot keep, says so,
and goes on when it can. Real file systems: a small tmpfs, an ext4 in a file."""

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from flota.v1.local_pb2 import InfoResponse
from flota.v1.specs_pb2 import ClusterSpec
from tests.cluster.daemon.daemons import Daemon, eventually, is_refused, is_voter, refusal
from tests.cluster.daemon.test_backup import create_service, services

FULL = "No space left on device"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mounts that end with the test."""
    mounted: list[Path] = []

    def make(target: Path, *arguments: str) -> None:
        target.mkdir(exist_ok=True)
        subprocess.run(["mount", *arguments, str(target)], check=True, capture_output=True)
        mounted.append(target)

    yield make
    for target in mounted:
        subprocess.run(["umount", "--lazy", str(target)], check=False, capture_output=True)


@pytest.fixture
async def three(tmp_path: Path, mount: Callable[..., None], make_daemons: list[Daemon]) -> AsyncIterator[list[Daemon]]:
    """Managers; the first one's state is on a disk of 2 MiB."""
    make_daemons.extend(Daemon(tmp_path, name) for name in ("a", "b", "c"))
    mount(make_daemons[0].state, "-t", "tmpfs", "-o", "size=2m", "none")
    await asyncio.gather(*(daemon.start() for daemon in make_daemons))
    yield make_daemons
    # Before their disks go.
    await asyncio.gather(*(daemon.end() for daemon in make_daemons))


async def run(*argv: str, check: bool = True) -> None:
    await asyncio.to_thread(subprocess.run, argv, check=check, capture_output=True)


def fill(daemon: Daemon) -> Path:
    """Leave not one byte."""
    ballast = daemon.state / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return ballast


async def says(daemon: Daemon, words: str) -> bool:
    info = await daemon.info()
    return info.state == InfoResponse.STATE_ERROR and words in info.error


async def is_well(daemon: Daemon) -> bool:
    info = await daemon.info()
    return (info.state, info.error) == (InfoResponse.STATE_ACTIVE, "")


async def write_until_full(daemon: Daemon, written: set[str]) -> str:
    """Create services until one is refused; gives the refusal."""
    for number in range(10_000):
        name = f"s{len(written)}-{number}"
        try:
            await create_service(daemon, name)
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        written.add(name)
    raise AssertionError("the disk never filled")


async def test_a_leader_whose_disk_is_full_lets_another_lead_until_it_has_space(three: list[Daemon]) -> None:
    first, second, third = three
    begun = await first.init()
    await asyncio.gather(*(daemon.join(begun.tokens.manager, begun.address) for daemon in (second, third)))
    await create_service(first, "before")
    ballast = fill(first)
    written, numbers = {"before"}, itertools.count()

    # Calls through any of the others go on: the next leader keeps what it says it keeps.
    async def led_by_another() -> bool:
        # Another name each time: a call that failed may have been carried out.
        name = f"s{next(numbers)}"
        await create_service(second, name)
        written.add(name)
        nodes = await second.nodes()
        return not nodes[begun.node_id].manager_status.leader and any(n.manager_status.leader for n in nodes.values())

    await eventually(led_by_another, 60)
    await eventually(lambda: says(first, FULL))
    assert "this manager takes no part" in (await first.info()).error

    ballast.unlink()
    await eventually(lambda: is_well(first))
    assert written <= await eventually(lambda: services(first))
    await create_service(first, "after")
    nodes = await first.nodes()
    assert is_voter(nodes[begun.node_id])


async def test_the_only_manager_on_a_full_disk_refuses_writes_and_still_tells_what_it_knows(
    tmp_path: Path, mount: Callable[..., None], make_daemons: list[Daemon]
) -> None:
    only = Daemon(tmp_path, "only")
    make_daemons.append(only)
    mount(only.state, "-t", "tmpfs", "-o", "size=2m", "none")
    await only.start()
    await only.init()
    try:
        ballast = fill(only)
        written: set[str] = set()
        refused = await write_until_full(only, written)
        assert refused == f"this manager cannot write to its disk: [Errno 28] {FULL}", refused
        await eventually(lambda: says(only, FULL))
        # The next ones are told at once, and what was acknowledged can be read, marked as old.
        assert FULL in (await refusal(create_service(only, "more")))[1]
        assert FULL in await only.staleness()
        assert await services(only) >= written
        assert await only.staleness()

        ballast.unlink()
        await eventually(lambda: is_well(only))
        await create_service(only, "after")
        # A restart finds all of it.
        await only.stop()
        await only.start()
        assert await eventually(lambda: services(only)) >= written | {"after"}
    finally:
        await only.end()


@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="this machine has no loop devices")
async def test_a_disk_that_turns_read_only_is_told_and_what_was_kept_is_found_again(
    tmp_path: Path, mount: Callable[..., None], make_daemons: list[Daemon]
) -> None:
    only = Daemon(tmp_path, "only")
    make_daemons.append(only)
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    await run("mkfs.ext4", "-q", str(image))
    mount(only.state, "-o", "loop", str(image))
    (only.state / "lost+found").rmdir()
    await only.start()
    try:
        await only.init()
        await create_service(only, "before")
        # What ext4 does by itself when its disk fails (errors=remount-ro).
        await run("mount", "-o", "remount,abort", str(only.state), check=False)
        assert await eventually(lambda: is_refused(create_service(only, "lost"), "cannot write to its disk"))
        await eventually(lambda: says(only, "takes no part: [Errno"))
        assert "before" in await services(only)
        await only.stop()
        await run("umount", str(only.state))
        # A copy, because a namespace that somebody made meanwhile may hold the broken one.
        repaired = tmp_path / "repaired"
        await run("cp", "--sparse=always", str(image), str(repaired))
        await run("fsck.ext4", "-y", str(repaired), check=False)
        await run("mount", "-o", "loop", str(repaired), str(only.state))
        await only.start()
        assert "before" in await eventually(lambda: services(only))
        await create_service(only, "after")
    finally:
        await only.end()


async def test_a_log_that_is_damaged_in_its_middle_is_refused_with_its_place_and_a_cure(one: Daemon) -> None:
    await one.init()
    for number in range(5):
        await create_service(one, f"s{number}")
    await one.stop()
    segment = sorted((one.state / "raft/log").glob("*.log"))[-1]
    data = bytearray(segment.read_bytes())
    at = len(data) // 2
    data[at : at + 64] = bytes(64)
    segment.write_bytes(data)
    await one.start()
    await eventually(lambda: says(one, f"{segment}, offset "))
    error = (await one.info()).error
    for words in ("the log is damaged", "join again, or restore a backup"):
        assert words in error
    # Nothing was changed, so that somebody can look at it.
    assert segment.read_bytes() == data
    assert await is_refused(one.nodes(), str(segment))


async def test_snapshots_are_taken_as_often_and_kept_as_many_as_asked(one: Daemon) -> None:
    spec = ClusterSpec()
    spec.raft.snapshot_interval, spec.raft.keep_old_snapshots = 10, 2
    await one.init(spec=spec)

    def kept() -> list[str]:
        return sorted(path.name for path in (one.state / "raft/snapshots").glob("*.snap"))

    async def three_newer(first: str) -> bool:
        await create_service(one, f"s{next(numbers)}")
        return len(kept()) == 3 and kept()[0] > first

    numbers = itertools.count()
    (oldest,) = kept()
    await eventually(lambda: three_newer(oldest))
    await one.stop()
    await one.start()
    assert len(await eventually(lambda: services(one))) == next(numbers)
