"""A cluster without containers: the real store and leader loops, and agents that drive tasks as workers would.

Agents are seeded: how long each step takes, what fails, when a node dies or comes back. After every committed
transaction the rules that must always hold are checked (rules.py).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from random import Random

from flota.manager.clock import timestamp
from flota.manager.orchestrator.leader import LeaderLoop, leader_loops
from flota.manager.store import Store, Transaction
from flota.v1.ids import new_id
from flota.v1.objects_pb2 import Cluster, Network, Node, Service, Task
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.task_states import is_terminal
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState, UpdateStatus
from tests.simulation.orchestration.ledger import BY_LEADER, Ledger
from tests.simulation.orchestration.rules import Rules
from tests.simulation.virtual_time import VirtualClock

RUNNING = TaskState.TASK_STATE_RUNNING
_STEPS = [
    TaskState.TASK_STATE_ACCEPTED,
    TaskState.TASK_STATE_PREPARING,
    TaskState.TASK_STATE_READY,
    TaskState.TASK_STATE_STARTING,
    TaskState.TASK_STATE_RUNNING,
]


@dataclass
class Faults:
    """How the world misbehaves; all chances are per step or per second of running."""

    step: tuple[float, float] = (0.01, 0.3)
    stop: tuple[float, float] = (0.01, 2.0)
    # A step fails.
    refuses: float = 0.0
    # Mean seconds until a running task crashes; 0 = never.
    crash_after: float = 0.0


class Agent:
    """One worker: what it was told of its tasks, and what they do."""

    def __init__(self, world: "World", node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.alive = True
        # Tasks whose container exists and runs on this node, whatever managers think.
        self.running: set[str] = set()
        self._driving: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Drives this node's tasks until cancelled."""
        store = self.world.store
        async with asyncio.TaskGroup() as group:
            with store.watch("task") as changes:
                for task in store.tasks.by("node", self.node_id):
                    self._drive(group, task.id)
                async for batch in changes:
                    for event in batch:
                        if isinstance(event.object, Task) and event.object.node_id == self.node_id:
                            self._drive(group, event.object.id)

    def _drive(self, group: asyncio.TaskGroup, task_id: str) -> None:
        if task_id in self._driving:
            return
        task = self.world.store.tasks.get(task_id)
        if task is None or is_terminal(task) or task.status.state < TaskState.TASK_STATE_ASSIGNED:
            return
        driver = group.create_task(self._life(task_id))
        self._driving[task_id] = driver
        driver.add_done_callback(lambda _: self._driving.pop(task_id, None))

    async def _life(self, task_id: str) -> None:
        """One step of the task after the other, as long as the node lives and the task is wanted further on."""
        faults, rng = self.world.faults, self.world.rng
        while True:
            await self._back()
            task = self.world.store.tasks.get(task_id)
            if task is None:
                self.running.discard(task_id)
                return
            if is_terminal(task) and task.status.state != TaskState.TASK_STATE_REJECTED:
                self.running.discard(task_id)
                return
            if task.desired_state > TaskState.TASK_STATE_COMPLETE:
                if task_id in self.running:
                    await self._pause(rng.uniform(*faults.stop))
                    if not self.alive:
                        continue
                self.running.discard(task_id)
                await self.report(task_id, TaskState.TASK_STATE_SHUTDOWN)
                return
            if is_terminal(task):
                # Rejected by managers while it still runs: it is stopped once that is wanted.
                await self._change()
                continue
            state = task.status.state
            if state >= RUNNING:
                if await self._runs(task_id):
                    return
                continue
            if state == TaskState.TASK_STATE_READY and task.desired_state <= TaskState.TASK_STATE_READY:
                await self._change()
                continue
            await self._pause(rng.uniform(*faults.step))
            if not self.alive:
                continue
            if rng.random() < faults.refuses:
                early = state < TaskState.TASK_STATE_READY
                await self.report(
                    task_id, TaskState.TASK_STATE_REJECTED if early else TaskState.TASK_STATE_FAILED, "refused"
                )
                return
            reached = next(step for step in _STEPS if step > state)
            if reached == RUNNING:
                current = self.world.store.tasks.get(task_id)
                if current is None or current.desired_state > TaskState.TASK_STATE_COMPLETE:
                    continue
                self.running.add(task_id)
            await self.report(task_id, reached)

    async def _runs(self, task_id: str) -> bool:
        """Wait while it runs; True when it ended by itself."""
        ends = self.world.lifetime(task_id)
        try:
            async with asyncio.timeout(ends):
                await self._change()
        except TimeoutError:
            if not self.alive:
                return False
            self.running.discard(task_id)
            await self.report(task_id, self.world.end_of(task_id), "ended")
            return True
        return False

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _back(self) -> None:
        while not self.alive:
            await self._change()

    async def _change(self) -> None:
        with self.world.store.watch("task", "node") as changes:
            await changes.next()

    async def report(self, task_id: str, state: "TaskState.ValueType", error: str = "") -> None:
        """What the dispatcher does with a status: only news are taken."""

        def change(tx: Transaction) -> None:
            stored = tx.tasks.get(task_id)
            if stored is None or stored.status.state >= state or not self.alive:
                return
            reported = Task()
            reported.CopyFrom(stored)
            reported.status.state = state
            reported.status.error = error
            now = timestamp(self.world.clock.now())
            reported.status.timestamp.CopyFrom(now)
            reported.status.applied_at.CopyFrom(now)
            tx.update(reported)

        await self.world.store.update(change)


