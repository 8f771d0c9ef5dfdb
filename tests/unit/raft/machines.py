"""Managers with real certificates, servers on loopback and directories on disk, for tests and benchmarks of Raft."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.raft.changes import MembershipServicer
from flota.manager.raft.interface import RaftConfig
from flota.manager.raft.metrics import RaftMetrics
from flota.manager.raft.node import RaftNode
from flota.manager.raft.transport import RaftTransport
from flota.rpc.callers import Trust
from flota.rpc.channels import node_channel
from flota.rpc.identity import Identity
from flota.rpc.servers import node_server
from flota.v1.raft_pb2_grpc import add_RaftMembershipServicer_to_server, add_RaftTransportServicer_to_server
from flota.v1.types_pb2 import NodeRole
from tests.addresses import free_address


class Register:
    """A state machine that remembers everything it was given."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []

    def apply(self, index: int, data: bytes) -> object:
        assert not self.applied or index > self.applied[-1][0]
        self.applied.append((index, data))
        return index, data

    @property
    def values(self) -> list[bytes]:
        return [data for _, data in self.applied]

    def snapshot(self) -> Callable[[], Iterable[bytes]]:
        frozen = list(self.applied)
        return lambda: (b"%d %s\n" % (index, data.hex().encode()) for index, data in frozen)

    def restore(self, pieces: Iterable[bytes], index: int) -> None:
        self.reader(pieces, index)()

    def reader(self, pieces: Iterable[bytes], index: int) -> Callable[[], None]:
        lines = [line.split(b" ") for line in b"".join(pieces).splitlines()]

        def replace() -> None:
            self.applied = [(int(at), bytes.fromhex(value.decode())) for at, value in lines]

        return replace


class Machine:
    """One manager: identity, server, node. May be stopped, crashed and started again."""

    def __init__(self, name: str, directory: Path, signer: Signer, root_pem: bytes, config: RaftConfig) -> None:
        request, key = create_request()
        where = directory / name / "identity"
        where.mkdir(parents=True)
        (where / "cert.pem").write_bytes(signer.sign(request, name, NodeRole.NODE_ROLE_MANAGER, "cluster"))
        (where / "key.pem").write_bytes(key)
        (where / "root.pem").write_bytes(root_pem)
        self.name = name
        self.identity = Identity(where)
        self.directory = directory / name / "raft"
        self.config = config
        self.address = free_address()
        self._trust = Trust(root_pem)
        self.state = Register()
        self.node: RaftNode

    async def start(self, join: str | None = None, force_new_cluster: bool = False) -> RaftNode:
        self.state = Register()
        transport = RaftTransport(self.name, lambda address: node_channel(self.identity, address))
        self._server = node_server(self.identity, lambda: self._trust, self.address)
        add_RaftTransportServicer_to_server(transport.servicer, self._server)

        membership = MembershipServicer()
        add_RaftMembershipServicer_to_server(membership, self._server)
        await self._server.start()
        try:
            self.node = await RaftNode.open(
                self.directory,
                node_id=self.name,
                address=self.address,
                state_machine=self.state,
                transport=transport,
                join=join,
                config=self.config,
                force_new_cluster=force_new_cluster,
                metrics=RaftMetrics(CollectorRegistry()),
            )
        except BaseException:
            await self._server.stop(0)
            raise
        membership.attach(self.node.changes)
        return self.node

    async def crash(self) -> None:
        await asyncio.gather(self._server.stop(0), self.node.crash())

    async def stop(self) -> None:
        await self.node.stop()
        await self._server.stop(0)


class Machines:
    """Some managers of one swarm."""

    def __init__(self, directory: Path, config: RaftConfig | None = None) -> None:
        root_pem, root_key = create_root()
        self._directory = directory
        self._signer = Signer(root_pem, root_key)
        self._root_pem = root_pem
        self._config = config or RaftConfig()
        self.all: dict[str, Machine] = {}
        self.running: set[str] = set()

    def make(self, name: str) -> Machine:
        machine = Machine(name, self._directory, self._signer, self._root_pem, self._config)
        self.all[name] = machine
        return machine

    async def up(self, count: int) -> list[Machine]:
        """A group of `count` voters."""
        machines = [self.make(f"m{number}") for number in range(1, count + 1)]
        for machine in machines:
            await self.start(machine, join=machines[0].address if machine is not machines[0] else None)
            if machine is machines[0]:
                await self.leader()
        await eventually(lambda: len(machines[0].node.raft.conf.voters) == count)
        return machines

    async def start(self, machine: Machine, join: str | None = None, force_new_cluster: bool = False) -> None:
        await machine.start(join, force_new_cluster)
        self.running.add(machine.name)

    async def crash(self, machine: Machine) -> None:
        self.running.discard(machine.name)
        await machine.crash()

    async def stop(self, machine: Machine) -> None:
        self.running.discard(machine.name)
        await machine.stop()

    async def leader(self, within: float = 60.0) -> Machine:
        """The one running machine that leads."""

        def leaders() -> list[Machine]:
            return [self.all[name] for name in self.running if self.all[name].node.is_leader]

        await eventually(lambda: len(leaders()) == 1, within)
        return leaders()[0]

    async def down(self) -> None:
        for name in sorted(self.running):
            await self.all[name].crash()
        self.running.clear()


async def eventually(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - conditions span several nodes
            await asyncio.sleep(0.005)
