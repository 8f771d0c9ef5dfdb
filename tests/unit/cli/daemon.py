"""A daemon without machines, on a unix socket: the real control API over a store with a consensus of one.

`Local`, `Logs` and `Agent`, which need machines, answer what a test told them to. The server runs in a thread with an
event loop of its own, because the command line runs one, too.
"""

import asyncio
import base64
import concurrent.futures
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
from grpc import StatusCode

from flota.manager.control.servicer import Control as RealControl
from flota.manager.logbroker.broker import LogBroker
from flota.manager.orchestrator.leader import leader_loops
from flota.rpc.errors import FailedPrecondition, FlotaError, InvalidArgument, NotFound, PermissionDenied, Unavailable
from flota.rpc.servers import local_server
from flota.rpc.tokens import JoinToken
from flota.v1 import control_pb2_grpc, local_pb2, local_pb2_grpc, logs_pb2, logs_pb2_grpc, volumes_pb2_grpc
from flota.v1.control_pb2 import WatchMessage, WatchRequest
from flota.v1.local_pb2 import Image, InfoResponse
from flota.v1.types_pb2 import NodeRole, Peer, TaskState, Volume
from tests.simulation.orchestration.world import Agent as SimulatedAgent
from tests.simulation.orchestration.world import Faults, World
from tests.unit.control.cluster import Cluster

R = TypeVar("R")


class Local(local_pb2_grpc.LocalServicer):
    """Becoming and ceasing to be a node; the requests are kept."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.requests: list[Any] = []
        self.refusal: FlotaError | None = None
        self.restored = b""
        self.info = InfoResponse(version="0.1.0", state_directory="/var/lib/flota", runtime="crun")

    def _refuse(self, request: Any) -> None:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal

    async def Init(self, request: Any, context: Any) -> local_pb2.InitResponse:
        self._refuse(request)
        if self.info.state == InfoResponse.STATE_ACTIVE:
            raise FailedPrecondition("this node is already part of a swarm: leave it first (flota swarm leave)")
        await self.cluster.begin()
        self.activate()
        stored = self.cluster.store.cluster
        assert stored is not None
        return local_pb2.InitResponse(
            node_id=self.cluster.own_id, tokens=stored.root_ca.join_tokens, address="10.0.0.1:2377"
        )

    def activate(self) -> None:
        """This node is the swarm's first manager."""
        stored = self.cluster.store.cluster
        assert stored is not None
        self.info.state = InfoResponse.STATE_ACTIVE
        self.info.role = NodeRole.NODE_ROLE_MANAGER
        self.info.node_id, self.info.cluster_id = self.cluster.own_id, stored.id
        self.info.node_address = "10.0.0.1"
        self.info.managers.append(Peer(node_id=self.cluster.own_id, address="10.0.0.1:2377"))
        self.info.description.CopyFrom(self.cluster.node("m1").description)

    async def Join(self, request: Any, context: Any) -> local_pb2.JoinResponse:
        self._refuse(request)
        JoinToken.parse(request.token)
        return local_pb2.JoinResponse(node_id="n" * 25, role=NodeRole.NODE_ROLE_WORKER)

    async def Leave(self, request: Any, context: Any) -> local_pb2.LeaveResponse:
        self._refuse(request)
        return local_pb2.LeaveResponse()

    async def Unlock(self, request: Any, context: Any) -> local_pb2.UnlockResponse:
        self._refuse(request)
        return local_pb2.UnlockResponse()

    async def Restore(self, requests: Any, context: Any) -> local_pb2.RestoreResponse:
        parts = [request async for request in requests]
        self._refuse(parts[0].options)
        self.restored = b"".join(part.data for part in parts)
        return local_pb2.RestoreResponse(node_id="n" * 25, address="10.0.0.1:2377", services=2, other_nodes=3)

    async def Info(self, request: Any, context: Any) -> InfoResponse:
        return self.info


