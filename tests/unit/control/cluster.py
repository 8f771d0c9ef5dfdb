"""A cluster without machines: the real store with a consensus of one, the real control API, and a hand for the rest.

What workers, allocator and scheduler would have stored, tests store here themselves.
"""

import asyncio
from random import Random

from flota.manager.bootstrap import create_cluster, first_identity
from flota.manager.clock import Clock, SystemClock, timestamp
from flota.manager.control.happenings import told
from flota.manager.control.servicer import Control
from flota.manager.raft.interface import MemberStatus
from flota.manager.store import LocalProposer, Store, Transaction
from flota.manager.store.schema import StoreObject
from flota.v1.ids import new_id
from flota.v1.local_pb2 import InitRequest
from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.types_pb2 import NodeRole, NodeState, PortConfig, TaskState

READY, DOWN = NodeState.NODE_STATE_READY, NodeState.NODE_STATE_DOWN
WORKER, MANAGER = NodeRole.NODE_ROLE_WORKER, NodeRole.NODE_ROLE_MANAGER
RUNNING = TaskState.TASK_STATE_RUNNING


class HeldProposer:
    """A consensus of one that takes its time: entries wait, in order, until they are let go."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.index
        self._more = asyncio.Condition()
        self._waiting: list[tuple[bytes, asyncio.Future[object]]] = []
        store.use(self)

    async def propose(self, data: bytes) -> object:
        """Wait for `let_go`, then apply."""
        applied: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        async with self._more:
            self._waiting.append((data, applied))
            self._more.notify_all()
        return await applied

    async def until_waiting(self, count: int) -> None:
        """Return when so many entries wait."""
        async with self._more:
            await self._more.wait_for(lambda: len(self._waiting) >= count)

    def let_go(self) -> None:
        """Apply all that wait."""
        waiting, self._waiting = self._waiting, []
        for data, applied in waiting:
            self._index += 1
            applied.set_result(self._store.apply(self._index, data))


class Cluster:
    """Store, control API, and what Raft would say of its members."""

    def __init__(self, seed: int = 1, clock: Clock | None = None) -> None:
        self.random = Random(seed)
        self.clock: Clock = clock or SystemClock()
        self.store = Store(self.clock, told)
        LocalProposer(self.store)
        self.members: list[MemberStatus] = []
        self.own_id = ""
        self.control = Control(self.store, self.clock, self.random, lambda: self.members)

    async def begin(self, hostname: str = "m1") -> str:
        """Begin the swarm as `swarm init` does; gives back the first node's id."""
        identity, root_key = first_identity()
        self.own_id = identity.node_id

        def change(tx: Transaction) -> None:
            create_cluster(
                tx, InitRequest(), identity.cluster_id, identity.node_id, hostname, identity.certificate_pem,
                identity.root_pem, root_key,
            )  # fmt: skip

        await self.store.update(change)
        node = Node.FromString(self.node(hostname).SerializeToString())
        describe(node, hostname, f"10.0.0.{len(self.store.nodes)}")
        node.manager_status.raft_id = 1
        await self.put(node)
        self.members = [MemberStatus(1, node.id, "10.0.0.1:2377", True, True, True)]
        return node.id

    def node(self, hostname: str) -> Node:
        """The node of that name."""
        return next(node for node in self.store.nodes if node.description.hostname == hostname)

    def service(self, name: str) -> Service:
        """The service of that name."""
        found = self.store.services.by_name(name)
        assert found is not None
        return found

    async def add_node(
        self, hostname: str, role: "NodeRole.ValueType" = WORKER, state: "NodeState.ValueType" = READY
    ) -> Node:
        """A node that has joined."""
        number = len(self.store.nodes) + 1
        node = Node(id=new_id(self.random), role=role)
        node.spec.desired_role = role
        describe(node, hostname, f"10.0.0.{number}")
        node.status.state = state
        if role == MANAGER:
            node.manager_status.raft_id = number
            self.members.append(MemberStatus(number, node.id, f"10.0.0.{number}:2377", True, False, state == READY))
        await self.put(node)
        return node

    async def add_task(
        self,
        service: str,
        slot: int,
        node: str = "",
        state: "TaskState.ValueType" = RUNNING,
        desired: "TaskState.ValueType" = RUNNING,
        *,
        error: str = "",
        age: float = 5.0,
        ports: list[PortConfig] | None = None,
    ) -> Task:
        """A task of a service, as orchestrator, scheduler and worker would have left it."""
        owner = self.service(service)
        task = Task(id=new_id(self.random), service_id=owner.id, slot=slot, desired_state=desired)
        task.spec.CopyFrom(owner.spec.task)
        task.spec_version.CopyFrom(owner.spec_version)
        task.job_iteration.CopyFrom(owner.job_status.iteration)
        task.service_annotations.CopyFrom(owner.spec.annotations)
        task.node_id = self.node(node).id if node else ""
        task.status.state = state
        task.status.error = error
        task.status.timestamp.CopyFrom(timestamp(self.clock.now() - age))
        task.status.ports.ports.extend(ports or ())
        await self.put(task)
        return task

    async def put(self, thing: StoreObject) -> None:
        """Store an object, new or changed."""
        table = self.store.nodes if isinstance(thing, Node) else None

        def change(tx: Transaction) -> None:
            known = thing.meta.version.index or (table is not None and table.get(thing.id) is not None)
            tx.update(thing) if known else tx.create(thing)

        await self.store.update(change)


def describe(node: Node, hostname: str, address: str) -> None:
    """What a worker tells of its machine."""
    node.description.hostname = hostname
    node.description.platform.architecture, node.description.platform.os = "amd64", "linux"
    node.description.resources.nano_cpus, node.description.resources.memory_bytes = 2_000_000_000, 4 << 30
    node.description.engine.version = "0.1.0"
    node.status.state, node.status.address = READY, address
