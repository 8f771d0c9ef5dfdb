"""What workers report of their tasks, to a real server over mutual TLS."""

import asyncio

import pytest

from flota.rpc.errors import InvalidArgument, PermissionDenied, Unavailable
from flota.v1.dispatcher_pb2 import UpdateTaskStatusRequest
from flota.v1.types_pb2 import TaskState
from tests.unit.dispatcher.swarm import RUNNING, Swarm, task

SHUTDOWN = TaskState.TASK_STATE_SHUTDOWN


async def test_a_report_is_in_the_store_when_it_is_answered(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).connect()
    await agent.report({"t1": RUNNING}, "started")
    status = swarm.store.tasks.get("t1").status
    assert (status.state, status.message, status.applied_by) == (RUNNING, "started", "m1")
    assert status.HasField("applied_at")


async def test_only_forward(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1", state=RUNNING))
    agent = await (await swarm.node("w1")).connect()
    entries = swarm.proposer.entries
    await agent.report({"t1": TaskState.TASK_STATE_PREPARING, "gone": RUNNING})
    await agent.report({"t1": RUNNING})
    assert swarm.proposer.entries == entries
    await agent.report({"t1": RUNNING}, "healthy")
    assert swarm.store.tasks.get("t1").status.message == "healthy"
    await agent.report({"t1": SHUTDOWN})
    await agent.report({"t1": RUNNING})
    await agent.report({"t1": SHUTDOWN}, "again")
    status = swarm.store.tasks.get("t1").status
    assert (status.state, status.message) == (SHUTDOWN, "")


async def test_only_its_own_tasks_and_only_states_of_a_worker(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"), task("t2", "w2"))
    agent = await (await swarm.node("w1")).connect()
    with pytest.raises(PermissionDenied, match="task t2 is not on node w1"):
        await agent.report({"t1": RUNNING, "t2": RUNNING})
    with pytest.raises(InvalidArgument, match="state of task t1 'ORPHANED': workers report ACCEPTED to REJECTED"):
        await agent.report({"t1": TaskState.TASK_STATE_ORPHANED})
    assert swarm.store.tasks.get("t1").status.state < RUNNING


async def test_many_reports_are_few_commits(swarm: Swarm) -> None:
    await swarm.create(*(task(f"t{n}", "w1") for n in range(250)))
    agent = await (await swarm.node("w1")).connect()
    entries = swarm.proposer.entries
    await agent.report({f"t{n}": RUNNING for n in range(250)})
    assert swarm.proposer.entries == entries + 2
    swarm.proposer.open.clear()
    reports = [asyncio.create_task(agent.report({f"t{n}": SHUTDOWN})) for n in range(20)]
    swarm.proposer.open.set()
    await asyncio.gather(*reports)
    assert {swarm.store.tasks.get(f"t{n}").status.state for n in range(20)} == {SHUTDOWN}


async def test_a_report_that_consensus_refuses_fails(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).connect()
    swarm.proposer.refuses = True
    with pytest.raises(Unavailable, match="no quorum"):
        await agent.report({"t1": RUNNING})
    swarm.proposer.refuses = False
    await agent.report({"t1": RUNNING})
    assert swarm.store.tasks.get("t1").status.state == RUNNING


async def test_long_texts_are_cut(swarm: Swarm) -> None:
    await swarm.create(task("t1", "w1"))
    agent = await (await swarm.node("w1")).connect()
    update = UpdateTaskStatusRequest.Update(task_id="t1")
    update.status.state = TaskState.TASK_STATE_REJECTED
    update.status.error = "x" * 3_000_000
    await agent.send([update])
    assert len(swarm.store.tasks.get("t1").status.error) == 4096