class Logs(logs_pb2_grpc.LogsServicer):
    """What a test lays out: messages, then an error, the end, or (when followed) nothing more. Or the real broker."""

    def __init__(self) -> None:
        self.broker: LogBroker | None = None
        self.requests: list[logs_pb2.SubscribeLogsRequest] = []
        self.answers: list[list[logs_pb2.SubscribeLogsMessage | FlotaError]] = []
        self.subscribed = threading.Event()

    async def SubscribeLogs(self, request: Any, context: Any) -> AsyncIterator[logs_pb2.SubscribeLogsMessage]:
        self.requests.append(request)
        if self.broker is not None:
            async for message in self.broker.SubscribeLogs(request, context):
                yield message
            return
        for answer in self.answers.pop(0) if self.answers else ():
            if isinstance(answer, FlotaError):
                raise answer
            yield answer
        self.subscribed.set()
        if request.options.follow:
            await asyncio.get_running_loop().create_future()


class Agent(local_pb2_grpc.AgentServicer):
    """A worker's images and volumes."""

    def __init__(self) -> None:
        self.volumes: list[Volume] = []
        self.created = local_pb2.CreateVolumeRequest()
        self.pruned = local_pb2.PruneVolumesRequest()
        self.pruned_images = local_pb2.PruneImagesRequest()
        self.tagged = local_pb2.TagImageRequest()
        self.checked = local_pb2.CheckRegistryAuthRequest()
        self.images: list[Image] = []
        self.received = b""
        self.options: local_pb2.ImportImageRequest.Options | None = None
        self.pulled: local_pb2.PullImageRequest | None = None
        # What registries have: image → digest. While it is None the worker cannot ask one.
        self.registry: dict[str, str] | None = None
        self.resolved: list[local_pb2.ResolveImageRequest] = []

    async def ListImages(self, request: Any, context: Any) -> local_pb2.ListImagesResponse:
        return local_pb2.ListImagesResponse(images=self.images)

    async def LoadImage(self, requests: Any, context: Any) -> local_pb2.LoadImageResponse:
        self.received = b"".join([request.data async for request in requests])
        if not self.received.startswith(b"tar"):
            raise InvalidArgument("the file is not a tar archive with an image")
        return local_pb2.LoadImageResponse(images=self.images)

    async def ImportImage(self, requests: Any, context: Any) -> local_pb2.ImportImageResponse:
        async for request in requests:
            if request.HasField("options"):
                self.options = request.options
            self.received += request.data
        return local_pb2.ImportImageResponse(image=Image(id="sha256:" + "ab" * 32))

    async def PullImage(self, request: Any, context: Any) -> AsyncIterator[local_pb2.PullImageMessage]:
        self.pulled = request
        if request.reference == "nope":
            raise NotFound("no such image: nope (registry docker.io has none of that name)")
        yield local_pb2.PullImageMessage(line="Pulling from shop/web")
        yield local_pb2.PullImageMessage(image=self.images[0])

    async def PushImage(self, request: Any, context: Any) -> AsyncIterator[local_pb2.PushImageMessage]:
        yield local_pb2.PushImageMessage(line="Pushing to shop/web")
        yield local_pb2.PushImageMessage(digest="sha256:" + "d" * 64)

    async def SaveImage(self, request: Any, context: Any) -> AsyncIterator[local_pb2.SaveImageMessage]:
        yield local_pb2.SaveImageMessage(data=b"first ")
        if "nope" in request.references:
            raise NotFound("no such image: nope")
        yield local_pb2.SaveImageMessage(data=b"second")

    async def InspectImage(self, request: Any, context: Any) -> local_pb2.InspectImageResponse:
        for image in self.images:
            if request.reference in image.references:
                return local_pb2.InspectImageResponse(image=image, configuration=b'{"config": {"Cmd": ["sh"]}}')
        raise NotFound(f"no such image: {request.reference} (on this node)")

    async def ResolveImage(self, request: Any, context: Any) -> local_pb2.ResolveImageResponse:
        if self.registry is None:
            await context.abort(StatusCode.UNIMPLEMENTED, "an older worker")
            raise AssertionError("abort raises")
        self.resolved.append(request)
        if request.reference not in self.registry:
            raise Unavailable("registry docker.io cannot be reached: no such host")
        return local_pb2.ResolveImageResponse(digest=self.registry[request.reference])

    async def TagImage(self, request: Any, context: Any) -> local_pb2.TagImageResponse:
        self.tagged = request
        return local_pb2.TagImageResponse()

    async def PruneImages(self, request: Any, context: Any) -> local_pb2.PruneImagesResponse:
        self.pruned_images = request
        return local_pb2.PruneImagesResponse(untagged=["web:1"], deleted=["sha256:1"], reclaimed_bytes=5_000_000)

    async def CheckRegistryAuth(self, request: Any, context: Any) -> local_pb2.CheckRegistryAuthResponse:
        self.checked = request
        if b"wrong" in base64.urlsafe_b64decode(request.registry_auth):
            raise PermissionDenied("registry registry:5000 does not take these credentials: unauthorized")
        return local_pb2.CheckRegistryAuthResponse()

    async def CreateVolume(self, request: Any, context: Any) -> local_pb2.CreateVolumeResponse:
        self.created = request
        return local_pb2.CreateVolumeResponse(volume=Volume(name=request.name))

    async def ListVolumes(self, request: Any, context: Any) -> local_pb2.ListVolumesResponse:
        named = [volume for volume in self.volumes if not request.names or volume.name in request.names]
        return local_pb2.ListVolumesResponse(volumes=named)

    async def RemoveVolume(self, request: Any, context: Any) -> local_pb2.RemoveVolumeResponse:
        if all(volume.name != request.name for volume in self.volumes):
            raise NotFound(f"no such volume: {request.name}")
        return local_pb2.RemoveVolumeResponse()

    async def PruneVolumes(self, request: Any, context: Any) -> local_pb2.PruneVolumesResponse:
        self.pruned = request
        return local_pb2.PruneVolumesResponse(names=["scratch"], reclaimed_bytes=1500)

    async def RemoveImage(self, request: Any, context: Any) -> local_pb2.RemoveImageResponse:
        for image in self.images:
            if request.reference in image.references:
                return local_pb2.RemoveImageResponse(untagged=[request.reference], deleted=[image.id])
        raise NotFound(f"no such image: {request.reference}")


