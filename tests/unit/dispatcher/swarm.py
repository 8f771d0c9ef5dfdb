"""A store with a dispatcher, a log broker and calls into nodes, on a real server with mutual TLS; and simulated workers
that keep what they are told and check that it makes sense."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.clock import SystemClock
from flota.manager.dispatcher import Dispatcher
from flota.manager.logbroker import LogBroker
from flota.manager.nodecalls import NodeCalls, TaskCalls
from flota.manager.store import Store, Transaction
from flota.manager.store.schema import StoreObject
from flota.rpc.callers import Trust
from flota.rpc.channels import node_channel
from flota.rpc.errors import FlotaError, Unavailable, error_from
from flota.rpc.identity import Identity
from flota.rpc.servers import node_server
from flota.v1.dispatcher_pb2 import (
    AssignmentChange,
    AssignmentsMessage,
    AssignmentsRequest,
    ConfirmAssignmentsRequest,
    EndSessionRequest,
    GetRegistryAuthRequest,
    HeartbeatRequest,
    SessionMessage,
    SessionRequest,
    UpdateTaskStatusRequest,
)
from flota.v1.dispatcher_pb2_grpc import DispatcherStub, add_DispatcherServicer_to_server
from flota.v1.logs_pb2_grpc import add_LogBrokerServicer_to_server, add_LogsServicer_to_server
from flota.v1.objects_pb2 import Cluster, Network, Node, NodeDescription, Service, Task
from flota.v1.tasks_pb2_grpc import add_NodeCallsServicer_to_server, add_TasksServicer_to_server
from flota.v1.types_pb2 import NodeRole, NodeState, Peer, TaskState, TaskStatus
from tests.addresses import free_address

WORKER, MANAGER = NodeRole.NODE_ROLE_WORKER, NodeRole.NODE_ROLE_MANAGER
UNKNOWN, DOWN = NodeState.NODE_STATE_UNKNOWN, NodeState.NODE_STATE_DOWN
READY, DISCONNECTED = NodeState.NODE_STATE_READY, NodeState.NODE_STATE_DISCONNECTED
ASSIGNED, RUNNING = TaskState.TASK_STATE_ASSIGNED, TaskState.TASK_STATE_RUNNING
PATIENCE = 60.0


def key_of(change: AssignmentChange) -> tuple[str, ...]:
    """What a change is about."""
    kind = change.WhichOneof("item")
    assert kind is not None
    if kind == "peer":
        return kind, change.peer.network_id, change.peer.task_id
    if kind == "service":
        return kind, change.service.network_id, change.service.service_id
    return kind, getattr(change, kind).id


class Held(dict[tuple[str, ...], Any]):
    """What a worker holds after some messages; refuses a gap, and a task that comes before what it rests on."""

    sequence = 0
    # Not where what tasks rest on may have been removed from the cluster.
    checks = True

    def take(self, message: AssignmentsMessage) -> None:
        if message.type == AssignmentsMessage.TYPE_COMPLETE and not message.applies_to:
            self.clear()
        else:
            assert message.applies_to == self.sequence
        self.sequence = message.results_in
        for change in message.changes:
            key = key_of(change)
            if change.action == AssignmentChange.ACTION_REMOVE:
                self.pop(key, None)
            else:
                self[key] = getattr(change, key[0])
                if key[0] == "task" and self.checks:
                    self._check(change.task)

    def _check(self, task: Task) -> None:
        if task.status.state > RUNNING:
            return
        container = task.spec.container
        for one in task.networks:
            assert ("network", one.network_id) in self
            assert ("peer", one.network_id, task.id) in self
        assert all(("secret", one.secret_id) in self for one in container.secrets)
        assert all(("config", one.config_id) in self for one in container.configs)

    def ids(self, kind: str) -> set[str]:
        """Ids of what it holds of one kind; of peers the tasks', of services the services'."""
        return {key[-1] for key in self if key[0] == kind}


class Stream:
    """One open stream of a worker."""

    def __init__(self) -> None:
        self.ended = False
        # Why; None = quietly.
        self.error: FlotaError | None = None

    async def read(self, call: Any, take: Callable[[Any], None], news: asyncio.Event) -> None:
        try:
            async for message in call:
                take(message)
                news.set()
        except grpc.aio.AioRpcError as error:
            self.error = error_from(error)
        finally:
            call.cancel()
            self.ended = True
            news.set()


class Agent:
    """A worker as the dispatcher sees it. Its calls wait for a connection: on a busy machine it may take long."""

    def __init__(self, identity: Identity, address: str) -> None:
        self.node_id = identity.node_id
        self.channel = node_channel(identity, address)
        self.stub = DispatcherStub(self.channel)
        self.held = Held()
        self.sessions: list[SessionMessage] = []
        self.messages: list[AssignmentsMessage] = []
        self.session_stream = Stream()
        self.assignments_stream = Stream()
        # Whether it confirms what it is asked to confirm.
        self.confirms = True
        self._confirmations: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._readers: list[asyncio.Task[None]] = []

    @property
    def session_id(self) -> str:
        return self.sessions[-1].session_id

    async def connect(self, description: NodeDescription | None = None, session_id: str = "") -> "Agent":
        """Open a session and wait for its first message."""
        call = self.stub.Session(SessionRequest(description=description, session_id=session_id), wait_for_ready=True)
        count = len(self.sessions)
        stream = self.session_stream = self._read(call, self.sessions.append)
        await self.until(lambda: len(self.sessions) > count or stream.ended)
        if stream.error is not None:
            raise stream.error
        return self

    async def listen(self) -> "Agent":
        """Open the assignments stream and wait for the complete set."""
        self.held = Held()
        call = self.stub.Assignments(AssignmentsRequest(session_id=self.session_id), wait_for_ready=True)
        count = len(self.messages)
        stream = self.assignments_stream = self._read(call, self._take)
        await self.until(lambda: len(self.messages) > count or stream.ended)
        if stream.error is not None:
            raise stream.error
        return self

    async def join(self) -> "Agent":
        """Both."""
        await self.connect()
        return await self.listen()

    async def heartbeat(self, description: NodeDescription | None = None) -> float:
        request = HeartbeatRequest(session_id=self.session_id, description=description)
        answer = await self.call(self.stub.Heartbeat(request, wait_for_ready=True))
        period: Duration = answer.period
        return period.ToTimedelta().total_seconds()

    async def registry_auth(self, task_id: str) -> str:
        request = GetRegistryAuthRequest(session_id=self.session_id, task_id=task_id)
        answer = await self.call(self.stub.GetRegistryAuth(request, wait_for_ready=True))
        auth: str = answer.registry_auth
        return auth

    async def goodbye(self) -> None:
        await self.call(self.stub.EndSession(EndSessionRequest(session_id=self.session_id), wait_for_ready=True))

    async def report(self, states: dict[str, "TaskState.ValueType"], message: str = "") -> None:
        updates = [
            UpdateTaskStatusRequest.Update(task_id=id, status=TaskStatus(state=state, message=message))
            for id, state in states.items()
        ]
        await self.send(updates)

    async def send(self, updates: Iterable[UpdateTaskStatusRequest.Update]) -> None:
        await self.call(
            self.stub.UpdateTaskStatus(
                UpdateTaskStatusRequest(session_id=self.session_id, updates=updates), wait_for_ready=True
            )
        )

    @staticmethod
    async def call(call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what it has been told fulfils a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def ending(self, stream: Stream) -> FlotaError | None:
        """What a stream ended with; None = quietly."""
        await self.until(lambda: stream.ended)
        return stream.error

    async def drop(self) -> None:
        """The connection breaks."""
        ending = [*self._readers, *self._confirmations]
        for one in ending:
            one.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._readers.clear()

    async def close(self) -> None:
        await self.drop()
        await self.channel.close()

    def _take(self, message: AssignmentsMessage) -> None:
        self.messages.append(message)
        self.held.take(message)
        if message.confirm and self.confirms:
            confirmation = asyncio.create_task(self.confirm(message.results_in))
            self._confirmations.add(confirmation)
            confirmation.add_done_callback(self._confirmations.discard)

    async def confirm(self, sequence: int) -> None:
        request = ConfirmAssignmentsRequest(session_id=self.session_id, sequence=sequence)
        await self.call(self.stub.ConfirmAssignments(request, wait_for_ready=True))

    def _read(self, call: Any, take: Callable[[Any], None]) -> Stream:
        stream = Stream()
        self._readers.append(asyncio.create_task(stream.read(call, take, self._news), name=f"{self.node_id} reader"))
        return stream


class CountingProposer:
    """Consensus of one that counts its entries, can be held up, and can refuse."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.entries = 0
        self.refuses = False
        self.open = asyncio.Event()
        self.open.set()
        # Something waits for it to be opened.
        self.held_up = asyncio.Event()
        self.refused = asyncio.Event()
        store.use(self)

    async def propose(self, data: bytes) -> object:
        if not self.open.is_set():
            self.held_up.set()
            await self.open.wait()
        if self.refuses:
            self.refused.set()
            raise Unavailable("no quorum")
        self.entries += 1
        return self._store.apply(self.entries, data)


