"""The manager process, put together: Raft, store, servers, and the loops that run while it leads.

Order matters at the start: the server for other nodes must answer before the Raft member is opened, because the group
that it joins calls back. Everything that needs the member refuses with "starting" until then.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

import grpc.aio
import structlog

from flota.manager.autolock import Autolock, ManagerHere
from flota.manager.bootstrap import begin_anew, create_cluster, take_over
from flota.manager.ca.join import with_port
from flota.manager.ca.rotation import RootRotator
from flota.manager.ca.service import NodeCa
from flota.manager.clock import SystemClock
from flota.manager.control.happenings import told
from flota.manager.control.servicer import Control
from flota.manager.dispatcher import Dispatcher
from flota.manager.ghosts import GhostHunter
from flota.manager.leading import Leading
from flota.manager.logbroker import LogBroker
from flota.manager.metrics import StoreMetrics
from flota.manager.nodecalls import NetworkCheckCalls, NodeCalls, TaskCalls, VolumeCalls
from flota.manager.orchestrator.leader import LeaderLoop, leader_loops
from flota.manager.raft.changes import MembershipServicer
from flota.manager.raft.interface import MemberStatus, RaftConfig, RaftError
from flota.manager.raft.node import RaftNode
from flota.manager.raft.transport import RaftTransport
from flota.manager.role_manager import RoleManager
from flota.manager.routing import LeaderRouter
from flota.manager.store import Store, WatchClosed
from flota.manager.trust import ClusterTrust
from flota.rpc.channels import node_channel
from flota.rpc.errors import FlotaError, Unavailable
from flota.rpc.identity import Identity
from flota.rpc.servers import local_server, node_server
from flota.v1 import (
    ca_pb2_grpc,
    checks_pb2_grpc,
    control_pb2_grpc,
    dispatcher_pb2_grpc,
    local_pb2_grpc,
    logs_pb2_grpc,
    raft_pb2_grpc,
    tasks_pb2_grpc,
    volumes_pb2_grpc,
)
from flota.v1.local_pb2 import InitRequest
from flota.v1.process_pb2 import ManagerConfig
from flota.v1.types_pb2 import Peer

_log = structlog.get_logger("manager")
# Calls that are answered when the process is told to stop get this long.
_GRACE = 0.5
# A group that elects a leader just now, or whose leader just went, takes a joiner a little later.
_JOIN_PATIENCE = 15.0
_JOIN_PAUSE = 0.2
# Bytes of a backup that are read in one go.
_PIECE = 1 << 20
# The first state from the group.
_STATE_PATIENCE = 30.0


class Manager:
    """One manager: `serve` it, `run` it, and close the stack."""

    def __init__(self, config: ManagerConfig) -> None:
        """Raises FileNotFoundError or ValueError when the identity cannot be read."""
        self.config = config
        self.store = Store(tell=told)
        # Servers and channels notice a renewed certificate by themselves, each through an Identity of its own.
        self._server_identity = Identity(Path(config.identity_directory))
        self._identity = Identity(Path(config.identity_directory))
        self._router = LeaderRouter(Identity(Path(config.identity_directory)))
        self._transport = RaftTransport(config.node_id, self._channel)
        self._membership = MembershipServicer()
        clock, rng = SystemClock(), SystemRandom()
        self._clock, self._rng = clock, rng
        self._dispatcher = Dispatcher(
            self.store, clock, rng, self._peers, self._root_ca, config.node_id, config.credential_helpers
        )
        self._log_broker = LogBroker(self.store)
        self._node_calls = NodeCalls(self.store)
        self._control = Control(
            self.store,
            clock,
            rng,
            self._members,
            config.node_id,
            read_barrier=self._read_barrier,
            usage=self._dispatcher.usage,
        )
        self._here = ManagerHere()
        self.raft: RaftNode | None = None

    async def serve(self, stack: AsyncExitStack) -> None:
        """Start everything; `stack` ends it. Returns when this manager can serve.

        Raises OSError (an address cannot be had, a disk that refuses), StorageCorrupt, StorageLocked, FlotaError
        (the group does not take us).
        """
        config = self.config
        if config.restore_file:
            pieces = _pieces_of(Path(config.restore_file))
            await asyncio.to_thread(self.store.restore, pieces, config.restore_index)
        trust = ClusterTrust(self.store, self._identity.root_pem)
        local = local_server(Path(config.socket), self._router)
        local_pb2_grpc.add_ManagerHereServicer_to_server(self._here, local)
        for server in (local, node_server(self._server_identity, trust, config.listen_address, self._router)):
            self._add_services(server)
            await server.start()
            stack.push_async_callback(server.stop, _GRACE)
        self.raft = raft = await self._open_raft()
        stack.push_async_callback(raft.stop)
        raft.name_of = self._name_of
        self.store.use(raft)
        self._membership.attach(raft.changes)
        self._router.use(raft)
        if config.HasField("init"):
            await self._bootstrap(raft, config.init)
        await self._catch_up(raft)

    async def run(self, stopping: asyncio.Event) -> None:
        """Do a manager's work until `stopping`, then hand leadership on. A defect in here is raised."""
        raft = self.raft
        assert raft is not None
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._router.run()),
                group.create_task(StoreMetrics(self.store).run()),
                group.create_task(self._follow_cluster(raft)),
                group.create_task(Autolock(self.store, raft, self._here).run()),
                group.create_task(Leading(raft, self._loops).run()),
            ]
            await stopping.wait()
            if raft.is_leader and len(raft.members) > 1:
                try:
                    await raft.transfer_leadership()
                except RaftError as error:
                    _log.info("stopping without handing leadership on", reason=str(error))
            for task in tasks:
                task.cancel()

    def _add_services(self, server: grpc.aio.Server) -> None:
        raft_pb2_grpc.add_RaftTransportServicer_to_server(self._transport.servicer, server)
        raft_pb2_grpc.add_RaftMembershipServicer_to_server(self._membership, server)
        ca_pb2_grpc.add_NodeCaServicer_to_server(NodeCa(self.store), server)
        control_pb2_grpc.add_ControlServicer_to_server(self._control, server)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self._dispatcher, server)
        logs_pb2_grpc.add_LogsServicer_to_server(self._log_broker, server)
        logs_pb2_grpc.add_LogBrokerServicer_to_server(self._log_broker, server)
        tasks_pb2_grpc.add_NodeCallsServicer_to_server(self._node_calls, server)
        tasks_pb2_grpc.add_TasksServicer_to_server(TaskCalls(self.store, self._node_calls), server)
        volumes_pb2_grpc.add_NodeVolumesServicer_to_server(VolumeCalls(self._node_calls), server)
        checks_pb2_grpc.add_NetworkChecksServicer_to_server(NetworkCheckCalls(self.store, self._node_calls), server)

    async def _open_raft(self) -> RaftNode:
        config = self.config
        addresses: list[str | None] = [with_port(address) for address in config.join_addresses] or [None]
        failure: FlotaError = Unavailable("no manager's address was given to join through")
        deadline = asyncio.get_running_loop().time() + _JOIN_PATIENCE
        while True:
            for address in addresses:
                try:
                    return await RaftNode.open(
                        Path(config.raft_directory),
                        node_id=config.node_id,
                        address=config.advertise_address,
                        state_machine=self.store,
                        transport=self._transport,
                        join=address,
                        keks=config.unlock_keys,
                        first_index=config.restore_index + 1,
                        force_new_cluster=config.init.force_new_cluster,
                    )
                except Unavailable as error:
                    failure = error
            if asyncio.get_running_loop().time() > deadline:
                raise failure
            await asyncio.sleep(_JOIN_PAUSE)

    async def _bootstrap(self, raft: RaftNode, init: InitRequest) -> None:
        """Make the cluster in the empty store of a new group."""
        if await raft.wait_for_leader():
            raise Unavailable("another manager leads this group already: it cannot be initialised anew")
        config, identity = self.config, self._identity
        await self.store.update(
            lambda tx: create_cluster(
                tx, init, config.cluster_id, config.node_id, config.hostname, identity.certificate_pem,
                identity.root_pem, config.root_key,
            )
        )  # fmt: skip
        if config.restore_file:
            await self.store.update(
                lambda tx: take_over(tx, init, config.node_id, config.hostname, identity.certificate_pem)
            )
        if init.force_new_cluster:
            await self.store.update(lambda tx: begin_anew(tx, config.node_id))

    async def _catch_up(self, raft: RaftNode) -> None:
        """Wait until the group's state is here and we count in elections: only then is the swarm safer with us."""
        try:
            async with asyncio.timeout(_STATE_PATIENCE):
                await raft.wait_until_voter()
                while self.store.cluster is None:
                    with self.store.watch("cluster") as changes:
                        if self.store.cluster is None:
                            with suppress(WatchClosed):
                                await changes.next()
        except TimeoutError:
            raise Unavailable(f"this manager did not catch up with the others within {_STATE_PATIENCE:g} s") from None

    async def _follow_cluster(self, raft: RaftNode) -> None:
        """Take over what the cluster's spec says of Raft."""
        while True:
            with self.store.watch("cluster") as changes:
                try:
                    while True:
                        raft.config = raft_config(raft.config, self.store)
                        await changes.next()
                except WatchClosed:
                    continue

    def _loops(self) -> list[LeaderLoop]:
        assert self.raft is not None
        return [
            *leader_loops(self.store, self._clock, self._rng),
            self._dispatcher,
            self._log_broker,
            self._node_calls,
            self._control,
            GhostHunter(self.store, self.raft, self._clock, self._members),
            RootRotator(self.store),
            RoleManager(self.store, self.raft, self.config.node_id, self._dispatcher.knows_managers),
        ]

    # What the services ask.

    def _channel(self, address: str) -> grpc.aio.Channel:
        return node_channel(self._identity, address)

    def _members(self) -> list[MemberStatus]:
        return self.raft.members if self.raft is not None else []

    def _name_of(self, node_id: str) -> str:
        node = self.store.nodes.get(node_id)
        return (node.description.hostname if node is not None else "") or node_id

    def _peers(self) -> list[Peer]:
        return [Peer(node_id=member.node_id, address=member.address) for member in self._members()]

    def _root_ca(self) -> bytes:
        cluster = self.store.cluster
        return cluster.root_ca.certificate if cluster is not None else self._identity.root_pem

    async def _read_barrier(self) -> None:
        if self.raft is None:
            raise Unavailable("this manager is starting: try again in a moment")
        await self.raft.read_barrier()


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_PIECE), b"")


def raft_config(config: RaftConfig, store: Store) -> RaftConfig:
    """`config` with what the cluster's spec says."""
    cluster = store.cluster
    if cluster is None:
        return config
    asked = cluster.spec.raft
    return replace(
        config,
        snapshot_entries=asked.snapshot_interval or config.snapshot_entries,
        keep_entries=asked.log_entries_for_slow_followers or config.keep_entries,
        max_snapshots=asked.keep_old_snapshots + 1,
        lease=asked.read_lease.ToNanoseconds() / 1e9,
    )
