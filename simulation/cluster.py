"""A cluster on virtual time: the real store and the real leader's loops over pretended nodes.

The store's consensus is of one and costs nothing, so times are those of decisions and of what nodes take, not of
disks and networks. Nodes go and come as the dispatcher would write it: DOWN when heartbeats have been missing.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random

from flota.manager.dispatcher.presence import GRACE, SPACING
from flota.manager.orchestrator.leader import leader_loops
from flota.manager.store import LocalProposer, Store, Transaction
from flota.simulation.fleet import Fleet, Pace
from flota.simulation.virtual_time import VirtualClock
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Cluster as ClusterObject
from flota.v1.objects_pb2 import Network, Node, Service, Task
from flota.v1.service_defaults import with_defaults
from flota.v1.specs_pb2 import NetworkSpec, ServiceSpec
from flota.v1.types_pb2 import NodeState, TaskState

# Seconds between heartbeats by default; a big cluster's are further apart.
_PERIOD = 1.0
_AT_ONCE = 200


class SimulatedCluster:
    """`async with cluster.alive(): …` on a virtual loop."""

    def __init__(self, seed: int = 1, pace: Pace | None = None) -> None:
        self.rng = Random(seed)
        self.clock = VirtualClock()
        self.store = Store(self.clock)
        LocalProposer(self.store)
        self.fleet = Fleet(self.store, self.clock, self.rng, pace or Pace())

    @asynccontextmanager
    async def alive(self) -> AsyncIterator["SimulatedCluster"]:
        """The leader's loops and the workers run meanwhile."""
        cluster = ClusterObject(id=new_id(self.rng))
        cluster.spec.annotations.name = "default"
        ingress = Network(id=new_id(self.rng))
        ingress.spec.annotations.name, ingress.spec.ingress = "ingress", True
        ingress.spec.ipam.add(subnet="10.0.0.0/24")

        def begin(tx: Transaction) -> None:
            tx.create(cluster)
            tx.create(ingress)

        await self.store.update(begin)
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(loop.run()) for loop in leader_loops(self.store, self.clock, self.rng)]
            loops.append(group.create_task(self.fleet.run()))
            try:
                yield self
            finally:
                for loop in loops:
                    loop.cancel()

    async def add_nodes(
        self,
        count: int,
        cpus: float = 8,
        memory: int = 16 << 30,
        labels: Mapping[str, Sequence[str]] | None = None,
        generic: Mapping[str, int] | None = None,
    ) -> list[str]:
        """Nodes join; of each label's values they get one after the other. Gives back their ids."""
        nodes: list[Node] = []
        known = len(self.store.nodes)
        for number in range(known, known + count):
            node = Node(id=new_id(self.rng))
            node.description.hostname = f"node{number + 1}"
            node.description.platform.os, node.description.platform.architecture = "linux", "x86_64"
            node.description.resources.nano_cpus = int(cpus * 1e9)
            node.description.resources.memory_bytes = memory
            for kind, number_of in (generic or {}).items():
                node.description.resources.generic.add(kind=kind, count=number_of)
            node.status.state = NodeState.NODE_STATE_READY
            for key, values in (labels or {}).items():
                node.spec.annotations.labels[key] = values[number % len(values)]
            nodes.append(node)
        for start in range(0, count, _AT_ONCE):
            await self.store.update(partial(_create, things=nodes[start : start + _AT_ONCE]))
        return [node.id for node in nodes]

    async def create(self, specs: Iterable[ServiceSpec], networks: Iterable[NetworkSpec] = ()) -> None:
        """Create networks and services, as the control API would. Secrets and configs are left out."""
        for network in networks:
            made = Network(id=new_id(self.rng), spec=network)
            await self.store.update(lambda tx, made=made: tx.create(made))  # type: ignore[misc]
        for spec in specs:
            service = Service(id=new_id(self.rng), spec=with_defaults(spec))
            container = service.spec.task.container
            del container.secrets[:]
            del container.configs[:]
            for attachment in service.spec.task.networks:
                known = self.store.networks.by_name(attachment.target)
                attachment.target = known.id if known is not None else attachment.target
            service.spec_version.index = self.store.index + 1
            if spec.WhichOneof("mode") in ("replicated_job", "global_job"):
                service.job_status.iteration.index = 1
            await self.store.update(lambda tx, service=service: tx.create(service))  # type: ignore[misc]

    async def fail(self, node_ids: Iterable[str]) -> None:
        """Nodes die; managers notice when heartbeats have been missing."""
        ids = list(node_ids)
        self.fleet.dead |= set(ids)
        # On average half a period has passed since the last heartbeat when a node dies.
        await asyncio.sleep((GRACE - 0.5) * max(_PERIOD, SPACING * len(self.store.nodes)))
        await self._set_state(ids, NodeState.NODE_STATE_DOWN)

    async def revive(self, node_ids: Iterable[str]) -> None:
        """They are back, without their containers."""
        ids = list(node_ids)
        await self._set_state(ids, NodeState.NODE_STATE_READY)
        self.fleet.revive(ids)

    async def _set_state(self, ids: list[str], state: "NodeState.ValueType") -> None:
        def change(tx: Transaction, some: list[str]) -> None:
            for id in some:
                stored = tx.nodes.get(id)
                assert stored is not None
                node = Node()
                node.CopyFrom(stored)
                node.status.state = state
                tx.update(node)

        for start in range(0, len(ids), _AT_ONCE):
            await self.store.update(partial(change, some=ids[start : start + _AT_ONCE]))

    def wanted(self) -> list[Task]:
        """Tasks that ought to run."""
        limit = TaskState.TASK_STATE_COMPLETE
        return [task for task in self.store.tasks if task.desired_state <= limit and task.status.state <= limit]

    async def settle(self, calm: float = 20.0, limit: float = 3600.0) -> tuple[float, bool]:
        """Wait until nothing has changed for `calm` virtual seconds.

        Gives back when the last change was (seconds from the call), and whether it came to rest within `limit`.
        """
        loop = asyncio.get_running_loop()
        began = last = loop.time()
        with self.store.watch("task", "service") as changes:
            while True:
                try:
                    async with asyncio.timeout(calm):
                        await changes.next()
                        changes.drain()
                        last = loop.time()
                except TimeoutError:
                    return last - began, True
                if last - began > limit:
                    return last - began, False


def _create(tx: Transaction, things: list[Node]) -> None:
    for thing in things:
        tx.create(thing)