@dataclass
class World:
    """Everything of one simulation."""

    seed: int
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.clock = VirtualClock()
        self.store = Store(self.clock)
        self.agents: dict[str, Agent] = {}
        self.rules = Rules(self)
        self.ledger = Ledger(self.store, Random(self.seed + 1), self.rules.check)
        # Since when the leader leads (virtual seconds); None = there is none.
        self.leader_since: float | None = None
        self.crashing: Callable[[Task], float | None] = self._by_chance

    # What tasks do.

    def _by_chance(self, task: Task) -> float | None:
        mean = self.faults.crash_after
        return self.rng.expovariate(1 / mean) if mean else None

    def lifetime(self, task_id: str) -> float | None:
        """Seconds the task will run, or None for ever."""
        task = self.store.tasks.get(task_id)
        return None if task is None else self.crashing(task)

    def end_of(self, task_id: str) -> "TaskState.ValueType":
        """How a task ends: jobs complete."""
        task = self.store.tasks.get(task_id)
        job = task is not None and task.desired_state == TaskState.TASK_STATE_COMPLETE
        return TaskState.TASK_STATE_COMPLETE if job else TaskState.TASK_STATE_FAILED

    # Life of the cluster.

    @asynccontextmanager
    async def alive(self, nodes: int = 3, cpus: int = 64, memory: int = 1 << 40) -> AsyncIterator["World"]:
        """A cluster with a leader and so many nodes, checked at every step, taken down at the end."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._loops: list[asyncio.Task[None]] = []
            ledger = group.create_task(self.ledger.run(), name="ledger")
            await self.store.update(lambda tx: tx.create(self._cluster()))
            self.network = Network(id=new_id(self.rng))
            self.network.spec.annotations.name = "flota"
            await self.store.update(lambda tx: tx.create(self.network))
            ingress = Network(id=new_id(self.rng))
            ingress.spec.annotations.name = "ingress"
            ingress.spec.ingress = True
            ingress.spec.ipam.add(subnet="10.200.0.0/16")
            await self.store.update(lambda tx: tx.create(ingress))
            for _ in range(nodes):
                await self.add_node(cpus=cpus, memory=memory)
            self.start_leader()
            try:
                yield self
            finally:
                self.stop_leader()
                ledger.cancel()
                for agent in self._agent_tasks:
                    agent.cancel()

    def start_leader(self) -> None:
        """A manager becomes leader: fresh loops over the store as it is."""
        context = copy_context()
        context.run(BY_LEADER.set, True)
        self.leader_since = self.clock.now()
        self._loops = [
            self._group.create_task(loop.run(), name=loop.name, context=context)
            for loop in leader_loops(self.store, self.clock, self.rng)
        ]

    def stop_leader(self) -> None:
        """Leadership is lost, wherever the loops are."""
        self.leader_since = None
        for loop in self._loops:
            loop.cancel()

    @property
    def loops(self) -> list[LeaderLoop]:
        return leader_loops(self.store, self.clock, self.rng)

    def _cluster(self) -> Cluster:
        self._agent_tasks: list[asyncio.Task[None]] = []
        cluster = Cluster(id=new_id(self.rng))
        cluster.spec.annotations.name = "default"
        return cluster

    async def add_node(self, labels: dict[str, str] | None = None, cpus: int = 64, memory: int = 1 << 40) -> str:
        """A node joins and is ready."""
        node = Node(id=new_id(self.rng))
        node.spec.annotations.labels.update(labels or {})
        node.status.state = NodeState.NODE_STATE_READY
        node.description.hostname = f"node{len(self.agents) + 1}"
        node.description.platform.os = "linux"
        node.description.platform.architecture = "x86_64"
        node.description.resources.nano_cpus = cpus * 10**9
        node.description.resources.memory_bytes = memory
        node.description.resources.generic.add(kind="gpu", count=2)
        await self.store.update(lambda tx: tx.create(node))
        agent = Agent(self, node.id)
        self.agents[node.id] = agent
        self._agent_tasks.append(self._group.create_task(agent.run(), name=f"agent {node.description.hostname}"))
        return node.id

    async def change_node(self, node_id: str, change: Callable[[Node], None]) -> None:
        """Change a node as control API or dispatcher would."""

        def write(tx: Transaction) -> None:
            node = Node()
            stored = tx.nodes.get(node_id)
            assert stored is not None
            node.CopyFrom(stored)
            change(node)
            tx.update(node)

        await self.store.update(write)

    async def kill(self, node_id: str) -> None:
        """The node dies with its containers, and managers have noticed."""
        agent = self.agents[node_id]
        agent.alive = False
        agent.running.clear()
        await self.change_node(node_id, lambda node: setattr(node.status, "state", NodeState.NODE_STATE_DOWN))

    async def revive(self, node_id: str) -> None:
        """The node is back, without its containers: its worker says so of every task it still had."""
        agent = self.agents[node_id]
        agent.alive = True
        await self.change_node(node_id, lambda node: setattr(node.status, "state", NodeState.NODE_STATE_READY))
        for task in self.store.tasks.by("node", node_id):
            if TaskState.TASK_STATE_ASSIGNED < task.status.state <= RUNNING and task.id not in agent.running:
                await agent.report(task.id, TaskState.TASK_STATE_FAILED, "lost when its node died")

    async def set_availability(self, node_id: str, to: "NodeAvailability.ValueType") -> None:
        """Activate, pause or drain a node."""
        await self.change_node(node_id, lambda node: setattr(node.spec, "availability", to))

    # Services, as the control API writes them.

    async def create(self, spec: ServiceSpec) -> str:
        """Create a service; gives back its id."""
        service = Service(id=new_id(self.rng), spec=spec)
        if spec.WhichOneof("mode") in ("replicated_job", "global_job"):
            service.job_status.iteration.index = 0
        service.spec_version.index = self.store.index + 1
        await self.store.update(lambda tx: tx.create(service))
        return service.id

    async def change(self, service_id: str, change: Callable[[Service], None]) -> None:
        """Write a service back, changed."""

        def write(tx: Transaction) -> None:
            stored = tx.services.get(service_id)
            assert stored is not None
            changed = Service()
            changed.CopyFrom(stored)
            change(changed)
            tx.update(changed)

        await self.store.update(write)

    async def update(self, service_id: str, change: Callable[[ServiceSpec], None]) -> None:
        """A new spec: the old one becomes the previous, the update status is cleared."""

        def new_spec(service: Service) -> None:
            service.previous_spec.CopyFrom(service.spec)
            service.previous_spec_version.CopyFrom(service.spec_version)
            change(service.spec)
            service.spec_version.index = self.store.index + 1
            service.ClearField("update_status")
            if service.HasField("job_status"):
                service.job_status.iteration.index += 1

        await self.change(service_id, new_spec)

    async def roll_back(self, service_id: str) -> None:
        """`service rollback`."""

        def back(service: Service) -> None:
            spec, version = ServiceSpec(), service.spec_version.index
            spec.CopyFrom(service.spec)
            service.spec.CopyFrom(service.previous_spec)
            service.spec_version.CopyFrom(service.previous_spec_version)
            service.previous_spec.CopyFrom(spec)
            service.previous_spec_version.index = version
            service.update_status.Clear()
            service.update_status.state = UpdateStatus.STATE_ROLLBACK_STARTED
            service.update_status.message = "manually requested rollback"
            service.update_status.started_at.CopyFrom(timestamp(self.clock.now()))

        await self.change(service_id, back)

    async def remove(self, service_id: str) -> None:
        """Remove a service."""

        def gone(tx: Transaction) -> None:
            service = tx.services.get(service_id)
            assert service is not None
            tx.remove(service)

        await self.store.update(gone)

    # Looking and waiting.

    def tasks(self, service_id: str) -> list[Task]:
        """All kept tasks of a service."""
        return self.store.tasks.by("service", service_id)

    def up(self, service_id: str) -> list[Task]:
        """Tasks that are wanted and observed running."""
        return [t for t in self.tasks(service_id) if t.status.state == RUNNING and t.desired_state == RUNNING]

    async def until(self, what: Callable[[], bool], within: float = 300.0) -> None:
        """Wait until a condition holds; virtual seconds."""
        with self.store.watch() as changes:
            try:
                async with asyncio.timeout(within):
                    while not what():
                        await changes.next()
                        changes.drain()
            except TimeoutError:
                raise AssertionError(f"not within {within} s:\n{self.picture()}") from None

    def picture(self) -> str:
        """All tasks, for people who look at a failed run."""
        lines = [
            f"{t.service_annotations.name} {t.slot or t.node_id[:5]} {t.id[:5]} v{t.spec_version.index} "
            f"{TaskState.Name(t.desired_state)[11:]}/{TaskState.Name(t.status.state)[11:]} on {t.node_id[:5]} "
            f"{t.status.message} {t.status.error}"
            for t in sorted(self.store.tasks, key=lambda t: (t.service_id, t.slot, t.meta.created_at.ToNanoseconds()))
        ]
        states = [f"{s.spec.annotations.name}: {s.update_status.message}" for s in self.store.services]
        return "\n".join(states + lines)
