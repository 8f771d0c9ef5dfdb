"""Whole managers over mutual TLS on loopback with real files: elect, replicate, crash, restart, grow, shrink."""

import asyncio
import errno
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flota.manager.raft.interface import MembershipRefused, NoQuorum, NotLeader, ProposalDropped, RaftConfig, Stopping
from tests.addresses import free_address

sys.path.insert(0, str(Path(__file__).parent))
from machines import Machines, eventually


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    made = Machines(tmp_path, RaftConfig(snapshot_entries=50, keep_entries=10))
    yield made
    await made.down()


async def test_a_single_manager_commits_and_finds_everything_after_a_restart(machines: Machines) -> None:
    (only,) = await machines.up(1)
    for number in range(5):
        result = await only.node.propose(b"%d" % number)
        assert result == only.state.applied[-1]
    await machines.crash(only)
    await machines.start(only)
    await machines.leader()
    assert only.state.values == [b"0", b"1", b"2", b"3", b"4"]


async def test_proposers_of_a_driver_that_failed_are_told(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = await machines.up(1)

    def defect(_: int, __: bytes) -> object:
        raise RuntimeError("a defect")

    monkeypatch.setattr(only.state, "apply", defect)
    async with asyncio.timeout(60):
        with pytest.raises(ProposalDropped):
            await only.node.propose(b"applied by nobody")
        with pytest.raises(Stopping):
            await only.node.propose(b"taken by nobody")


async def test_three_managers_agree_and_a_follower_says_who_leads(machines: Machines) -> None:
    first, second, third = await machines.up(3)
    await asyncio.gather(*(first.node.propose(b"%d" % number) for number in range(200)))
    with pytest.raises(NotLeader) as caught:
        await second.node.propose(b"no")
    assert caught.value.leader_address == first.address
    await second.node.read_barrier()
    assert len(second.state.values) == 200
    await eventually(lambda: third.state.applied == first.state.applied)


async def test_nothing_acknowledged_is_lost_when_the_leader_crashes(machines: Machines) -> None:
    await machines.up(3)
    kept: list[bytes] = []
    for round_number in range(3):
        leader = await machines.leader()
        for number in range(40):
            value = b"%d.%d" % (round_number, number)
            await leader.node.propose(value)
            kept.append(value)
        await machines.crash(leader)
        successor = await machines.leader()
        assert [value for value in successor.state.values if value in kept] == kept
        await machines.start(leader)
    await eventually(lambda: all(machine.state.values == kept for machine in machines.all.values()))


async def test_a_manager_that_was_away_for_long_gets_a_snapshot(machines: Machines) -> None:
    first, _, third = await machines.up(3)
    await machines.crash(third)
    for number in range(200):
        await first.node.propose(b"%d" % number)
    await eventually(lambda: first.node.raft.log.first_index > 100)
    await machines.start(third)
    await eventually(lambda: third.state.applied == first.state.applied)
    assert third.node.raft.log.snapshot.index >= 50


@pytest.mark.parametrize("where", ["SnapshotFiles.draft", "SnapshotDraft.finish", "SnapshotDraft.keep"])
async def test_a_snapshot_that_the_disk_refuses_is_told_and_taken_when_it_can_be(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first, _, third = await machines.up(3)
    await machines.crash(third)
    for number in range(200):
        await first.node.propose(b"%d" % number)
    await eventually(lambda: first.node.raft.log.first_index > 100)

    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"flota.manager.raft.snapshots.{where}", is_full)
        await machines.start(third)
        await eventually(lambda: "No space left" in third.node.disk_trouble)
    await eventually(lambda: third.state.applied == first.state.applied)
    await eventually(lambda: third.node.disk_trouble == "")
    # Of the attempts nothing is left.
    snapshots = third.directory / "snapshots"
    await eventually(lambda: [path.suffix for path in snapshots.iterdir()] == [".snap"])


async def test_a_snapshot_that_cannot_be_read_is_replaced_by_another_one(machines: Machines) -> None:
    first, _, third = await machines.up(3)
    await machines.crash(third)
    for number in range(200):
        await first.node.propose(b"%d" % number)
    await eventually(lambda: first.node.raft.log.first_index > 100)
    damaged = max((first.directory / "snapshots").glob("*.snap"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    await machines.start(third)
    await eventually(lambda: third.state.applied == first.state.applied)
    await machines.crash(first)
    await machines.start(first)


async def test_without_a_quorum_a_write_fails_in_a_second_and_names_who_is_missing(
    machines: Machines,
) -> None:
    first, second, third = await machines.up(3)
    await machines.crash(second)
    await machines.crash(third)
    start = asyncio.get_running_loop().time()
    with pytest.raises(NoQuorum, match=r"Missing: m[23] .*m[23] .*force-new-cluster"):
        await first.node.propose(b"lost")
    assert asyncio.get_running_loop().time() - start < 1.5
    await eventually(lambda: not first.node.is_leader)
    with pytest.raises(NoQuorum):
        await first.node.read_barrier()
    await machines.crash(first)
    await machines.start(first, force_new_cluster=True)
    await machines.leader()
    await first.node.propose(b"alone")
    assert first.state.values[-1] == b"alone"
    assert [status.node_id for status in first.node.members] == ["m1"]


async def test_a_graceful_stop_hands_leadership_on_first(machines: Machines) -> None:
    first, second, third = await machines.up(3)
    await machines.stop(first)
    assert second.node.raft.role.value == "leader" or third.node.raft.role.value == "leader"


async def test_removal_keeps_a_quorum_and_the_removed_one_is_told(machines: Machines) -> None:
    first, second, third = await machines.up(3)
    await machines.crash(third)
    await eventually(lambda: not first.node.transport.reachable(third.node.raft_id))
    with pytest.raises(MembershipRefused, match="m3"):
        await first.node.remove_member("m2")
    await first.node.remove_member("m3")
    await machines.start(third)
    async with asyncio.timeout(60):
        await third.node.removed.wait()
    await second.node.leave()
    assert [status.node_id for status in first.node.members] == ["m1"]
    await first.node.propose(b"still here")
    with pytest.raises(MembershipRefused, match="last manager"):
        await first.node.remove_member("m1")


async def test_leadership_is_announced_only_when_everything_before_it_is_applied(machines: Machines) -> None:
    first, *_ = await machines.up(3)
    for number in range(20):
        await first.node.propose(b"%d" % number)
    seen: dict[str, int] = {}

    async def watch(name: str) -> None:
        async for leads in machines.all[name].node.leadership():
            if leads:
                seen[name] = len(machines.all[name].state.values)

    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(watch(name)) for name in ("m2", "m3")]
        await machines.crash(first)
        await eventually(lambda: bool(seen))
        for watcher in watchers:
            watcher.cancel()
    assert list(seen.values()) == [20]


async def test_a_joiner_answers_a_leader_that_its_first_snapshot_does_not_know(machines: Machines) -> None:
    first, second = await machines.up(2)
    await first.node.transfer_leadership("m2")
    await eventually(lambda: second.node.is_leader)
    await second.node.remove_member("m1")
    await machines.stop(first)
    third = machines.make("m3")
    await machines.start(third, join=second.address)
    # Also when it has to begin again before it has caught up.
    await machines.crash(third)
    await machines.start(third, join=second.address)
    async with asyncio.timeout(60):
        await third.node.wait_until_voter()
    await third.node.transport.leave(second.address, "m2")
    await eventually(lambda: third.node.is_leader)


async def test_a_member_that_was_away_answers_a_leader_that_came_meanwhile(machines: Machines) -> None:
    first, _, third = await machines.up(3)
    await machines.crash(third)
    fourth = machines.make("m4")
    await machines.start(fourth, join=first.address)
    async with asyncio.timeout(60):
        await fourth.node.wait_until_voter()
    await eventually(lambda: {"m4"} <= {one.node_id for one in first.node.members if one.voter})
    await first.node.transfer_leadership("m4")
    await eventually(lambda: fourth.node.is_leader)
    await fourth.node.propose(b"news")
    await machines.start(third)
    await eventually(lambda: third.state.values == [b"news"])
    assert {status.node_id for status in third.node.members} == {"m1", "m2", "m3", "m4"}


@pytest.mark.parametrize("leads", [False, True])
async def test_a_member_that_comes_back_under_another_address_is_found_there(machines: Machines, leads: bool) -> None:
    first, *others = await machines.up(3)
    moved = first if leads else others[1]
    await machines.crash(moved)
    moved.address = free_address()
    leader = await machines.leader()
    await leader.node.propose(b"meanwhile")
    await machines.start(moved)
    await eventually(lambda: moved.state.values == [b"meanwhile"])

    def known_everywhere() -> bool:
        views = [machine.node.members for machine in machines.all.values()]
        return all(moved.address in {member.address for member in members} for members in views)

    await eventually(known_everywhere)
    assert len(moved.node.members) == 3


async def test_a_sync_that_fails_is_no_promise_and_is_made_good_later(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    (only,) = await machines.up(1)
    await only.node.propose(b"kept")

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("flota.manager.raft.segment.os.fdatasync", fails)
        with pytest.raises(NoQuorum, match=r"cannot write to its disk: \[Errno 5\] Input/output error"):
            await only.node.propose(b"perhaps")
        assert not only.node.is_leader
        # From then on nobody waits to hear it.
        for call in (only.node.wait_for_leader(), only.node.read_barrier(), only.node.propose(b"never")):
            with pytest.raises(NoQuorum, match="cannot write to its disk"):
                await call
    await eventually(lambda: only.node.is_leader)
    await only.node.propose(b"after")
    await machines.crash(only)
    await machines.start(only)
    await machines.leader()
    assert [value for value in only.state.values if value in (b"kept", b"after")] == [b"kept", b"after"]
