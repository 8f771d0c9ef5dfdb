"""Simulated workers of real manager processes: through followers, and across the death of the leader."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from flota.manager.ca.join import request_certificate
from flota.rpc.channels import local_channel
from flota.rpc.errors import FlotaError
from flota.rpc.identity import Identity
from flota.v1.control_pb2 import CreateServiceRequest, GetJoinTokensRequest, ListTasksRequest
from flota.v1.dispatcher_pb2 import UpdateTaskStatusRequest
from flota.v1.logs_pb2 import ListenSubscriptionsRequest, LogMessage, PublishLogsMessage, SubscribeLogsRequest
from flota.v1.logs_pb2_grpc import LogBrokerStub, LogsStub
from flota.v1.objects_pb2 import NodeDescription, Task
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import TaskState
from tests.cluster.manager.processes import ManagerProcess
from tests.unit.dispatcher.swarm import READY, RUNNING, Agent

PATIENCE = 60.0


class Crowd:
    """Three managers, and workers that have joined."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.managers = [ManagerProcess(directory, name) for name in ("m1", "m2", "m3")]
        self.agents: list[Agent] = []

    async def start(self) -> None:
        first, second, third = self.managers
        assert [await first.init(), await second.join(first), await third.join(first)] == ["ready"] * 3

    async def worker(self, via: ManagerProcess) -> Agent:
        """A new node whose worker talks to one manager."""
        async with self.managers[0].control() as control:
            tokens = (await control.GetJoinTokens(GetJoinTokensRequest())).tokens
        issued = await request_certificate(tokens.worker, [self.managers[0].address])
        where = self._directory / f"worker{len(self.agents)}"
        Identity.store(where, issued.certificate_pem, issued.key_pem, issued.root_pem)
        agent = Agent(Identity(where), via.address)
        self.agents.append(agent)
        description = NodeDescription(hostname=where.name, data_path_address="127.0.0.1")
        description.platform.os, description.platform.architecture = "linux", "amd64"
        description.resources.nano_cpus, description.resources.memory_bytes = 4 * 10**9, 1 << 33
        await agent.connect(description)
        return agent

    async def tasks(self, via: ManagerProcess) -> list[Task]:
        async with via.control() as control:
            return list((await control.ListTasks(ListTasksRequest())).tasks)

    async def close(self) -> None:
        for agent in self.agents:
            await agent.close()
        for manager in self.managers:
            await manager.end()


@pytest.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[Crowd]:
    crowd = Crowd(tmp_path)
    try:
        await crowd.start()
        yield crowd
    finally:
        await crowd.close()


async def beat(agent: Agent) -> None:
    """Heartbeats for as long as the session lives."""
    try:
        while True:
            period = await agent.heartbeat()
            await asyncio.sleep(period / 2)
    except FlotaError:
        return


def service() -> CreateServiceRequest:
    spec = ServiceSpec()
    spec.annotations.name = "web"
    spec.task.container.image = "busybox"
    spec.task.placement.constraints.append("node.role == worker")
    spec.replicated.replicas = 1
    return CreateServiceRequest(spec=spec)


async def test_a_task_outlives_the_leader_and_is_not_moved(crowd: Crowd) -> None:
    leader, follower, other = crowd.managers
    agent = await (await crowd.worker(follower)).listen()
    beating = [asyncio.create_task(beat(agent))]
    async with other.control() as control:
        await control.CreateService(service())
    await agent.until(lambda: bool(agent.held.ids("task")))
    (task_id,) = agent.held.ids("task")
    assert agent.held["task", task_id].node_id == agent.node_id
    await agent.report({task_id: RUNNING})
    assert [task.status.state for task in await crowd.tasks(other)] == [RUNNING]

    await leader.kill()
    assert isinstance(await agent.ending(agent.session_stream), FlotaError)

    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await agent.connect(session_id=agent.session_id)
                break
            except FlotaError:
                # The election is not over, or this manager does not know of it yet.
                await asyncio.sleep(0.05)
    beating.append(asyncio.create_task(beat(agent)))
    await agent.listen()
    assert agent.held.ids("task") == {task_id}
    (node,) = [node for node in await other.nodes() if node.id == agent.node_id]
    assert node.status.state == READY
    # The same task, and no other one beside it.
    assert [(task.id, task.status.state) for task in await crowd.tasks(other)] == [(task_id, RUNNING)]
    update = UpdateTaskStatusRequest.Update(task_id=task_id)
    update.status.state = TaskState.TASK_STATE_FAILED
    await agent.send([update])
    await agent.until(lambda: agent.held["task", task_id].desired_state > RUNNING)
    await agent.drop()
    await asyncio.gather(*beating)


async def test_logs_flow_through_followers(crowd: Crowd) -> None:
    _, follower, other = crowd.managers
    agent = await (await crowd.worker(follower)).listen()
    beating = asyncio.create_task(beat(agent))
    async with other.control() as control:
        created = await control.CreateService(service())
    await agent.until(lambda: bool(agent.held.ids("task")))
    (task_id,) = agent.held.ids("task")
    await agent.report({task_id: RUNNING})

    publisher = LogBrokerStub(agent.channel)
    listening = publisher.ListenSubscriptions(ListenSubscriptionsRequest())
    channel: grpc.aio.Channel = local_channel(f"unix://{other.socket}")
    async with channel, asyncio.timeout(PATIENCE):
        request = SubscribeLogsRequest()
        request.selector.service_ids.append(created.service.id)
        subscriber = LogsStub(channel).SubscribeLogs(request)
        question = await listening.read()
        call = publisher.PublishLogs()
        lines = [LogMessage(data=f"line {n}".encode()) for n in range(1000)]
        for line in lines:
            line.context.task_id = task_id
        for start in range(0, 1000, 100):
            await call.write(
                PublishLogsMessage(subscription_id=question.id, messages=lines[start : start + 100], close=start == 900)
            )
        await call.done_writing()
        await call
        got = [line.data.decode() async for message in subscriber for line in message.messages]
    assert got == [f"line {n}" for n in range(1000)]
    listening.cancel()
    await agent.drop()
    await beating
