"""A node is called and its logs are read while its certificate is replaced, or its session ends and another begins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.rpc.callers import Trust
from flota.rpc.channels import node_channel
from flota.rpc.identity import Identity
from flota.v1.logs_pb2 import SubscribeLogsRequest
from flota.v1.logs_pb2_grpc import LogsStub
from flota.v1.objects_pb2 import NodeDescription, Service
from flota.v1.tasks_pb2 import ExecRequest, ExecResponse
from flota.worker.agent.description import Description
from flota.worker.agent.managers import Managers
from flota.worker.agent.membership import Membership, Words
from flota.worker.agent.reporter import Reporter
from flota.worker.calls.answering import Answering
from flota.worker.logs import LogPublisher, TaskLog
from tests.unit.dispatcher.swarm import MANAGER, PATIENCE, READY, RUNNING, WORKER, Swarm, task
from tests.unit.logs.conmon import Conmon


class Echo:
    """The Tasks service of a node whose commands say what they are told."""

    async def Exec(self, requests: AsyncIterator[ExecRequest], context: Any) -> AsyncIterator[ExecResponse]:
        async for request in requests:
            yield ExecResponse(stdout=request.stdin)


class Call:
    """A command that runs on the node."""

    def __init__(self, swarm: Swarm) -> None:
        self._asked: asyncio.Queue[bytes] = asyncio.Queue()
        self._answers = swarm.node_calls.call("w1", "/flota.v1.Tasks/Exec", self._requests())

    async def _requests(self) -> AsyncIterator[bytes]:
        while said := await self._asked.get():
            yield ExecRequest(stdin=said).SerializeToString()

    async def says(self, words: bytes) -> bytes:
        """Its answer to `words`."""
        self._asked.put_nowait(words)
        async with asyncio.timeout(PATIENCE):
            return ExecResponse.FromString(await anext(self._answers)).stdout

    async def ends(self) -> None:
        self._asked.put_nowait(b"")
        async with asyncio.timeout(PATIENCE):
            assert [answer async for answer in self._answers] == []


class Node:
    """w1, whose description says which certificate it has."""

    def __init__(self, swarm: Swarm, directory: Path) -> None:
        self.identity = swarm.identity("w1")
        self.conmon = Conmon(directory / "t1" / "log")
        self.logs = LogPublisher(lambda: [TaskLog("t1", "web", self.conmon.path, ended=False)])
        self.answering = Answering({"flota.v1.Tasks": Echo()})
        self.words = Words()
        self.membership = Membership(
            self.identity, Managers([swarm.address], Random(2)),
            Description(lambda: NodeDescription(hostname=str(hash(self.identity.certificate_pem)))),
            [], Reporter(), self.words, (self.logs.run, self.answering.run),
        )  # fmt: skip

    @property
    def described(self) -> str:
        return str(hash(self.identity.certificate_pem))


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    # Heartbeats are rare: what is seen here is not what a refused one leads to.
    async with Swarm(tmp_path, period=30.0).serving() as swarm:
        yield swarm


async def until_described(swarm: Swarm, node: Node, former: str = "") -> None:
    """Until managers know the certificate that the node has now, and it is not the former one."""

    def is_so() -> bool:
        stored = swarm.store.nodes.get("w1")
        return stored is not None and stored.description.hostname == node.described != former

    await swarm.until(is_so)


@asynccontextmanager
async def member(swarm: Swarm, directory: Path) -> AsyncIterator[Node]:
    """w1 with a session, and a task of service web."""
    await swarm.node("w1")
    web = Service(id="web")
    web.spec.annotations.name = "web"
    await swarm.create(web, task("t1", "w1", state=RUNNING))
    node = Node(swarm, directory)
    await node.logs.start()
    running = asyncio.create_task(node.membership.run())
    try:
        await until_described(swarm, node)
        yield node
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await node.logs.stop()


async def test_a_call_goes_on_when_a_session_fails_over_a_connection_that_does_not(
    swarm: Swarm, tmp_path: Path
) -> None:
    async with member(swarm, tmp_path) as node:
        call = Call(swarm)
        assert await call.says(b"before") == b"before"
        words = node.words.all()
        agent = swarm.agent("w1")
        async with asyncio.timeout(PATIENCE):
            former = await anext(words)
            agent.sessions.append(former)
            await agent.goodbye()
            while (await anext(words)).session_id == former.session_id:
                pass
        assert await call.says(b"after") == b"after"
        another = Call(swarm)
        assert await another.says(b"another") == b"another"
        await another.ends()
        await call.ends()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*node.membership._retired)


async def test_nobody_who_calls_a_node_or_reads_its_logs_notices(swarm: Swarm, tmp_path: Path) -> None:
    person = node_channel(swarm.identity("m9", MANAGER), swarm.address)
    async with person, member(swarm, tmp_path) as node:
        call = Call(swarm)
        assert await call.says(b"before") == b"before"
        request = SubscribeLogsRequest()
        request.selector.service_ids.append("web")
        request.options.follow = True
        lines, warnings = aiter(LogsStub(person).SubscribeLogs(request)), []

        async def line() -> str:
            async with asyncio.timeout(PATIENCE):
                while True:
                    message = await anext(lines)
                    warnings.extend(message.warnings)
                    if message.messages:
                        return "".join(one.data.decode().rstrip() for one in message.messages)

        node.conmon.write("before")
        assert await line() == "before"
        with swarm.store.watch("node") as changes:
            former = node.described
            root = renew(swarm)
            await until_described(swarm, node, former)
            # From now on what the node showed before is refused.
            swarm._trust = Trust(root)
            states = [event.object.status.state for event in changes.drain()]
        assert await call.says(b"after") == b"after"
        node.conmon.write("after")
        assert await line() == "after"
        # And who calls it now.
        another = Call(swarm)
        assert await another.says(b"another") == b"another"
        await another.ends()
        await call.ends()
        assert (set(states), warnings) == ({READY}, [])
        async with asyncio.timeout(PATIENCE):
            # Nothing is left of the connection of before.
            await asyncio.gather(*node.membership._retired)


def renew(swarm: Swarm) -> bytes:
    """Another root is trusted, too, and w1 gets a certificate of it; gives that root."""
    certificate, key = create_root("next")
    swarm._trust = Trust(swarm.root_pem + certificate)
    csr, own = create_request()
    chain = Signer(certificate, key).sign(csr, "w1", WORKER, "c1")
    Identity.store(swarm._directory / "w1", chain, own, swarm.root_pem)
    return certificate
