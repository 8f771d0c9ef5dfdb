"""A lab's swarm as tests talk to it: blocking calls over the nodes' own sockets, cheap enough to poll with."""

from collections import Counter
from types import TracebackType

import grpc

from flota.node.lab import Lab
from flota.v1.control_pb2 import (
    ListFilters,
    ListNodesRequest,
    ListServicesRequest,
    ListTasksRequest,
    RemoveServiceRequest,
)
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import AgentStatusRequest
from flota.v1.local_pb2_grpc import AgentStub, LocalStub
from flota.v1.objects_pb2 import Node, Task
from flota.v1.types_pb2 import NODE_STATE_READY, TASK_STATE_RUNNING
from tests.cluster.waiting import wait_until

# Seconds that a call may take. Long: a machine with much to do is no error; a call without an end is one.
PATIENCE = 60.0


class Swarm:
    """Calls go to m1 unless `via` names another node."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> "Swarm":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            channel.close()

    def channel(self, node: str) -> grpc.Channel:
        """A channel to a node's socket."""
        if node not in self._channels:
            options = [
                ("grpc.default_authority", "localhost"),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_reconnect_backoff_ms", 200),
            ]
            self._channels[node] = grpc.insecure_channel(self.lab.nodes[node].host, options)
        return self._channels[node]

    def control(self, via: str = "m1") -> ControlStub:
        """What the cluster answers."""
        return ControlStub(self.channel(via))

    def local(self, node: str) -> LocalStub:
        """What a node's daemon answers."""
        return LocalStub(self.channel(node))

    def agent(self, node: str) -> AgentStub:
        """What a node's worker answers."""
        return AgentStub(self.channel(node))

    def nodes(self, via: str = "m1", limit: float = PATIENCE) -> dict[str, Node]:
        """The nodes by hostname."""
        answer = self.control(via).ListNodes(ListNodesRequest(), timeout=limit)
        return {node.description.hostname: node for node in answer.nodes}

    def ready(self, via: str = "m1") -> set[str]:
        """The nodes that are READY; none when there is no answer."""
        try:
            return {name for name, node in self.nodes(via).items() if node.status.state == NODE_STATE_READY}
        except grpc.RpcError:
            return set()

    def tasks(self, service: str, via: str = "m1") -> list[Task]:
        """The tasks of a service that ought to run."""
        request = ListTasksRequest(filters=ListFilters(desired_states=[TASK_STATE_RUNNING]))
        answer = self.control(via).ListTasks(request, timeout=PATIENCE)
        return [task for task in answer.tasks if task.service_annotations.name == service]

    def running(self, service: str, via: str = "m1") -> Counter[str]:
        """How many tasks of a service run on each node."""
        names = {node.id: name for name, node in self.nodes(via).items()}
        tasks = self.tasks(service, via)
        return Counter(names.get(task.node_id, "?") for task in tasks if task.status.state == TASK_STATE_RUNNING)

    def containers(self, node: str) -> int:
        """How many containers run on a node."""
        return self.agent(node).Status(AgentStatusRequest(), timeout=PATIENCE).containers_running

    def make_clean(self) -> None:
        """End partitions, boot dead nodes, remove all services, wait until all is well."""
        self.lab.heal()
        for node in self.lab.nodes.values():
            if not node.running:
                self.lab.start(node.name)
        wait_until(lambda: self.ready() == set(self.lab.nodes), "all nodes READY", 60)
        for service in self.control().ListServices(ListServicesRequest(), timeout=PATIENCE).services:
            self.control().RemoveService(RemoveServiceRequest(service_id=service.id), timeout=PATIENCE)
        wait_until(lambda: not any(map(self.containers, self.lab.nodes)), "all containers gone", 60)
