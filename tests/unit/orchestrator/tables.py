"""Tables of a cluster for decisions, without a store: put things in, ask for a decision, carry it out."""

from random import Random

from flota.manager.clock import timestamp
from flota.manager.orchestrator.loop import decide
from flota.manager.orchestrator.slots import Decision, World
from flota.manager.store.schema import KINDS
from flota.manager.store.tables import Table
from flota.v1.objects_pb2 import Cluster, Config, Network, Node, Secret, Service, ServiceHistory, Task
from flota.v1.specs_pb2 import ServiceSpec
from flota.v1.types_pb2 import NodeAvailability, NodeState, TaskState

State = "TaskState.ValueType"
RUNNING, READY, SHUTDOWN = TaskState.TASK_STATE_RUNNING, TaskState.TASK_STATE_READY, TaskState.TASK_STATE_SHUTDOWN
COMPLETE, FAILED, REJECTED = (
    TaskState.TASK_STATE_COMPLETE, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED,
)  # fmt: skip
REMOVE = TaskState.TASK_STATE_REMOVE


class Tables:
    """A cluster at a moment."""

    def __init__(self) -> None:
        self.nodes: Table[Node] = Table(KINDS["node"])
        self.services: Table[Service] = Table(KINDS["service"])
        self.tasks: Table[Task] = Table(KINDS["task"])
        self.networks: Table[Network] = Table(KINDS["network"])
        self.clusters: Table[Cluster] = Table(KINDS["cluster"])
        self.secrets: Table[Secret] = Table(KINDS["secret"])
        self.configs: Table[Config] = Table(KINDS["config"])
        self.histories: Table[ServiceHistory] = Table(KINDS["service_history"])
        self.now = 1000.0
        self.version = 1
        self.running_since: dict[str, float] = {}
        self._rng = Random(1)

    def node(
        self,
        name: str,
        state: "NodeState.ValueType" = NodeState.NODE_STATE_READY,
        availability: "NodeAvailability.ValueType" = NodeAvailability.NODE_AVAILABILITY_ACTIVE,
        **labels: str,
    ) -> Node:
        """Put a node, or another state of it; its id is its name."""
        node = Node(id=name)
        node.description.hostname = name
        node.status.state, node.spec.availability = state, availability
        node.spec.annotations.labels.update(labels)
        self.nodes.put(node)
        return node

    def service(self, name: str = "web", replicas: int | None = None, spec: ServiceSpec | None = None) -> Service:
        """Put a service, or a changed spec of it; its id is its name."""
        made = ServiceSpec()
        made.CopyFrom(spec or ServiceSpec())
        made.annotations.name = name
        if replicas is not None:
            made.replicated.replicas = replicas
        old = self.services.get(name)
        service = Service(id=name, spec=made)
        if old is not None:
            service.previous_spec.CopyFrom(old.spec)
            service.previous_spec_version.CopyFrom(old.spec_version)
        self._stamp(service)
        service.spec_version.index = self.version
        self.services.put(service)
        return service

    def task(
        self,
        slot: int | str,
        state: "TaskState.ValueType" = RUNNING,
        desired: "TaskState.ValueType" = RUNNING,
        node: str = "n1",
        service: str = "web",
        age: float = 100.0,
        **fields: object,
    ) -> Task:
        """Put a task of the service's present spec; a slot that is text is a node (global services)."""
        of = self.services.get(service)
        assert of is not None
        task = Task(id=f"{service}.{slot}.{self.version}", service_id=service, desired_state=desired)
        task.spec.CopyFrom(of.spec.task)
        task.spec_version.CopyFrom(of.spec_version)
        task.endpoint.spec.CopyFrom(of.spec.endpoint)
        task.slot, task.node_id = (slot, node) if isinstance(slot, int) else (0, slot)
        task.job_iteration.CopyFrom(of.job_status.iteration)
        task.status.state = state
        task.status.applied_at.CopyFrom(timestamp(self.now - age / 2))
        for name, value in fields.items():
            setattr(task, name, value)
        self._stamp(task)
        task.meta.created_at.CopyFrom(timestamp(self.now - age))
        self.tasks.put(task)
        if state >= RUNNING:
            self.running_since[task.id] = self.now - age
        return task

    def turn(self, task: Task, state: "TaskState.ValueType") -> None:
        """A task gets into another state now."""
        changed = Task()
        changed.CopyFrom(self.get(task))
        changed.status.state = state
        changed.status.applied_at.CopyFrom(timestamp(self.now))
        self.tasks.put(changed)
        if state == RUNNING:
            self.running_since[task.id] = self.now

    def get(self, task: Task) -> Task:
        """The task as it is now."""
        found = self.tasks.get(task.id)
        assert found is not None
        return found

    def wanted(self, service: str = "web") -> list[Task]:
        """Tasks that are wanted, by slot."""
        tasks = [task for task in self.tasks.by("service", service) if task.desired_state <= COMPLETE]
        return sorted(tasks, key=lambda task: (task.slot, task.node_id, task.meta.created_at.ToNanoseconds()))

    def decide(self, service: str = "web") -> Decision:
        """Decide for a service, and carry it out."""
        decision = decide(service, World(self, self.now, self._rng, self.running_since))
        for group in decision.groups:
            for task in group.create:
                self._stamp(task)
                self.tasks.put(task)
            for thing in group.update:
                self._stamp(thing)
                if isinstance(thing, Task):
                    self.tasks.put(thing)
                elif isinstance(thing, Service):
                    self.services.put(thing)
        return decision

    def _stamp(self, thing: object) -> None:
        self.version += 1
        meta = thing.meta  # type: ignore[attr-defined]
        meta.version.index = self.version
        meta.updated_at.CopyFrom(timestamp(self.now))
        if not meta.HasField("created_at"):
            meta.created_at.CopyFrom(timestamp(self.now))