class NodeVolumes(volumes_pb2_grpc.NodeVolumesServicer):
    """What workers of other nodes would be asked: in `asked`; the nodes in `silent` are down."""

    def __init__(self, agent: Agent) -> None:
        self.asked: list[Any] = []
        self.silent: set[str] = set()
        # The volumes of nodes, by the node's id.
        self.there: dict[str, list[Volume]] = {}
        self._agent = agent

    def _note(self, request: Any) -> Any:
        if request.node_id in self.silent:
            raise Unavailable("node m1 is down")
        self.asked.append(request)
        return request.request

    async def CreateVolume(self, request: Any, context: Any) -> local_pb2.CreateVolumeResponse:
        return await self._agent.CreateVolume(self._note(request), context)

    async def ListVolumes(self, request: Any, context: Any) -> local_pb2.ListVolumesResponse:
        asked = self._note(request)
        return local_pb2.ListVolumesResponse(
            volumes=[one for one in self.there.get(request.node_id, ()) if not asked.names or one.name in asked.names]
        )

    async def RemoveVolume(self, request: Any, context: Any) -> local_pb2.RemoveVolumeResponse:
        self._note(request)
        return local_pb2.RemoveVolumeResponse()

    async def PruneVolumes(self, request: Any, context: Any) -> local_pb2.PruneVolumesResponse:
        return await self._agent.PruneVolumes(self._note(request), context)


