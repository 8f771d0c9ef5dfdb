"""A worker that runs nothing: the words of process.proto, the Agent's socket and a real session, so that tests of the
daemon need neither containers nor namespaces.

    python -m tests.cluster.daemon.worker
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import json_format

from flota.rpc.channels import node_channel
from flota.rpc.errors import NotFound, Unavailable
from flota.rpc.identity import Identity
from flota.rpc.logging import configure
from flota.rpc.servers import local_server
from flota.v1 import local_pb2_grpc
from flota.v1.dispatcher_pb2 import EndSessionRequest, HeartbeatRequest, SessionMessage, SessionRequest
from flota.v1.dispatcher_pb2_grpc import DispatcherStub
from flota.v1.local_pb2 import (
    AgentStatusRequest,
    AgentStatusResponse,
    RemoveAllTasksRequest,
    RemoveAllTasksResponse,
    RemoveImageRequest,
    RemoveImageResponse,
)
from flota.v1.process_pb2 import WorkerConfig


class Agent(local_pb2_grpc.AgentServicer):
    """The part of the Agent that a daemon needs."""

    def __init__(self) -> None:
        self.config = WorkerConfig()
        self.session: SessionMessage | None = None
        self.removed = False
        self._managers: list[str] = []
        self._changed = asyncio.Condition()
        self._session_id = ""

    async def tell(self, message: SessionMessage | None) -> None:
        async with self._changed:
            self.session = message
            self._changed.notify_all()

    async def WatchSession(self, request: Any, context: Any) -> AsyncIterator[SessionMessage]:
        sent = None
        while True:
            async with self._changed:
                while self.session is None or self.session is sent:
                    await self._changed.wait()
                sent = self.session
            yield sent

    async def Status(self, request: AgentStatusRequest, context: Any) -> AgentStatusResponse:
        answer = AgentStatusResponse(runtime="none", session=self.session is not None)
        answer.description.hostname = self.config.hostname
        return answer

    async def RemoveAllTasks(self, request: RemoveAllTasksRequest, context: Any) -> RemoveAllTasksResponse:
        self.removed = True
        for address in self._managers if self._session_id else ():
            # On a channel of its own: the session's is closed with the session.
            async with node_channel(Identity(Path(self.config.identity_directory)), address) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await DispatcherStub(channel).EndSession(EndSessionRequest(session_id=self._session_id))
                    break
        return RemoveAllTasksResponse()

    async def RemoveImage(self, request: RemoveImageRequest, context: Any) -> RemoveImageResponse:
        raise NotFound(f"no such image: {request.reference}")

    async def be_member(self, config: WorkerConfig) -> None:
        """Hold a session with whichever manager answers."""
        identity = Identity(Path(config.identity_directory))
        self._managers = list(config.managers)
        pause = 0.02
        while not self.removed:
            for address in list(self._managers):
                async with node_channel(identity, address) as channel:
                    try:
                        await self._hold(DispatcherStub(channel))
                        pause = 0.02
                    except (grpc.aio.AioRpcError, Unavailable):
                        continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _hold(self, dispatcher: Any) -> None:
        request = SessionRequest()
        request.description.hostname = self.config.hostname
        call = dispatcher.Session(request)
        beating: asyncio.Task[None] | None = None
        try:
            async for message in call:
                self._managers = [peer.address for peer in message.managers] or self._managers
                if beating is None:
                    self._session_id = message.session_id
                    beating = asyncio.create_task(_beat(dispatcher, message.session_id))
                await self.tell(message)
        finally:
            self._session_id = ""
            if beating is not None:
                beating.cancel()


async def _beat(dispatcher: Any, session: str) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        while True:
            answer = await dispatcher.Heartbeat(HeartbeatRequest(session_id=session))
            await asyncio.sleep(answer.period.ToTimedelta().total_seconds())


async def main() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    agent, server, member = Agent(), None, None
    configure("worker")
    while line := await lines.readline():
        agent.config = config = json_format.Parse(line, WorkerConfig())
        if server is None:
            server = local_server(Path(config.socket))
            local_pb2_grpc.add_AgentServicer_to_server(agent, server)
            await server.start()
        if config.identity_directory:
            member = asyncio.create_task(agent.be_member(config))
        print("ready", flush=True)
    if member is not None:
        member.cancel()
    if server is not None:
        await server.stop(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main())
    os._exit(0)
