"""Daemons on loopback, each with directories and ports of its own; their workers run nothing (worker.py)."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from flota.rpc.channels import local_channel
from flota.rpc.staleness import stale_reason
from flota.v1.control_pb2 import GetJoinTokensRequest, GetNodeRequest, ListNodesRequest, UpdateNodeRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import (
    InfoRequest,
    InfoResponse,
    InitRequest,
    InitResponse,
    JoinRequest,
    JoinResponse,
    LeaveRequest,
)
from flota.v1.local_pb2_grpc import LocalStub
from flota.v1.objects_pb2 import ManagerStatus, Node
from flota.v1.types_pb2 import JoinTokens, NodeRole, NodeState
from tests.addresses import free_address

MANAGER, WORKER = NodeRole.NODE_ROLE_MANAGER, NodeRole.NODE_ROLE_WORKER
ROOT = Path(__file__).resolve().parents[3]


@asynccontextmanager
async def mute_address() -> AsyncIterator[str]:
    """Somebody listens there who never says a word."""
    server = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def eventually(what: Callable[[], Awaitable[Any]], within: float = 60.0) -> Any:
    """What `what` gives once that is true; calls that fail meanwhile count as not yet."""
    last: object = None
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    last = await what()
                    if last:
                        return last
                except grpc.aio.AioRpcError as error:
                    last = error.details()
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s; last seen: {last!r}") from None


class Daemon:
    """One machine's daemon; may be stopped, killed and started again."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.state, self.run = self.directory / "state", self.directory / "run"
        self.address = free_address()
        self.arguments: list[str] = []
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; returns when it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.cluster.daemon.daemon", str(self.state), str(self.run),
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL, stderr=log, cwd=ROOT,
            )  # fmt: skip
        await eventually(self.info)

    async def stop(self) -> int:
        """As a service manager does."""
        assert self.process is not None
        self.process.terminate()
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        """Whatever happened, nothing of it is left."""
        if self.process is not None and self.process.returncode is None:
            await self.stop()
        for name in ("worker", "manager"):
            pid = self.child(name)
            if pid:
                await eventually(lambda pid=pid: gone(pid))  # type: ignore[misc]

    def child(self, name: str) -> int:
        """The process id of a child; 0 when it does not run."""
        file = self.run / f"{name}.pid"
        return int(file.read_text().split()[0]) if file.exists() else 0

    def kill_child(self, name: str) -> None:
        os.kill(self.child(name), signal.SIGKILL)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        async with local_channel(f"unix://{self.run}/flota.sock") as channel:
            yield channel

    async def info(self) -> InfoResponse:
        async with self.channel() as channel:
            return await LocalStub(channel).Info(InfoRequest(), timeout=30)

    async def init(self, **fields: Any) -> InitResponse:
        async with self.channel() as channel:
            fields = {"listen_address": self.address} | fields
            return await LocalStub(channel).Init(InitRequest(**fields), timeout=60)

    async def join(self, token: str, *managers: str, **fields: Any) -> JoinResponse:
        async with self.channel() as channel:
            fields = {"listen_address": self.address} | fields
            return await LocalStub(channel).Join(JoinRequest(token=token, addresses=managers, **fields), timeout=60)

    async def leave(self, force: bool = False) -> None:
        async with self.channel() as channel:
            await LocalStub(channel).Leave(LeaveRequest(force=force), timeout=60)

    async def tokens(self) -> JoinTokens:
        async with self.channel() as channel:
            return (await ControlStub(channel).GetJoinTokens(GetJoinTokensRequest(), timeout=30)).tokens

    async def nodes(self) -> dict[str, Node]:
        """All nodes of the cluster, as this one's manager has them."""
        async with self.channel() as channel:
            return {
                node.id: node for node in (await ControlStub(channel).ListNodes(ListNodesRequest(), timeout=30)).nodes
            }

    async def staleness(self) -> str:
        """Why what this manager says may be old; empty when it is not."""
        async with self.channel() as channel:
            call = ControlStub(channel).ListNodes(ListNodesRequest(), timeout=30)
            await call
            return stale_reason(await call.trailing_metadata())

    async def set_role(self, node_id: str, role: "NodeRole.ValueType") -> None:
        """As `flota node promote` and `demote` do."""
        async with self.channel() as channel:
            control = ControlStub(channel)
            while True:
                node = (await control.GetNode(GetNodeRequest(node_id=node_id), timeout=30)).node
                request = UpdateNodeRequest(node_id=node_id, version=node.meta.version, spec=node.spec)
                request.spec.desired_role = role
                try:
                    await control.UpdateNode(request, timeout=30)
                except grpc.aio.AioRpcError as error:
                    # The node told something of itself meanwhile.
                    if error.code() != grpc.StatusCode.ABORTED:
                        raise
                else:
                    return

    def is_clean(self) -> bool:
        """Nothing on disk says that the machine is or was part of a cluster."""
        return not self.left()

    def left(self) -> set[str]:
        """What on disk says that the machine is or was part of a cluster."""
        return {path.name for path in self.state.iterdir()} - {"daemon.lock"}


async def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def is_voter(node: Node) -> bool:
    """A reachable manager of the group."""
    return node.manager_status.raft_id != 0 and (
        node.manager_status.reachability == ManagerStatus.REACHABILITY_REACHABLE
    )


def is_ready(node: Node) -> bool:
    return node.status.state == NodeState.NODE_STATE_READY


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status and the sentence of a call that fails."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call was not refused")


async def is_refused(call: Awaitable[Any], words: str) -> bool:
    """Whether a call fails with these words."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return words in (error.details() or "")
    return False
