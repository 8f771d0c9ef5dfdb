"""The worker process, put together: images, runtime, overlay, tasks, the session, and the socket of this machine.

    start    images, runtime, socket; while the machine is in no cluster the containers without a service, on networks
             of this node (alone), and what tasks of a former member left is taken away
    join     overlay, journal, tasks (containers of earlier workers are taken up), session

Stopping goes the other way and touches no container.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

import structlog

from flota.overlay import Network
from flota.rpc.errors import FailedPrecondition
from flota.rpc.identity import Identity
from flota.rpc.servers import local_server
from flota.v1 import types_pb2 as types
from flota.v1.containers_pb2_grpc import add_ContainersServicer_to_server
from flota.v1.dispatcher_pb2 import AttachNetworkRequest, SessionMessage
from flota.v1.local_pb2 import AgentStatusResponse, LocalContainer
from flota.v1.local_pb2_grpc import add_AgentServicer_to_server
from flota.v1.objects_pb2 import Task
from flota.v1.process_pb2 import WorkerConfig
from flota.v1.tasks_pb2_grpc import add_TasksServicer_to_server
from flota.v1.types_pb2 import TaskStatus
from flota.worker import metrics
from flota.worker.agent.description import Description, describe
from flota.worker.agent.gauge import Gauge
from flota.worker.agent.managers import Managers
from flota.worker.agent.membership import Membership, Words
from flota.worker.agent.reporter import Reporter
from flota.worker.agent.servicer import TaskCalls
from flota.worker.calls.answering import Answering
from flota.worker.calls.checks import NetworkChecker
from flota.worker.calls.tasks import TaskServicer
from flota.worker.containers.bridges import Bridges
from flota.worker.containers.calls import ContainerCalls
from flota.worker.containers.containers import Containers
from flota.worker.containers.everything import Everything
from flota.worker.containers.history import History
from flota.worker.containers.places import Places
from flota.worker.images.calls import ImageCalls
from flota.worker.images.collection import Rules
from flota.worker.images.store import ImageStore
from flota.worker.logs import LogPublisher, TaskLog
from flota.worker.logs.changes import Changes
from flota.worker.runtime.container import Phase
from flota.worker.runtime.runtime import Runtime
from flota.worker.tasks.journal import Journal
from flota.worker.tasks.life import is_over
from flota.worker.tasks.parts import Parts
from flota.worker.tasks.payloads import Payloads
from flota.worker.tasks.tasks import Report, Tasks
from flota.worker.tasks.template import NodeFacts
from flota.worker.volume_calls import VolumeCalls, described
from flota.worker.volumes import Volumes

_log = structlog.get_logger("worker")
# Calls that are answered when the process is told to stop get this long.
_GRACE = 0.5
_VXLAN_PORT = 4789
# For a machine in no cluster, which has nobody to reach.
_NOWHERE = "127.0.0.1"


class Agent(ImageCalls, VolumeCalls, TaskCalls):
    """The whole of the Agent service."""

    def __init__(self, worker: "Worker", image_store: ImageStore, volumes: Volumes) -> None:
        super().__init__(worker)
        self.image_store = image_store
        self.volumes = volumes


class Worker:
    """One worker: `start` it, then `join` when the machine is a member, `run`, and close the stack."""

    def __init__(self, config: WorkerConfig) -> None:
        """Raises ValueError for a configuration that makes no sense."""
        self.config = config
        state, run = Path(config.state_directory), Path(config.run_directory)
        self._state, self._run = state, run
        rules = Rules(config.image_max_age_seconds, config.image_disk_high, config.image_disk_low)
        self._images = ImageStore(state / "images", insecure_registries=config.insecure_registries, rules=rules)
        self._runtime = Runtime(
            run_directory=run,
            state_directory=state,
            layers_directory=self._images.layers_directory,
            cgroup_parent=config.cgroup_parent or "/flota",
        )
        self._words = Words()
        self._history = History()
        self._everything = Everything(lambda: self._tasks, lambda: self._containers)
        self._identity: Identity | None = None
        self._tasks: Tasks | None = None
        self._containers: Containers | None = None
        self._network: Network | None = None
        self._membership: Membership | None = None
        # What looks after containers while the machine is in no cluster.
        self._alone = AsyncExitStack()
        self._description = describe(config, None)

    async def start(self, stack: AsyncExitStack) -> None:
        """Serve this machine; `stack` ends it. Raises RuntimeUnavailable, OSError, ValueError (damaged images)."""
        await self._images.start()
        stack.push_async_callback(self._images.stop)
        await self._runtime.start()
        stack.push_async_callback(self._runtime.stop)
        await stack.enter_async_context(self._alone)
        if not self.config.identity_directory:
            await self._be_alone(self._alone)
        server = local_server(Path(self.config.socket))
        agent = Agent(self, self._images, self._runtime.volumes)
        add_AgentServicer_to_server(agent, server)
        people = TaskServicer(
            self._runtime, lambda: self._tasks, lambda: self.config.node_id, self._history.told_of_task
        )
        add_TasksServicer_to_server(people, server)
        everything = self._everything
        here = TaskServicer(self._runtime, lambda: everything, lambda: self.config.node_id, self._history.told_of_task)
        changes = Changes()
        await changes.start()
        stack.push_async_callback(changes.stop)
        calls = ContainerCalls(self._runtime, self._images, everything, here, changes, self._history)
        add_ContainersServicer_to_server(calls, server)
        self._answering = Answering(
            {
                "flota.v1.Agent": agent,
                "flota.v1.Tasks": people,
                "flota.v1.NetworkChecks": NetworkChecker(lambda: self._network),
            }
        )
        await server.start()
        stack.push_async_callback(people.stop)
        stack.push_async_callback(here.stop)
        stack.push_async_callback(server.stop, _GRACE)

    async def join(self, config: WorkerConfig, stack: AsyncExitStack) -> None:
        """Be a member of a cluster from now on; `stack` ends it, before what `start` began.

        Raises ValueError, OSError when the identity cannot be read.
        """
        # Who waits for one is then told by whoever looks after it next.
        self._containers = None
        await self._alone.aclose()
        self.config = config
        self._identity = identity = Identity(Path(config.identity_directory))
        network = Network(
            self._run,
            config.data_path_address,
            config.data_path_port or _VXLAN_PORT,
            config.node_id or identity.node_id,
        )
        self._network = network
        encryption = network.encryption
        gauge = Gauge(self._state, lambda: self._tasks.running if self._tasks is not None else 0)
        gauge.look()
        description = Description(
            lambda: describe(
                config, identity, self._volumes(), encryption.told_keys, encryption.implementation, gauge.pressures
            ),
            gauge,
        )
        encryption.keys_changed = description.refresh_soon
        self._runtime.volumes.changed = description.refresh_soon
        self._description = description.current
        payloads, reporter = Payloads(), Reporter()
        logs = LogPublisher(self._logs)
        await logs.start()
        stack.push_async_callback(logs.stop)

        def report(task_id: str, status: TaskStatus) -> None:
            reporter.put(task_id, status)
            logs.changed()
            if self._tasks is not None and (task := self._tasks.get(task_id)) is not None:
                self._history.observed(task, status)
            self._everything.changed()

        places = Places(self._attach_network, report)
        self._tasks = tasks = await self._take_up(network, payloads, places, report, stack)
        stack.callback(metrics.follow(tasks.by_state))
        self._membership = Membership(
            identity,
            Managers(config.managers, SystemRandom(), config.join_addresses),
            description,
            (network, payloads, places, tasks),
            reporter,
            self._words,
            (logs.run, self._answering.run),
            network.in_force,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep a session, if this is a member, until `stopping`. A defect in it is raised."""
        async with asyncio.TaskGroup() as group:
            session = group.create_task(self._membership.run()) if self._membership is not None else None
            await stopping.wait()
            if session is not None:
                session.cancel()

    async def _take_up(
        self, network: Network, payloads: Payloads, places: Places, report: Report, stack: AsyncExitStack
    ) -> Tasks:
        """The tasks that earlier workers left, on a network that serves them again."""
        await network.start()
        stack.push_async_callback(network.stop)
        journal = Journal(self._state / "worker" / "journal")
        remembered = journal.open()
        stack.callback(journal.close)
        containers = Containers(self._state / "containers", self.config.node_id, self._history)
        bridges = Bridges(self._state / "networks", network, places, self.config.node_id)
        bridges.start()
        found = await self._runtime.adopt(containers.ids)
        await network.adopt({task_id for task_id, one in found.items() if one.phase != Phase.ENDED})
        bridges.adopted()
        facts = NodeFacts(self.config.node_id, self._description.hostname, self._description.platform)
        parts = Parts(self._images, self._runtime, bridges, payloads, facts, self._credentials)
        tasks = Tasks(parts, journal, report, self._forgotten)
        stack.push_async_callback(tasks.stop)
        for task_id, known in remembered.items():
            if known.status is not None:
                self._history.known(task_id, known.status)
        tasks.start(remembered, {id: one for id, one in found.items() if id not in containers.ids})
        stack.push_async_callback(containers.stop)
        containers.start(replace(parts, again=True), bridges, found)
        self._containers = containers
        self._everything.changed()
        if found:
            _log.info("took up what was here", containers=len(found), tasks=len(remembered))
        return tasks

    async def _be_alone(self, stack: AsyncExitStack) -> None:
        """The machine is in no cluster (any longer): take away what tasks left, and look after the other containers."""
        # The node gets no rules before there is a container.
        network = Network(self._run, _NOWHERE, _VXLAN_PORT, "", linger=0.0)
        report = Reporter().put
        places = Places(self._attach_network, report)
        tasks = await self._take_up(network, Payloads(), places, report, stack)
        # No managers will ever say more: networks of this node are all there is.
        network.apply([], complete=True)
        if count := await tasks.remove_all(kill=True):
            _log.info("removed the tasks of a cluster that this machine has left", tasks=count)
        if self._containers is not None:
            await self._containers.end_those_of_the_swarm()
        await network.leave()

    def _forgotten(self, task: Task) -> None:
        self._history.forgotten(task)
        self._everything.changed()

    async def _credentials(self, task_id: str) -> str:
        return await self._membership.registry_auth(task_id) if self._membership is not None else ""

    async def _attach_network(self, request: AttachNetworkRequest) -> str:
        if self._membership is None:
            raise FailedPrecondition("this node is in no swarm, and on none of its networks")
        return await self._membership.attach_network(request)

    def _volumes(self) -> list[types.Volume]:
        return [described(volume) for volume in self._runtime.volumes.all()]

    def _logs(self) -> Iterator[TaskLog]:
        """Where this node's tasks have their logs."""
        for task in self._tasks.all() if self._tasks is not None else ():
            status = self._tasks.status(task.id) if self._tasks is not None else None
            ended = status is not None and is_over(status.state)
            yield TaskLog(task.id, task.service_id, self._runtime.log_file(task.id), ended)

    # What the Agent service answers.

    def status(self) -> AgentStatusResponse:
        """How this worker is."""
        membership = self._membership
        return AgentStatusResponse(
            description=self._description,
            runtime=self._runtime.name,
            runtime_version=self._runtime.version,
            containers_running=self._tasks.running if self._tasks is not None else 0,
            images=len(self._images),
            session=membership is not None and membership.connected,
            session_error=membership.error if membership is not None else "",
            removed=membership is not None and membership.removed,
        )

    def words(self) -> AsyncIterator[SessionMessage]:
        """What managers say."""
        return self._words.all()

    def tasks(self) -> list[Task]:
        """This machine's tasks with what is observed of them, without credentials."""
        shown = []
        for task in self._tasks.all() if self._tasks is not None else ():
            copy = Task()
            copy.CopyFrom(task)
            copy.spec.container.registry_auth = ""
            if (status := self._tasks.status(task.id) if self._tasks is not None else None) is not None:
                copy.status.CopyFrom(status)
            shown.append(copy)
        return shown

    def containers(self) -> dict[str, LocalContainer]:
        """What is known here of the containers of `tasks`, by the task's id."""
        if self._tasks is None:
            return {}
        return {
            task.id: LocalContainer(
                image_id=self._tasks.image_id(task.id),
                log_path=str(self._runtime.log_file(task.id)),
                health=self._tasks.health(task.id),
                paused=self._runtime.is_paused(task.id),
            )
            for task in self._tasks.all()
        }

    async def remove_all(self, kill: bool) -> int:
        """Leave the cluster and end all tasks."""
        if self._membership is not None:
            await self._membership.leave()
        return await self._tasks.remove_all(kill) if self._tasks is not None else 0
