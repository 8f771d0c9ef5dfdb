"""The real driver lives through storms (driven.py); failing seeds tell their story."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from flota.manager.raft.driver import Driver
from flota.manager.raft.interface import NoQuorum
from flota.manager.raft.node import RaftNode
from flota.manager.raft.segment import SegmentWriter, encode_record
from flota.manager.raft.snapshots import SnapshotDraft
from flota.manager.raft.transport import Receiver
from flota.v1.raft_pb2 import RaftMessage
from tests.simulation.raft.driven import DrivenWorld, live, run_driven
from tests.simulation.raft.members import PULSE, Wire
from tests.simulation.raft.threads import Loop

SEEDS = 24
DATA = b'{"kind": "write", "key": "x", "value": 1, "expected": 0}'
SOAK = int(os.environ.get("FLOTA_SEEDS", "2000")) // 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, 6))
def test_no_seed_breaks_the_driver(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = 0
    for seed in range(first, first + 6):
        world = run_driven(seed, tmp_path / str(seed), monkeypatch)
        answered += sum(one.result is not None for one in world.clients.history)
    # Were nobody answered, nothing would have been checked.
    assert answered > 6 * 20


def test_the_same_seed_gives_the_same_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stories = [run_driven(3, tmp_path / str(turn), monkeypatch).log for turn in range(2)]
    assert stories[0] == stories[1]


def test_the_loss_of_a_quorum_is_told_within_a_second_and_an_election_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DrivenWorld(0, tmp_path)

    async def refused_by(node: RaftNode) -> None:
        async for hope in node.watch_hope():
            if not hope:
                await node.wait_for_leader()

    def has_everybody(leader: RaftNode | None) -> bool:
        return leader is not None and all(follower.match for follower in leader.raft.progress.values())

    async def story() -> None:
        await world.found()
        old = world.leader()
        assert old is not None
        await world.crash(old.member.node_id)
        # Nobody leads, but two are left: whoever asks waits for the election.
        await asyncio.gather(*(node.read_barrier() for node in world.nodes.values()))
        assert world.leader() is not None
        await world.start(old.member.node_id)
        async with asyncio.timeout(5):
            while not has_everybody(leader := world.leader()):  # noqa: ASYNC110 - several nodes
                await asyncio.sleep(0.05)
        assert leader is not None
        # Who has just begun gives those more time whom it has never heard of.
        await asyncio.sleep(2 * PULSE)
        began = asyncio.get_running_loop().time()
        world.cut_everybody_off()
        others = [node for node in world.nodes.values() if node is not leader]
        refusals = await asyncio.gather(
            leader.propose(DATA), leader.read_barrier(), *map(refused_by, others), return_exceptions=True
        )
        assert asyncio.get_running_loop().time() - began < 1.0
        for refusal in refusals:
            assert isinstance(refusal, NoQuorum)
            assert "1 of 3 managers can be reached" in str(refusal)
        for node in list(world.nodes.values()):
            await node.crash()

    live(world, story, monkeypatch)


def test_what_is_decided_is_told_with_the_next_entries_and_soon_when_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DrivenWorld(0, tmp_path)
    appends: list[RaftMessage] = []

    def carry(wire: Wire, sender: Receiver, name: str, data: bytes) -> None:
        message = RaftMessage.FromString(data)
        if message.type == RaftMessage.TYPE_APPEND:
            appends.append(message)
        DrivenWorld.carry(world, wire, sender, name, data)

    async def story() -> None:
        await world.found()
        leader = world.leader()
        assert leader is not None
        await asyncio.sleep(1)
        monkeypatch.setattr(world, "carry", carry)
        for _ in range(20):
            await leader.propose(DATA)
        # One each, to either of two followers.
        assert sum(len(message.entries) for message in appends) == len(appends) == 40
        await asyncio.sleep(0.02)
        assert {node.applied_index for node in world.nodes.values()} == {leader.applied_index}
        assert [len(message.entries) for message in appends[40:]] == [0, 0]
        for node in list(world.nodes.values()):
            await node.crash()

    live(world, story, monkeypatch)


def test_what_is_decided_is_applied_while_the_disk_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = DrivenWorld(0, tmp_path)

    async def story() -> None:
        await world.found()
        leader, loop = world.leader(), asyncio.get_running_loop()
        assert leader is not None
        assert isinstance(loop, Loop)
        await asyncio.sleep(1)
        proposals: list[asyncio.Task[object]] = []
        receive = leader.receive

        def propose_again(messages: Iterable[RaftMessage]) -> None:
            # The answer that decides the first, and a second one: they share a Ready, and its write takes long.
            leader.receive = receive  # type: ignore[method-assign]
            monkeypatch.setattr(loop, "takes", lambda: 0.5)
            proposals.append(asyncio.create_task(leader.propose(DATA)))
            loop.call_soon(receive, list(messages))

        began = loop.time()
        first = asyncio.create_task(leader.propose(DATA))
        await asyncio.sleep(0)
        leader.receive = propose_again  # type: ignore[method-assign]
        await first
        assert loop.time() - began < 0.1
        await proposals[0]
        assert loop.time() - began > 0.5
        for node in list(world.nodes.values()):
            await node.crash()

    live(world, story, monkeypatch)


def test_a_log_that_is_not_synced_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(writer: SegmentWriter, payload: bytes) -> None:
        record = encode_record(writer.number, payload)
        os.write(writer._descriptor, record)
        writer.number += 1
        writer.size += len(record)

    def storms() -> None:
        for seed in range(20):
            run_driven(seed, tmp_path / str(seed), monkeypatch)

    monkeypatch.setattr(SegmentWriter, "_write", write)
    with pytest.raises(AssertionError, match=r"forgot (a term|entries)|is missing|are missing"):
        storms()


def test_a_snapshot_that_is_not_synced_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(draft: SnapshotDraft) -> None:
        draft._write_next(bytes(draft._gathered))
        draft._write_record(last=True)
        draft._close()

    def storms() -> None:
        for seed in range(10):
            run_driven(seed, tmp_path / str(seed), monkeypatch)

    monkeypatch.setattr(SnapshotDraft, "finish", finish)
    with pytest.raises(AssertionError, match=r"the snapshot is (empty|damaged|altered)"):
        storms()


def test_a_driver_that_serves_reads_too_early_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(driver: Driver) -> None:
        waiting, driver._ready_reads = driver._ready_reads, []
        for future in (future for _, futures in waiting for future in futures if not future.done()):
            future.set_result(None)

    def storms() -> None:
        for seed in range(25, 70):
            run_driven(seed, tmp_path / str(seed), monkeypatch)

    monkeypatch.setattr(Driver, "_answer_reads", serve)
    with pytest.raises(AssertionError, match="no order explains what clients saw"):
        storms()


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + SOAK, 50))
def test_no_seed_of_a_long_soak_breaks_the_driver(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, min(first + 50, SEEDS + SOAK)):
        run_driven(seed, tmp_path / str(seed), monkeypatch)