class Swarm:
    """One manager that leads or not, its store, and the workers that were made with it."""

    def __init__(
        self, directory: Path, period: float = 30.0, answer_limit: float = PATIENCE, host: str = "127.0.0.1"
    ) -> None:
        """Heartbeats are rare, and silent nodes are waited for, unless a test is about that."""
        self._directory = directory
        self._host = host
        self.root_pem, root_key = create_root()
        self._signer = Signer(self.root_pem, root_key)
        self._trust = Trust(self.root_pem)
        self._agents: list[Agent] = []
        self.store = Store()
        self.proposer = CountingProposer(self.store)
        self.managers: list[Peer] = []
        self.log_broker = LogBroker(self.store, answer_limit=answer_limit)
        self.node_calls = NodeCalls(self.store, answer_limit=answer_limit)
        self.dispatcher = Dispatcher(
            self.store, SystemClock(), Random(1), lambda: list(self.managers), lambda: self.root_pem, "m1"
        )
        self._period = period
        self._leading: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Swarm"]:
        """Serve, and lead."""
        self.address = free_address(self._host)
        # Before it leads: workers are told of managers the dispatcher looks at once a second only.
        self.managers = [Peer(node_id="m1", address=self.address)]
        server = node_server(self.identity("m1", MANAGER), lambda: self._trust, self.address)
        add_DispatcherServicer_to_server(self.dispatcher, server)
        add_LogsServicer_to_server(self.log_broker, server)
        add_LogBrokerServicer_to_server(self.log_broker, server)
        add_NodeCallsServicer_to_server(self.node_calls, server)
        add_TasksServicer_to_server(TaskCalls(self.store, self.node_calls), server)
        await server.start()
        cluster = Cluster(id="c1")
        cluster.spec.annotations.name = "default"
        cluster.spec.dispatcher.heartbeat_period.FromNanoseconds(int(self._period * 1e9))
        await self.create(cluster)
        await self.lead()
        try:
            yield self
        finally:
            await asyncio.gather(*(agent.close() for agent in self._agents))
            await self.lose()
            await server.stop(0)

    async def lead(self) -> None:
        """Become leader."""
        self._leading = [
            asyncio.create_task(loop.run()) for loop in (self.dispatcher, self.log_broker, self.node_calls)
        ]
        # They begin at their first step.
        await asyncio.sleep(0)

    async def lose(self) -> None:
        """Leadership goes."""
        leading, self._leading = self._leading, []
        for loop in leading:
            loop.cancel()
        for result in await asyncio.gather(*leading, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise AssertionError(f"a loop of the leader ended by itself: {result!r}")

    def identity(self, node_id: str, role: "NodeRole.ValueType" = WORKER) -> Identity:
        csr, key = create_request()
        folder = self._directory / node_id
        Identity.store(folder, self._signer.sign(csr, node_id, role, "c1"), key, self.root_pem)
        return Identity(folder)

    def agent(self, node_id: str) -> Agent:
        """A worker (again); ended with the swarm."""
        folder = self._directory / node_id
        agent = Agent(Identity(folder) if folder.exists() else self.identity(node_id), self.address)
        self._agents.append(agent)
        return agent

    async def node(self, node_id: str) -> Agent:
        """A node of the cluster, and its worker."""
        node = Node(id=node_id)
        node.description.data_path_address = f"10.1.0.{int(node_id[1:])}"
        await self.create(node)
        return self.agent(node_id)

    async def create(self, *things: StoreObject) -> None:
        def change(tx: Transaction) -> None:
            for thing in things:
                tx.create(thing)

        await self.store.update(change)

    async def change(self, thing_id: str, change: Callable[[Any], None], table: str = "tasks") -> None:
        """Write an object back, changed."""
        await self.change_all([thing_id], change, table)

    async def change_all(self, ids: Iterable[str], change: Callable[[Any], None], table: str = "tasks") -> None:
        def write(tx: Transaction) -> None:
            for id in ids:
                stored = getattr(tx, table).get(id)
                changed = type(stored)()
                changed.CopyFrom(stored)
                change(changed)
                tx.update(changed)

        await self.store.update(write)

    async def remove(self, id: str, table: str = "tasks") -> None:
        await self.store.update(lambda tx: tx.remove(getattr(tx, table).get(id)))

    def state(self, node_id: str) -> "NodeState.ValueType":
        node = self.store.nodes.get(node_id)
        assert node is not None
        return node.status.state

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the store fulfils a condition."""
        with self.store.watch() as changes:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await changes.next()


def task(
    id: str,
    node_id: str,
    network: str = "",
    *,
    state: "TaskState.ValueType" = ASSIGNED,
    service_id: str = "web",
    secrets: Iterable[str] = (),
    configs: Iterable[str] = (),
) -> Task:
    """A task as the scheduler leaves it."""
    made = Task(id=id, service_id=service_id, node_id=node_id, slot=1, desired_state=RUNNING)
    made.service_annotations.name = service_id
    made.status.state = state
    for secret in secrets:
        made.spec.container.secrets.add(secret_id=secret)
    for config in configs:
        made.spec.container.configs.add(config_id=config)
    if network:
        made.spec.networks.add(target=network)
        made.networks.add(network_id=network, addresses=[f"10.0.1.{2 + sum(id.encode()) % 200}/24"])
    return made


def service(id: str, network: str, address: str = "10.0.1.250/24") -> Service:
    made = Service(id=id)
    made.spec.annotations.name = id
    made.spec.task.networks.add(target=network, aliases=[f"{id}-alias"])
    made.endpoint.virtual_ips.add(network_id=network, address=address)
    return made


def network(id: str) -> Network:
    made = Network(id=id, vni=4096)
    made.spec.annotations.name = id
    return made


def set_state(state: "TaskState.ValueType") -> Callable[[Task], None]:
    return lambda task: setattr(task.status, "state", state)


def set_desired(state: "TaskState.ValueType") -> Callable[[Task], None]:
    return lambda task: setattr(task, "desired_state", state)
