"""The Containers service (proto/flota/v1/containers.proto): calls, passed to this node's containers and tasks."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from flota.rpc.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from flota.v1 import containers_pb2 as messages
from flota.v1.containers_pb2_grpc import ContainersServicer
from flota.v1.logs_pb2 import SubscribeLogsMessage
from flota.v1.objects_pb2 import Task
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachResponse,
    AttachStarted,
    ExecRequest,
    ExecResponse,
    SignalTaskRequest,
    SignalTaskResponse,
    StatsRequest,
    StatsResponse,
    TopRequest,
    TopResponse,
)
from flota.worker.calls.attaching import attach
from flota.worker.calls.tasks import TaskServicer
from flota.worker.containers import archives, written
from flota.worker.containers.everything import Everything
from flota.worker.containers.history import History
from flota.worker.containers.life import DYING, Left, Life
from flota.worker.images.committing import CommitOptions
from flota.worker.images.store import ImageStore
from flota.worker.images.unpack import total_size
from flota.worker.logs.changes import Changes
from flota.worker.logs.following import follow
from flota.worker.logs.merging import TaskLog
from flota.worker.runtime.container import BadContainer, ContainerError, signal_number
from flota.worker.runtime.processes import to_the_end
from flota.worker.runtime.runtime import Runtime
from flota.worker.tasks.life import is_over


class ContainerCalls(ContainersServicer):
    """See the module's docstring."""

    def __init__(
        self,
        runtime: Runtime,
        images: ImageStore,
        everything: Everything,
        people: TaskServicer,
        changes: Changes,
        history: History,
    ) -> None:
        """`people` answers what is the same for tasks and other containers."""
        self._runtime = runtime
        self._images = images
        self._history = history
        self._everything = everything
        self._people = people
        self._changes = changes

    def _life(self, container_id: str) -> Life:
        return self._everything.plain.find(container_id)

    # Their lives.

    async def CreateContainer(
        self, request: messages.CreateContainerRequest, context: Any
    ) -> messages.CreateContainerResponse:
        """Raises AlreadyExists, ImageNotFound, InvalidArgument, NotFound, FailedPrecondition."""
        life = await self._everything.plain.create(request.container)
        return messages.CreateContainerResponse(container=self._everything.plain.shown(life))

    async def ListContainers(
        self, request: messages.ListContainersRequest, context: Any
    ) -> messages.ListContainersResponse:
        """Those without a service."""
        found = self._everything.plain.all()
        for plain in found:
            plain.log_path = str(self._runtime.log_file(plain.task.id))
            plain.paused = self._runtime.is_paused(plain.task.id)
        return messages.ListContainersResponse(containers=found)

    async def StartContainer(
        self, request: messages.StartContainerRequest, context: Any
    ) -> messages.StartContainerResponse:
        """Raises NotFound, FailedPrecondition."""
        return messages.StartContainerResponse(unchanged=not await self._life(request.id).start())

    async def StopContainer(
        self, request: messages.StopContainerRequest, context: Any
    ) -> messages.StopContainerResponse:
        """Raises NotFound, InvalidArgument; with restart FailedPrecondition."""
        life = self._life(request.id)
        _signal(request.signal)
        stopped = await life.stop(request.signal, request.grace if request.HasField("grace") else None)
        if stopped:
            self._history.told("stop", life.record)
        if request.restart:
            await life.start()
            self._history.told("restart", life.record)
        return messages.StopContainerResponse(unchanged=not stopped)

    async def RenameContainer(
        self, request: messages.RenameContainerRequest, context: Any
    ) -> messages.RenameContainerResponse:
        """Raises NotFound, AlreadyExists, InvalidArgument."""
        self._everything.plain.rename(self._life(request.id), request.name)
        return messages.RenameContainerResponse()

    async def ConnectContainer(
        self, request: messages.ConnectContainerRequest, context: Any
    ) -> messages.ConnectContainerResponse:
        """Raises NotFound, AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable."""
        wiring = self._life(request.id).wiring
        if request.disconnect:
            await wiring.disconnect(request.attachment.target)
        else:
            await wiring.connect(request.attachment, request.gateway_priority)
        return messages.ConnectContainerResponse()

    async def UpdateContainer(
        self, request: messages.UpdateContainerRequest, context: Any
    ) -> messages.UpdateContainerResponse:
        """Raises NotFound, InvalidArgument, FailedPrecondition, Internal."""
        life = self._life(request.id)
        if request.HasField("resources"):
            try:
                await self._runtime.update(life.id, request.resources)
            except BadContainer as error:
                raise InvalidArgument(str(error)) from None
            except ContainerError as error:
                raise Internal(str(error)) from None
        life.revise(request)
        return messages.UpdateContainerResponse()

    async def RemoveContainer(
        self, request: messages.RemoveContainerRequest, context: Any
    ) -> messages.RemoveContainerResponse:
        """Raises NotFound, FailedPrecondition, Internal."""
        try:
            await self._life(request.id).discard(force=request.force)
        except ContainerError as error:
            raise Internal(str(error)) from None
        return messages.RemoveContainerResponse()

    async def WaitContainer(
        self, request: messages.WaitContainerRequest, context: Any
    ) -> AsyncIterator[messages.WaitContainerResponse]:
        """Raises NotFound."""
        life = self._everything.known(request.id)
        if life is None:
            async for answer in self._wait_for_task(request):
                yield answer
            return
        waiting = _until(life, request.until)
        yield messages.WaitContainerResponse()
        while True:
            try:
                await waiting
                break
            except Left:
                # The machine joins a cluster: another Life goes on with the container.
                life = await self._everything.again(request.id)
                stopped = not life.is_active and request.until != messages.WaitContainerRequest.UNTIL_REMOVED
                waiting = life.stopped() if stopped else _until(life, request.until)
        status = life.record.task.status
        yield messages.WaitContainerResponse(ended=True, exit_code=status.container.exit_code)

    async def _wait_for_task(
        self, request: messages.WaitContainerRequest
    ) -> AsyncIterator[messages.WaitContainerResponse]:
        status = self._everything.status(request.id)
        if status is None:
            raise NotFound(f"No such container: {request.id}")
        yield messages.WaitContainerResponse()
        status = await self._everything.ended(request.id)
        if request.until == messages.WaitContainerRequest.UNTIL_REMOVED:
            await self._everything.gone(request.id)
        yield messages.WaitContainerResponse(ended=True, exit_code=status.container.exit_code)

    async def WatchContainers(
        self, request: messages.WatchContainersRequest, context: Any
    ) -> AsyncIterator[messages.ContainerEvent]:
        """Runs until the caller goes."""
        async for event in self._history.events(request.since if request.HasField("since") else None):
            yield event

    # What is the same for tasks.

    async def ContainerLogs(
        self, request: messages.ContainerLogsRequest, context: Any
    ) -> AsyncIterator[SubscribeLogsMessage]:
        """Raises NotFound, FailedPrecondition (no log is kept)."""
        if self._everything.status(request.id) is None:
            raise NotFound(f"No such container: {request.id}")

        def log() -> TaskLog:
            status = self._everything.status(request.id)
            ended = status is None or is_over(status.state) or not self._runtime.runs(request.id)
            return TaskLog(request.id, "", self._runtime.log_file(request.id), ended)

        try:
            async for lines in follow(self._changes, log, request.options):
                yield SubscribeLogsMessage(messages=lines)
        except FileNotFoundError:
            return

    async def ExecIn(self, requests: AsyncIterator[ExecRequest], context: Any) -> AsyncIterator[ExecResponse]:
        """As Tasks.Exec."""
        async for answer in self._people.Exec(requests, context):
            yield answer

    async def AttachTo(self, requests: AsyncIterator[AttachRequest], context: Any) -> AsyncIterator[AttachResponse]:
        """As Tasks.Attach; one that does not run yet is attached to just before it does."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidArgument("the first message of an attach must be its start")
        container_id = first.start.task
        life = self._everything.known(container_id)
        if life is not None:
            self._history.told("attach", life.record)
        if life is None or life.is_running:
            task = life.record.task if life is not None else self._people.named(container_id)
            async for answer in attach(self._runtime, task, task.node_id, first.start, requests):
                yield answer
            return
        with life.attaching() as attached:
            task = life.record.task
            yield AttachResponse(
                started=AttachStarted(task_id=task.id, node_id=task.node_id, tty=task.spec.container.tty)
            )
            await life.made()
            async for answer in attach(self._runtime, task, task.node_id, first.start, requests):
                attached()
                if answer.WhichOneof("part") != "started":
                    yield answer

    async def SignalContainer(self, request: SignalTaskRequest, context: Any) -> SignalTaskResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        life = self._everything.known(request.task)
        if life is None:
            answer = await self._people.SignalTask(request, context)
            if _signal(request.signal or "KILL") == signal.SIGKILL:
                with suppress(TimeoutError, NotFound):
                    async with asyncio.timeout(DYING):
                        await self._everything.ended(request.task)
            return answer
        await life.kill(_signal(request.signal or "KILL"))
        return SignalTaskResponse()

    async def PauseContainer(
        self, request: messages.PauseContainerRequest, context: Any
    ) -> messages.PauseContainerResponse:
        """Raises NotFound, FailedPrecondition."""
        if self._everything.status(request.id) is None:
            raise NotFound(f"No such container: {request.id}")
        paused = self._runtime.is_paused(request.id)
        if paused != request.resume:
            raise FailedPrecondition(f"Container {request.id} is {'already' if paused else 'not'} paused")
        try:
            await (self._runtime.resume if request.resume else self._runtime.pause)(request.id)
        except ContainerError as error:
            raise FailedPrecondition(str(error)) from None
        self._tell("unpause" if request.resume else "pause", request.id)
        return messages.PauseContainerResponse()

    async def TopOf(self, request: TopRequest, context: Any) -> TopResponse:
        """As Tasks.Top."""
        return await self._people.Top(request, context)

    async def StatsOf(self, request: StatsRequest, context: Any) -> AsyncIterator[StatsResponse]:
        """As Tasks.Stats."""
        async for answer in self._people.Stats(request, context):
            yield answer

    # Their files.

    async def ReadArchive(
        self, request: messages.ReadArchiveRequest, context: Any
    ) -> AsyncIterator[messages.ReadArchiveMessage]:
        """Raises NotFound, FailedPrecondition."""
        async with self._root(request.id, self._runtime.root_of) as root:
            async for message in archives.read(root, request.path, only_stat=request.only_stat):
                yield message

    async def WriteArchive(
        self, requests: AsyncIterator[messages.WriteArchiveRequest], context: Any
    ) -> messages.WriteArchiveResponse:
        """Raises NotFound, FailedPrecondition, InvalidArgument."""
        parts = aiter(requests)
        first = await anext(parts, None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidArgument("the first message of an archive must be its start")
        start = first.start
        async with self._root(start.id, self._runtime.root_of) as root:
            data = (request.data async for request in parts)
            await archives.write(root, start.path, data, keep_kinds=start.keep_kinds)
        return messages.WriteArchiveResponse()

    async def ContainerChanges(
        self, request: messages.ContainerChangesRequest, context: Any
    ) -> messages.ContainerChangesResponse:
        """Raises NotFound, FailedPrecondition."""
        async with self._root(request.id, self._runtime.image_of) as image:
            try:
                found = await asyncio.to_thread(written.changes, self._runtime.written(request.id), image)
            except OSError as error:
                raise FailedPrecondition(f"the container's changes could not be read: {error}") from None
        return messages.ContainerChangesResponse(changes=found)

    async def ContainerSizes(
        self, request: messages.ContainerSizesRequest, context: Any
    ) -> messages.ContainerSizesResponse:
        """Never fails: of what is being removed less is counted."""
        places = {task.id: self._runtime.written(task.id) for task in self._everything.all()}

        def count() -> dict[str, int]:
            return {container_id: total_size(place) for container_id, place in places.items()}

        return messages.ContainerSizesResponse(written=await asyncio.to_thread(count))

    async def ExportContainer(
        self, request: messages.ExportContainerRequest, context: Any
    ) -> AsyncIterator[messages.ExportContainerMessage]:
        """Raises NotFound, FailedPrecondition."""
        async with self._root(request.id, self._runtime.files_of) as root:
            self._tell("export", request.id)
            async for data in archives.whole(root):
                yield messages.ExportContainerMessage(data=data)

    async def CommitContainer(
        self, request: messages.CommitContainerRequest, context: Any
    ) -> messages.CommitContainerResponse:
        """Raises NotFound, InvalidArgument, FailedPrecondition, BadImage, ResourceExhausted."""
        task = self._task(request.id)
        spec = task.spec.container
        options = CommitOptions(
            request.reference,
            request.comment,
            request.author,
            tuple(request.changes),
            request.config,
            " ".join([*spec.command, *spec.args]),
        )
        freezes = request.pause and self._runtime.runs(task.id) and not self._runtime.is_paused(task.id)
        try:
            if freezes:
                await self._runtime.pause(task.id)
            layer = archives.whole(self._runtime.written(task.id), as_layer=True)
            made = await self._images.commit(self._everything.image_id(task.id), options, layer)
        except ContainerError as error:
            raise FailedPrecondition(str(error)) from None
        finally:
            if freezes:
                await to_the_end(self._runtime.resume(task.id))
        self._tell("commit", request.id)
        return messages.CommitContainerResponse(image_id=made.id)

    def _task(self, container_id: str) -> Task:
        """The task whose files are there: of one of a service only while it runs, for what it wrote goes with it."""
        life = self._everything.known(container_id)
        return life.record.task if life is not None else self._people.named(container_id)

    def _tell(self, action: str, container_id: str) -> None:
        life = self._everything.known(container_id)
        if life is not None:
            self._history.told(action, life.record)
        else:
            self._history.told_of_task(action, self._task(container_id))

    @asynccontextmanager
    async def _root(
        self, container_id: str, mounted: Callable[[str, Sequence[str]], AbstractAsyncContextManager[Path]]
    ) -> AsyncIterator[Path]:
        task = self._task(container_id)
        image = await self._images.find(self._everything.image_id(task.id))
        try:
            async with mounted(task.id, image.layers) as root:
                yield root
        except ContainerError as error:
            raise FailedPrecondition(str(error)) from None

    # Networks of this node.

    async def ListBridges(self, request: messages.ListBridgesRequest, context: Any) -> messages.ListBridgesResponse:
        """All of them."""
        return messages.ListBridgesResponse(networks=self._everything.plain.bridges.all())

    async def CreateBridge(self, request: messages.CreateBridgeRequest, context: Any) -> messages.CreateBridgeResponse:
        """Raises AlreadyExists, InvalidArgument, ResourceExhausted."""
        return messages.CreateBridgeResponse(network=self._everything.plain.bridges.create(request.spec))

    async def RemoveBridge(self, request: messages.RemoveBridgeRequest, context: Any) -> messages.RemoveBridgeResponse:
        """Raises NotFound, FailedPrecondition."""
        self._everything.plain.bridges.remove(request.id)
        return messages.RemoveBridgeResponse()


def _until(life: Life, until: "messages.WaitContainerRequest.Until.ValueType") -> Awaitable[None]:
    """What is waited for, from now on."""
    return {
        messages.WaitContainerRequest.UNTIL_STOPPED: life.stopped,
        messages.WaitContainerRequest.UNTIL_NEXT_EXIT: life.next_end,
        messages.WaitContainerRequest.UNTIL_REMOVED: life.gone,
    }[until]()


def _signal(name: str) -> int:
    try:
        return signal_number(name)
    except ValueError as error:
        raise InvalidArgument(f"Invalid signal: {name}: {error}") from None
