"""Objects as a real cluster has them, for benchmarks of the store and of consensus."""

from flota.v1.objects_pb2 import Node, Service, Task
from flota.v1.types_pb2 import NodeRole, TaskState

_NETWORK = "netw" + "0" * 21


def node(number: int) -> Node:
    """A worker with a label."""
    made = Node(id=f"node{number:021d}", role=NodeRole.NODE_ROLE_WORKER)
    made.description.hostname = f"worker-{number}"
    made.description.engine.version = "0.1.0"
    made.description.resources.nano_cpus = 8_000_000_000
    made.description.resources.memory_bytes = 32 << 30
    made.spec.annotations.labels["zone"] = f"z{number % 3}"
    return made


def service(number: int) -> Service:
    """A web service with what its kind usually has: variables, a health check, a network."""
    made = Service(id=f"serv{number:021d}")
    made.spec.annotations.name = f"service-{number}"
    made.spec.annotations.labels["com.docker.stack.namespace"] = f"shop-{number % 100}"
    task = made.spec.task
    container = task.container
    container.image = "registry.example.com/team/web:1.27@sha256:" + "a" * 64
    container.labels["com.docker.stack.namespace"] = f"shop-{number % 100}"
    container.env.extend(["LOG_LEVEL=info", "PORT=8080", f"NAME={number}", "DATABASE=postgres://db.internal:5432/shop"])
    container.healthcheck.test.extend(["CMD", "curl", "-f", "http://localhost:8080/health"])
    container.healthcheck.interval.seconds = 10
    task.networks.add(target=_NETWORK)
    made.spec.replicated.replicas = 20
    return made


def task(number: int, services: int = 2500, nodes: int = 500) -> Task:
    """A running task of one of the services on one of the nodes."""
    of = number % services
    made = Task(id=f"task{number:021d}", service_id=f"serv{of:021d}", node_id=f"node{number % nodes:021d}")
    made.slot = number // services + 1
    owner = service(of)
    made.spec.CopyFrom(owner.spec.task)
    made.service_annotations.CopyFrom(owner.spec.annotations)
    made.networks.add(network_id=_NETWORK, addresses=[f"10.0.{number >> 8 & 255}.{number & 255}/16"])
    made.desired_state = TaskState.TASK_STATE_RUNNING
    made.status.state = TaskState.TASK_STATE_RUNNING
    made.status.message = "started"
    made.status.container.container_id = "c" * 64
    made.status.container.pid = 4242
    return made
