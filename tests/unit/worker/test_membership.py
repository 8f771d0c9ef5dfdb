"""A worker's session with a real dispatcher over mutual TLS: what it is told, and what it does when managers fail."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
import pytest

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.rpc.callers import Trust
from flota.rpc.identity import Identity
from flota.rpc.servers import node_server
from flota.v1.dispatcher_pb2 import (
    AssignmentChange,
    AssignmentsMessage,
    AssignmentsRequest,
    HeartbeatRequest,
    HeartbeatResponse,
    SessionMessage,
    SessionRequest,
)
from flota.v1.dispatcher_pb2_grpc import DispatcherServicer, add_DispatcherServicer_to_server
from flota.v1.objects_pb2 import NodeDescription
from flota.v1.types_pb2 import NodeAvailability, NodeRole, Peer, TaskState, TaskStatus
from flota.worker.agent.description import Description
from flota.worker.agent.link import Companion
from flota.worker.agent.managers import Managers, Patience
from flota.worker.agent.membership import Membership, Taker, Words
from flota.worker.agent.reporter import Reporter
from tests.addresses import free_address
from tests.unit.dispatcher.swarm import DISCONNECTED, DOWN, READY, RUNNING, Swarm, key_of, task

PATIENCE = 60.0


class Taken:
    """Takes assignments over, and notes them."""

    def __init__(self) -> None:
        self.messages: list[tuple[bool, list[tuple[str, ...]]]] = []
        self.keys: set[tuple[str, ...]] = set()
        self._news = asyncio.Event()

    def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
        changes = list(changes)
        self.messages.append((complete, [key_of(change) for change in changes]))
        if complete:
            self.keys.clear()
        for change in changes:
            if change.action == AssignmentChange.ACTION_REMOVE:
                self.keys.discard(key_of(change))
            else:
                self.keys.add(key_of(change))
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    @property
    def completes(self) -> int:
        """How many complete sets came."""
        return sum(complete for complete, _ in self.messages)


class Member:
    """One node's membership, running."""

    def __init__(
        self,
        identity: Identity,
        *addresses: str,
        before: Sequence[Taker] = (),
        companions: Sequence[Companion] = (),
        last_resort: Sequence[str] = (),
    ) -> None:
        self.taken = Taken()
        self.words = Words()
        self.reporter = Reporter()
        self.membership = Membership(
            identity, Managers(addresses, Random(2), last_resort), Description(lambda: NodeDescription(hostname="one")),
            [*before, self.taken], self.reporter, self.words, companions,
        )  # fmt: skip
        self.running = asyncio.create_task(self.membership.run())

    async def close(self) -> None:
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    async with Swarm(tmp_path).serving() as swarm:
        yield swarm


@asynccontextmanager
async def member(swarm: Swarm, *addresses: str) -> AsyncIterator[Member]:
    await swarm.node("w1")
    one = Member(Identity(swarm._directory / "w1"), *(addresses or (swarm.address,)))
    try:
        yield one
    finally:
        await one.close()


async def test_it_is_told_what_to_run_and_of_changes(swarm: Swarm) -> None:
    async with member(swarm) as one:
        await swarm.create(task("t1", "w1"))
        await one.taken.until(lambda: ("task", "t1") in one.taken.keys)
        assert one.taken.messages[0][0]
        await swarm.until(lambda: swarm.state("w1") == READY)
        stored = swarm.store.nodes.get("w1")
        assert stored is not None
        assert stored.description.hostname == "one"
        await swarm.remove("t1")
        await one.taken.until(lambda: not one.taken.keys)
        assert one.taken.completes == 1
        assert one.membership.connected


async def test_what_managers_say_reaches_whoever_listens(swarm: Swarm) -> None:
    async with member(swarm) as one:
        words = one.words.all()
        async with asyncio.timeout(PATIENCE):
            first = await anext(words)
            assert (first.node.id, first.root_ca) == ("w1", swarm.root_pem)
            await swarm.change(
                "w1", lambda node: setattr(node.spec, "availability", NodeAvailability.NODE_AVAILABILITY_DRAIN), "nodes"
            )
            second = await anext(words)
            assert second.node.spec.availability == NodeAvailability.NODE_AVAILABILITY_DRAIN
        # Who comes later hears the last word.
        assert await anext(one.words.all()) == second


