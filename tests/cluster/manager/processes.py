"""Manager processes as the daemon starts them, on loopback, each with a directory of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import grpc.aio
from google.protobuf import json_format

from flota.manager.bootstrap import first_identity
from flota.manager.ca.join import IssuedIdentity, request_certificate
from flota.rpc.channels import local_channel
from flota.rpc.identity import Identity
from flota.v1.control_pb2 import GetJoinTokensRequest, ListNodesRequest
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.objects_pb2 import Node
from flota.v1.process_pb2 import ManagerConfig
from tests.addresses import free_address

if TYPE_CHECKING:
    from flota.v1.control_pb2_grpc import ControlAsyncStub


class ManagerProcess:
    """One manager; may be killed and started again."""

    module = "flota.manager"
    # More of it, for benchmarks.
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.name = name
        self.address = free_address()
        self.process: asyncio.subprocess.Process | None = None
        # Where Raft's directory is, if not with the rest, and what the command to start begins with.
        self.raft_directory = self.directory / "raft"
        self.prefix: tuple[str, ...] = ()

    @property
    def socket(self) -> Path:
        return self.directory / "manager.sock"

    def config(self) -> ManagerConfig:
        identity = Identity(self.directory / "identity")
        return ManagerConfig(
            node_id=identity.node_id,
            cluster_id=identity.cluster_id,
            hostname=self.name,
            identity_directory=str(self.directory / "identity"),
            raft_directory=str(self.raft_directory),
            socket=str(self.socket),
            listen_address=self.address,
            advertise_address=self.address,
        )

    def take(self, issued: IssuedIdentity) -> None:
        Identity.store(self.directory / "identity", issued.certificate_pem, issued.key_pem, issued.root_pem)

    async def start(self, config: ManagerConfig) -> str:
        """Gives back what the process says: "ready", or why not."""
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, "-m", self.module,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=os.environ | self.environment,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json_format.MessageToJson(config, indent=None).encode() + b"\n")
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    async def init(self) -> str:
        identity, root_key = first_identity()
        self.take(identity)
        config = self.config()
        config.init.SetInParent()
        config.root_key = root_key
        return await self.start(config)

    async def join(self, other: "ManagerProcess") -> str:
        async with other.control() as control:
            tokens = (await control.GetJoinTokens(GetJoinTokensRequest())).tokens
        self.take(await request_certificate(tokens.manager, [other.address]))
        config = self.config()
        config.join_addresses.append(other.address)
        return await self.start(config)

    @asynccontextmanager
    async def control(self) -> "AsyncIterator[ControlAsyncStub]":
        channel: grpc.aio.Channel = local_channel(f"unix://{self.socket}")
        async with channel:
            yield ControlStub(channel)

    async def nodes(self) -> list[Node]:
        async with self.control() as control:
            return list((await control.ListNodes(ListNodesRequest())).nodes)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """As the daemon does: its end of the pipe is closed."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def end(self) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()
