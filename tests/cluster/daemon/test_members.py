"""Machines become nodes of a cluster, change their role, and cease to be nodes."""

import asyncio

import grpc
import grpc.aio

from flota.node.node import NO_SWARM, NOT_MANAGER
from flota.rpc.tokens import JoinToken
from flota.v1.local_pb2 import InfoResponse
from tests.addresses import free_address
from tests.cluster.daemon.daemons import (
    MANAGER,
    WORKER,
    Daemon,
    eventually,
    is_ready,
    is_refused,
    is_voter,
    mute_address,
    refusal,
)
from tests.cluster.daemon.test_backup import create_service


async def test_a_swarm_begins_and_is_joined(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    assert await refusal(first.nodes()) == (grpc.StatusCode.FAILED_PRECONDITION, NO_SWARM)
    begun = await first.init()
    assert begun.address == first.address
    assert begun.tokens == await first.tokens()
    worker = await second.join(begun.tokens.worker, begun.address)
    manager = await third.join(begun.tokens.manager, begun.address)
    assert (worker.role, manager.role) == (WORKER, MANAGER)

    # Nothing is waited for: whoever was told that it joined is there.
    nodes = await third.nodes()
    assert nodes.keys() == {begun.node_id, worker.node_id, manager.node_id}
    assert all(map(is_ready, nodes.values()))
    assert is_voter(nodes[begun.node_id])
    assert is_voter(nodes[manager.node_id])
    assert await refusal(second.nodes()) == (grpc.StatusCode.FAILED_PRECONDITION, NOT_MANAGER)

    info = await second.info()
    assert (info.state, info.node_id, info.role) == (InfoResponse.STATE_ACTIVE, worker.node_id, WORKER)
    assert info.node_address == "127.0.0.1"
    assert (await first.info()).cluster_id == info.cluster_id == (await third.info()).cluster_id
    await eventually(lambda: knows_managers(second, {first.address, third.address}))


async def knows_managers(daemon: Daemon, addresses: set[str]) -> bool:
    return {peer.address for peer in (await daemon.info()).managers} == addresses


async def test_a_member_can_neither_join_nor_begin_anything_else(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    words = 'This node is already part of a swarm. Use "flota swarm leave" to leave this swarm and join another one.'
    assert await refusal(first.init()) == (grpc.StatusCode.FAILED_PRECONDITION, words)
    await second.join(begun.tokens.worker, begun.address)
    assert await refusal(second.join(begun.tokens.worker, begun.address)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        words,
    )
    assert await refusal(second.init()) == (grpc.StatusCode.FAILED_PRECONDITION, words)
    assert len(await first.nodes()) == 2


async def test_a_join_that_cannot_be_says_why_and_leaves_nothing(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun, other = await asyncio.gather(first.init(), third.init())
    nobody = free_address()
    token = JoinToken.parse(begun.tokens.worker)
    wrong = str(JoinToken(token.digest, "0" * 25))
    for attempt, status, words in (
        (second.join("SWMTKN-1-x-y", first.address), grpc.StatusCode.INVALID_ARGUMENT, "its digest has 1 characters"),
        (second.join(wrong, first.address), grpc.StatusCode.PERMISSION_DENIED, "refused the join token: it is wrong"),
        (second.join(other.tokens.worker, first.address), grpc.StatusCode.FAILED_PRECONDITION, "is of another cluster"),
        (second.join(str(token), nobody), grpc.StatusCode.UNAVAILABLE, f"cannot reach a manager at {nobody}"),
        (second.join(str(token)), grpc.StatusCode.INVALID_ARGUMENT, "no manager's address was given"),
        (
            second.join(str(token), first.address, listen_address="1.2.3.4.5"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid listen address '1.2.3.4.5': an IP address or an interface",
        ),
    ):
        code, details = await refusal(attempt)
        assert (code, words in details) == (status, True), details
        assert not second.left()
        assert (await second.info()).state == InfoResponse.STATE_INACTIVE
    assert len(await first.nodes()) == 1

    # And after all of that it joins, through the manager that can be reached.
    await second.join(str(token), nobody, first.address)
    assert len(await first.nodes()) == 2


async def test_a_manager_that_cannot_serve_is_no_member_and_no_node(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    code, details = await refusal(second.join(begun.tokens.manager, begun.address, listen_address=first.address))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert details == f"cannot listen on {first.address}: another process is listening there"
    assert not second.left()
    assert (await first.nodes()).keys() == {begun.node_id}
    # The process that was kept ready was used up; there is another one.
    await second.join(begun.tokens.manager, begun.address)
    assert len(await second.nodes()) == 2


async def test_a_manager_that_others_cannot_reach_is_no_member_and_no_node(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    nobody = free_address()
    code, details = await refusal(second.join(begun.tokens.manager, begun.address, advertise_address=nobody))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert details.startswith(f"the swarm's managers cannot reach this one at {nobody} (")
    assert "--advertise-addr" in details
    assert not second.left()
    assert (await first.nodes()).keys() == {begun.node_id}


async def test_an_init_that_cannot_be_leaves_nothing(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    await first.init()
    code, details = await refusal(second.init(listen_address=first.address))
    assert (code, details) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        f"cannot listen on {first.address}: another process is listening there",
    )
    assert not second.left()
    await second.init()
    assert len(await second.nodes()) == 1


async def test_who_gives_up_waiting_for_a_join_has_not_joined(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    async with mute_address() as nobody:
        joining = asyncio.create_task(second.join(begun.tokens.manager, begun.address, advertise_address=nobody))
        await eventually(lambda: has_nodes(first, 2))
        joining.cancel()
        await asyncio.wait({joining})
        await eventually(lambda: has_nodes(first, 1))

    async def is_clean() -> bool:
        return second.is_clean()

    await eventually(is_clean)
    await eventually(lambda: second.join(begun.tokens.worker, begun.address))


async def has_nodes(daemon: Daemon, count: int) -> bool:
    return len(await daemon.nodes()) == count


async def test_a_worker_leaves_and_comes_back_as_another_node(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    joined = await second.join(begun.tokens.worker, begun.address)
    await second.leave()
    assert not second.left()
    assert (await second.info()).state == InfoResponse.STATE_INACTIVE
    assert await refusal(second.nodes()) == (grpc.StatusCode.FAILED_PRECONDITION, NO_SWARM)
    assert await refusal(second.leave()) == (grpc.StatusCode.FAILED_PRECONDITION, "This node is not part of a swarm")
    await eventually(lambda: is_down(first, joined.node_id))
    again = await second.join(begun.tokens.worker, begun.address)
    assert again.node_id != joined.node_id


async def is_down(daemon: Daemon, node_id: str) -> bool:
    return not is_ready((await daemon.nodes())[node_id])


async def test_managers_leave_one_by_one_until_the_last(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    manager = await second.join(begun.tokens.manager, begun.address)
    await third.join(begun.tokens.worker, begun.address)

    # The leader goes: leadership is handed on, and it is out of the group, so that nothing depends on it.
    await first.leave()
    assert not first.left()
    nodes = await second.nodes()
    assert nodes[manager.node_id].manager_status.leader
    assert nodes[begun.node_id].role == WORKER
    assert not nodes[begun.node_id].manager_status.raft_id

    code, details = await refusal(second.leave())
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert details.endswith(
        "Removing the last manager erases all current state of a swarm. Use `--force` to ignore this message."
    )
    assert len(await second.nodes()) == 3
    await second.leave(force=True)
    assert not second.left()
    assert (await second.info()).state == InfoResponse.STATE_INACTIVE
    # A worker whose cluster is gone leaves all the same.
    await third.leave()
    assert not third.left()


async def test_a_manager_that_the_others_need_leaves_only_when_forced(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    await second.join(begun.tokens.manager, begun.address)
    await third.join(begun.tokens.manager, begun.address)
    await third.kill()
    await eventually(lambda: has_unreachable(first))
    code, details = await refusal(second.leave())
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "Removing this node leaves 1 managers out of 3. Without a Raft quorum your swarm" in details
    assert not second.is_clean()
    await second.leave(force=True)
    assert not second.left()

    # What is left has no quorum; a new cluster is made of what it has.
    await eventually(first.staleness)
    assert "has lost its quorum: 1 of 3 managers can be reached" in await first.staleness()
    code, details = await refusal(first.set_role(begun.node_id, WORKER))
    assert (code, "run `flota swarm init --force-new-cluster`" in details) == (grpc.StatusCode.UNAVAILABLE, True), (
        details
    )
    code, details = await refusal(first.leave())
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "Without a Raft quorum your swarm will be inaccessible" in details
    saved = await first.init(force_new_cluster=True)
    assert saved.node_id == begun.node_id
    assert saved.tokens == begun.tokens
    assert begun.node_id in await first.nodes()
    await second.join(saved.tokens.worker, saved.address)


async def has_unreachable(daemon: Daemon) -> bool:
    return any(node.manager_status.raft_id and not is_voter(node) for node in (await daemon.nodes()).values())


async def test_a_worker_is_promoted_demoted_and_promoted_again(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    joined = await second.join(begun.tokens.worker, begun.address)
    await third.join(begun.tokens.manager, begun.address)
    for _ in range(2):
        await first.set_role(joined.node_id, MANAGER)
        nodes = await eventually(second.nodes)
        assert nodes[joined.node_id].role == MANAGER
        assert is_voter(nodes[joined.node_id])
        assert (await second.info()).role == MANAGER

        await first.set_role(joined.node_id, WORKER)

        await eventually(lambda: is_refused(second.nodes(), NOT_MANAGER))
        assert not (await first.nodes())[joined.node_id].manager_status.raft_id
        assert (await second.info()).role == WORKER
        await eventually(lambda: ready_at(first, joined.node_id))
        await eventually(lambda: has_no_log(second))


async def has_no_log(daemon: Daemon) -> bool:
    return "raft" not in {path.name for path in daemon.state.iterdir()}


async def ready_at(daemon: Daemon, node_id: str) -> bool:
    return is_ready((await daemon.nodes())[node_id])


async def test_the_leader_is_demoted_and_stays_a_worker_of_the_cluster(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    await second.join(begun.tokens.manager, begun.address)
    # A worker can only turn to managers that it has heard of.
    await eventually(lambda: knows_managers(first, {first.address, second.address}))
    await first.set_role(begun.node_id, WORKER)

    await eventually(lambda: is_refused(first.nodes(), NOT_MANAGER))
    await eventually(lambda: ready_at(second, begun.node_id))
    assert not (await second.nodes())[begun.node_id].manager_status.raft_id


async def test_managers_that_come_back_to_a_forced_new_cluster_are_its_workers(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    await second.join(begun.tokens.manager, begun.address)
    await third.join(begun.tokens.manager, begun.address)
    await eventually(lambda: knows_managers(second, {first.address, second.address, third.address}))
    await asyncio.gather(second.kill(), third.kill())
    await first.init(force_new_cluster=True)
    assert [is_voter(node) for node in (await first.nodes()).values()].count(True) == 1

    # Together the two of them would have the quorum of the old cluster.
    await asyncio.gather(second.start(), third.start())

    async def all_ready() -> bool:
        return all(map(is_ready, (await first.nodes()).values()))

    for daemon in (second, third):
        await eventually(lambda daemon=daemon: is_refused(daemon.nodes(), NOT_MANAGER))
        await eventually(lambda daemon=daemon: has_no_log(daemon))
    await eventually(all_ready)
    nodes = await first.nodes()
    assert [node.role for node in nodes.values()].count(MANAGER) == 1
    assert nodes[begun.node_id].manager_status.leader


async def test_a_manager_with_another_address_is_found_by_the_others(daemons: list[Daemon]) -> None:
    first, second, third = daemons
    begun = await first.init()
    joined = await second.join(begun.tokens.manager, begun.address)
    await third.join(begun.tokens.manager, begun.address)
    await second.stop()
    moved = free_address()
    record = second.state / "node.json"
    record.write_text(record.read_text().replace(second.address, moved))
    await second.start()

    async def is_known() -> bool:
        for daemon in daemons:
            nodes = await daemon.nodes()
            if nodes[joined.node_id].manager_status.address != moved or not all(map(is_voter, nodes.values())):
                return False
        return await knows_managers(third, {first.address, moved, third.address})

    await eventually(is_known)


async def test_a_manager_that_loses_power_while_it_joins_goes_on_joining_when_it_boots(daemons: list[Daemon]) -> None:
    first, second, _ = daemons
    begun = await first.init()
    joining = asyncio.create_task(second.join(begun.tokens.manager, begun.address))
    # From here on the others may count on it.
    while not (second.state / "raft/member.json").exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.005)
    await second.kill()
    await asyncio.gather(joining, return_exceptions=True)
    await second.start()

    async def two_voters() -> bool:
        nodes = await first.nodes()
        return len(nodes) == 2 and all(is_voter(node) for node in nodes.values())

    await eventually(two_voters, 60)
    await create_service(second, "web")