async def test_a_dead_manager_is_passed_over(swarm: Swarm) -> None:
    async with member(swarm, "127.0.0.1:1", swarm.address, "127.0.0.1:2") as one:
        await one.taken.until(lambda: one.taken.completes > 0)


async def test_who_knows_of_a_dead_manager_only_goes_back_to_where_it_joined(swarm: Swarm) -> None:
    await swarm.node("w1")
    by_name = swarm.address.replace("127.0.0.1", "localhost")
    one = Member(Identity(swarm._directory / "w1"), "127.0.0.1:1", last_resort=[by_name])
    try:
        await one.taken.until(lambda: one.taken.completes > 0)
    finally:
        await one.close()


async def test_a_new_leader_gets_a_session_and_what_was_not_told(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    async with member(swarm) as one:
        await one.taken.until(lambda: one.taken.completes == 1)
        await swarm.lose()
        one.reporter.put("t1", TaskStatus(state=RUNNING))
        await swarm.lead()
        await one.taken.until(lambda: one.taken.completes == 2)
        await swarm.until(lambda: _state(swarm, "t1") == RUNNING)
        assert ("task", "t1") in one.taken.keys


async def test_a_broken_connection_is_no_reason_for_a_new_session(swarm: Swarm) -> None:
    async with member(swarm) as one:
        await one.taken.until(lambda: one.taken.completes == 1)
        before = one.words.last
        assert before is not None
        await one.close()
        await swarm.until(lambda: swarm.state("w1") == DISCONNECTED)
        one.running = asyncio.create_task(one.membership.run())
        await one.taken.until(lambda: one.taken.completes == 2)
        assert one.words.last is not None
        assert one.words.last.session_id == before.session_id


async def test_a_session_that_ran_out_is_replaced(swarm: Swarm) -> None:
    async with member(swarm) as one:
        await one.taken.until(lambda: one.taken.completes == 1)
        before = one.words.last
        assert before is not None
        # The managers take it for gone.
        agent = swarm.agent("w1")
        agent.sessions.append(before)
        await agent.goodbye()
        await one.taken.until(lambda: one.taken.completes == 2)
        assert one.words.last is not None
        assert one.words.last.session_id != before.session_id


async def test_a_node_that_was_removed_ends_its_tasks(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    async with member(swarm) as one:
        await one.taken.until(lambda: ("task", "t1") in one.taken.keys)
        await swarm.remove("w1", "nodes")
        await one.taken.until(lambda: one.taken.messages[-1] == (True, []))


async def test_a_defect_of_one_part_is_not_the_others(swarm: Swarm) -> None:
    await swarm.node("w1")

    class Broken:
        def apply(self, changes: Iterable[AssignmentChange], complete: bool) -> None:
            raise KeyError("x")

    async def companion(channel: grpc.aio.Channel, retired: asyncio.Event) -> None:
        companions.append(channel)
        if len(companions) == 1:
            raise KeyError("y")
        await asyncio.Event().wait()

    companions: list[grpc.aio.Channel] = []
    one = Member(Identity(swarm._directory / "w1"), swarm.address, before=[Broken()], companions=[companion])
    try:
        await one.taken.until(lambda: one.taken.completes > 0)
        await swarm.create(task("t1", "w1"))
        await one.taken.until(lambda: ("task", "t1") in one.taken.keys)
        assert len(companions) == 2
    finally:
        await one.close()


async def test_leaving_is_said_and_final(swarm: Swarm) -> None:
    async with member(swarm) as one:
        await one.taken.until(lambda: one.taken.completes == 1)
        await one.membership.leave()
        async with asyncio.timeout(PATIENCE):
            await one.running
        await swarm.until(lambda: swarm.state("w1") == DOWN)
        assert not one.membership.connected


async def test_leaving_when_nobody_listens(swarm: Swarm) -> None:
    async with member(swarm, "127.0.0.1:1") as one:
        await one.membership.leave()
        async with asyncio.timeout(PATIENCE):
            await one.running


def _state(swarm: Swarm, task_id: str) -> TaskState.ValueType:
    stored = swarm.store.tasks.get(task_id)
    assert stored is not None
    return stored.status.state


class Forgetful(DispatcherServicer):
    """A manager that leaves out a message of the first assignments stream, and the second stream goes on for ever."""

    def __init__(self) -> None:
        self.streams = 0

    async def Session(self, request: SessionRequest, context: Any) -> AsyncIterator[SessionMessage]:
        yield SessionMessage(session_id="s", managers=[Peer(address="127.0.0.1:3")])
        await asyncio.Event().wait()

    async def Heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        response = HeartbeatResponse()
        response.period.FromSeconds(1)
        return response

    async def Assignments(self, request: AssignmentsRequest, context: Any) -> AsyncIterator[AssignmentsMessage]:
        self.streams += 1
        yield AssignmentsMessage(type=AssignmentsMessage.TYPE_COMPLETE, applies_to=0, results_in=1)
        if self.streams == 1:
            yield AssignmentsMessage(type=AssignmentsMessage.TYPE_INCREMENTAL, applies_to=2, results_in=3)
        await asyncio.Event().wait()


class Slow(DispatcherServicer):
    """A manager that never answers the first session's heartbeats."""

    def __init__(self) -> None:
        self.resumed: list[str] = []

    async def Session(self, request: SessionRequest, context: Any) -> AsyncIterator[SessionMessage]:
        self.resumed.append(request.session_id)
        yield SessionMessage(session_id="s")
        await asyncio.Event().wait()

    async def Heartbeat(self, request: HeartbeatRequest, context: Any) -> HeartbeatResponse:
        if len(self.resumed) == 1:
            await asyncio.Event().wait()
        response = HeartbeatResponse()
        response.period.FromSeconds(1)
        return response

    async def Assignments(self, request: AssignmentsRequest, context: Any) -> AsyncIterator[AssignmentsMessage]:
        yield AssignmentsMessage(type=AssignmentsMessage.TYPE_COMPLETE, applies_to=0, results_in=1)
        await asyncio.Event().wait()


@asynccontextmanager
async def facing(manager: DispatcherServicer, directory: Path) -> AsyncIterator[Member]:
    """A member whose only manager is `manager`."""
    root, key = create_root()
    signer, trust = Signer(root, key), Trust(root)
    for name, role in (("m", NodeRole.NODE_ROLE_MANAGER), ("w", NodeRole.NODE_ROLE_WORKER)):
        csr, own = create_request()
        Identity.store(directory / name, signer.sign(csr, name, role, "c"), own, root)
    address = free_address()
    server = node_server(Identity(directory / "m"), lambda: trust, address)
    add_DispatcherServicer_to_server(manager, server)
    await server.start()
    one = Member(Identity(directory / "w"), address)
    try:
        yield one
    finally:
        await one.close()
        await server.stop(0)


async def test_after_a_gap_it_asks_for_everything_within_the_same_session(tmp_path: Path) -> None:
    manager = Forgetful()  # type: ignore[abstract]
    async with facing(manager, tmp_path) as one:
        await one.taken.until(lambda: one.taken.completes == 2)
        assert manager.streams == 2
        assert one.membership.connected


async def test_a_silent_manager_is_left_and_a_slow_one_is_given_longer(tmp_path: Path) -> None:
    manager = Slow()  # type: ignore[abstract]
    async with facing(manager, tmp_path) as one:
        before = one.membership._patience.seconds
        await one.taken.until(lambda: one.taken.completes == 2)
        assert manager.resumed[:2] == ["", "s"]
        assert one.membership._patience.seconds > before


def test_patience_grows_with_false_alarms_and_ends_with_the_leader() -> None:
    patience = Patience()
    patience.opened("a")
    first = patience.seconds
    patience.ran_out()
    patience.opened("a")
    assert patience.seconds == 2 * first
    patience.opened("a")
    assert patience.seconds == 2 * first
    for _ in range(9):
        patience.ran_out()
        patience.opened("a")
    assert patience.seconds == 8
    patience.ran_out()
    patience.opened("b")
    assert patience.seconds == first