class Workers:
    """What runs tasks: agents as in the simulation, but in real time. An image named crash… fails at once."""

    def __init__(self, cluster: Cluster) -> None:
        self.store, self.clock, self.rng = cluster.store, cluster.clock, cluster.random
        self.faults = Faults(step=(0, 0.002), stop=(0, 0.002))

    def lifetime(self, task_id: str) -> float | None:
        """Seconds a task runs, None for ever."""
        task = self.store.tasks.get(task_id)
        if task is None:
            return None
        ends = task.spec.container.image.startswith("crash") or task.desired_state == TaskState.TASK_STATE_COMPLETE
        return 0.001 if ends else None

    def end_of(self, task_id: str) -> "TaskState.ValueType":
        """How a task ends: jobs complete."""
        task = self.store.tasks.get(task_id)
        job = task is not None and task.desired_state == TaskState.TASK_STATE_COMPLETE
        return TaskState.TASK_STATE_COMPLETE if job else TaskState.TASK_STATE_FAILED

    async def run(self, node_ids: list[str]) -> None:
        """The leader's loops and an agent for each node, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in leader_loops(self.store, self.clock, self.rng):
                group.create_task(loop.run(), name=loop.name)
            for node_id in node_ids:
                group.create_task(SimulatedAgent(cast(World, self), node_id).run())


class Control(RealControl):
    """The real one, which also tells a test that somebody watches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watches: asyncio.Queue[WatchRequest] = asyncio.Queue()

    async def Watch(self, request: WatchRequest, context: Any) -> AsyncIterator[WatchMessage]:
        first = True
        async for message in super().Watch(request, context):
            if first:
                self.watches.put_nowait(request)
                first = False
            yield message


class Daemon:
    """The server; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "flota.sock"
        self.host = f"unix://{self.path}"
        self.cluster = Cluster()
        self.control = self.cluster.control = Control(
            self.cluster.store, self.cluster.clock, self.cluster.random, lambda: self.cluster.members
        )
        self.local, self.logs = Local(self.cluster), Logs()
        self.agent = Agent()  # type: ignore[abstract]  # the command line asks nothing else of it
        self.node_volumes = NodeVolumes(self.agent)
        self._work: concurrent.futures.Future[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="daemon", daemon=True)

    def run(self, what: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine where the store lives."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def begin_soon(self, what: Coroutine[Any, Any, R]) -> "concurrent.futures.Future[R]":
        """Run a coroutine there while the command line is busy here."""
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    def begin(self) -> None:
        """Begin a swarm without asking the command line."""
        self.run(self.cluster.begin())
        self.local.activate()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait, where the store lives, until a condition holds of it."""

        async def wait() -> None:
            with self.cluster.store.watch() as changes:
                while not condition():
                    await changes.next()

        self.run(wait())

    def until_pending(self, name: str) -> None:
        """Wait until the scheduler has said why a task of the service has no node."""
        service = self.cluster.service(name)
        self.until(lambda: any(task.status.error for task in self.cluster.store.tasks.by("service", service.id)))

    def work(self) -> None:
        """Let the leader's loops make tasks of services, and the nodes there are run them."""
        nodes = [node.id for node in self.cluster.store.nodes]
        self._work = asyncio.run_coroutine_threadsafe(Workers(self.cluster).run(nodes), self._loop)

    async def _start(self) -> None:
        self._server = local_server(self.path)
        control_pb2_grpc.add_ControlServicer_to_server(self.control, self._server)
        local_pb2_grpc.add_LocalServicer_to_server(self.local, self._server)
        local_pb2_grpc.add_AgentServicer_to_server(self.agent, self._server)
        volumes_pb2_grpc.add_NodeVolumesServicer_to_server(self.node_volumes, self._server)
        logs_pb2_grpc.add_LogsServicer_to_server(self.logs, self._server)
        await self._server.start()

    def __enter__(self) -> "Daemon":
        # The calls' log lines would stand between what the command line prints.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        if self._work is not None:
            self._work.cancel()
        self.run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        structlog.reset_defaults()
