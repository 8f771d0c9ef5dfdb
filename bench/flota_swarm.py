"""flota's side: nodes of a lab, driven over their own gRPC sockets, as the peer is over its API sockets."""

import json
import os
import tempfile
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration

from bench.memory import together_mib
from bench.workload import IMAGE, IMPATIENCE
from flota.node.lab import Lab, busybox
from flota.v1.control_pb2 import (
    CreateServiceRequest,
    GetServiceRequest,
    ListFilters,
    ListNodesRequest,
    ListTasksRequest,
    RemoveServiceRequest,
    UpdateServiceRequest,
)
from flota.v1.control_pb2_grpc import ControlStub
from flota.v1.local_pb2 import AgentStatusRequest, InitRequest, JoinRequest
from flota.v1.local_pb2_grpc import AgentStub, LocalStub
from flota.v1.objects_pb2 import Service
from flota.v1.specs_pb2 import ContainerSpec, ReplicatedService, ServiceSpec, TaskSpec
from flota.v1.types_pb2 import TASK_STATE_RUNNING, Annotations, JoinTokens, UpdateConfig, UpdateStatus

_NAME = f"b{os.getpid()}"
_LIMIT = 20.0


class FlotaSwarm:
    """The workload's verbs on flota."""

    name = "flota"

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self._channels: list[grpc.Channel] = []
        self._tokens = JoinTokens()
        self._leader = ""
        # What does not change is asked for once.
        self._hosts: dict[str, str] = {}
        self._services: dict[str, str] = {}

    @property
    def lab(self) -> Lab:
        """The lab, once `up` has run."""
        assert self._lab is not None
        return self._lab

    def up(self, machines: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / f"{IMAGE}.tar"
            busybox.write_archive(archive, IMAGE)
            self._lab = Lab.up(_NAME, managers=3, workers=machines - 3, load=[archive], swarm=False)
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        self._nodes = list(self.lab.nodes.values())
        self._channels = [grpc.insecure_channel(node.host, options) for node in self._nodes]

    def init(self) -> None:
        request = InitRequest(advertise_address=self._nodes[0].address)
        answer = LocalStub(self._channels[0]).Init(request, timeout=_LIMIT)
        self._tokens, self._leader = answer.tokens, answer.address

    def join(self, index: int, manager: bool) -> None:
        request = JoinRequest(
            token=self._tokens.manager if manager else self._tokens.worker,
            addresses=[self._leader],
            advertise_address=self._nodes[index].address,
        )
        LocalStub(self._channels[index]).Join(request, timeout=_LIMIT)

    def create(self, name: str, replicas: int, via: int = 0) -> None:
        container = ContainerSpec(
            image=IMAGE, command=["/bin/sleep"], args=["100000"], stop_grace_period=Duration(seconds=0)
        )
        spec = ServiceSpec(
            annotations=Annotations(name=name),
            task=TaskSpec(container=container),
            replicated=ReplicatedService(replicas=replicas),
            update=UpdateConfig(parallelism=5, delay=Duration(), monitor=Duration()),
        )
        request = CreateServiceRequest(spec=spec)
        answer = self._control(via).CreateService(request, timeout=IMPATIENCE if via else _LIMIT)
        self._services[name] = answer.service.id

    def scale(self, name: str, replicas: int) -> None:
        service = self._service(name)
        service.spec.replicated.replicas = replicas
        self._update(service)

    def set_environment(self, name: str, value: str) -> None:
        service = self._service(name)
        service.spec.task.container.env[:] = [value]
        self._update(service)

    def update_completed(self, name: str) -> bool:
        return self._service(name).update_status.state == UpdateStatus.STATE_COMPLETED

    def remove(self, name: str) -> None:
        request = RemoveServiceRequest(service_id=self._services[name])
        self._control(0).RemoveService(request, timeout=_LIMIT)

    def running(self, name: str, via: int = 0) -> list[str]:
        control = self._control(via)
        if len(self._hosts) < len(self._nodes):
            nodes = control.ListNodes(ListNodesRequest(), timeout=_LIMIT).nodes
            self._hosts = {node.id: node.description.hostname for node in nodes}
        filters = ListFilters(service_ids=[self._services[name]], desired_states=[TASK_STATE_RUNNING])
        tasks = control.ListTasks(ListTasksRequest(filters=filters), timeout=_LIMIT).tasks
        return [self._hosts[task.node_id] for task in tasks if task.status.state == TASK_STATE_RUNNING]

    def containers(self) -> int:
        asked = AgentStatusRequest()
        return sum(
            AgentStub(channel).Status(asked, timeout=_LIMIT).containers_running
            for node, channel in zip(self._nodes, self._channels, strict=True)
            if node.running
        )

    def hostname(self, index: int) -> str:
        return self._nodes[index].name

    def kill(self, index: int) -> None:
        self.lab.kill(self._nodes[index].name)

    def answers(self, via: int) -> bool:
        try:
            return bool(self._control(via).ListNodes(ListNodesRequest(), timeout=IMPATIENCE).nodes)
        except grpc.RpcError:
            return False

    def rss_mib(self, index: int) -> float:
        return together_mib([self._memory(index)["flota.manager"]])

    def node_rss_mib(self, index: int) -> float:
        return together_mib(self._memory(index).values())

    def down(self) -> None:
        for channel in self._channels:
            channel.close()
        if self._lab is not None:
            self._lab.down()

    def _control(self, via: int) -> ControlStub:
        return ControlStub(self._channels[via])

    def _service(self, name: str) -> Service:
        request = GetServiceRequest(service_id=self._services[name])
        return self._control(0).GetService(request, timeout=_LIMIT).service

    def _update(self, service: Service) -> None:
        request = UpdateServiceRequest(service_id=service.id, version=service.meta.version, spec=service.spec)
        self._control(0).UpdateService(request, timeout=_LIMIT)

    def _memory(self, index: int) -> dict[str, str]:
        """/proc/PID/smaps of each of a node's flota processes."""
        script = "import json, pathlib; print(json.dumps([[(p / 'cmdline').read_text(), (p / 'smaps').read_text()]"
        script += " for p in pathlib.Path('/proc').glob('[0-9]*')]))"
        found: dict[str, str] = {}
        for words, maps in json.loads(self._nodes[index].exec(["python3", "-c", script]).stdout):
            name = words.partition("\0-m\0")[2].partition("\0")[0]
            if name in ("flota.node", "flota.manager", "flota.worker"):
                found[name] = maps
        return found
