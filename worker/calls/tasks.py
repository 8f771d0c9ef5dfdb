"""The Tasks service for the tasks of this node (proto/flota/v1/tasks.proto): exec, attach, signals, top, stats."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.v1 import tasks_pb2_grpc
from flota.v1.objects_pb2 import Task
from flota.v1.task_states import task_name
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachResponse,
    ExecExit,
    ExecRequest,
    ExecResponse,
    ExecStart,
    ExecStarted,
    SignalTaskRequest,
    SignalTaskResponse,
    StatsRequest,
    StatsResponse,
    TerminalSize,
    TopRequest,
    TopResponse,
)
from flota.v1.types_pb2 import TaskStatus
from flota.worker.calls.attaching import attach
from flota.worker.calls.finding import running_task, runs
from flota.worker.calls.processes_shown import top
from flota.worker.runtime.commands import STDERR, CannotRun, Command, Size
from flota.worker.runtime.container import BadContainer, ContainerError, signal_number
from flota.worker.runtime.executing import Execution
from flota.worker.runtime.runtime import Runtime

_INTERVAL = 1.0
_LEAST_INTERVAL = 0.1


class KnownTasks(Protocol):
    """worker/tasks."""

    def all(self) -> list[Task]: ...
    def status(self, task_id: str) -> TaskStatus | None: ...


class TaskServicer(tasks_pb2_grpc.TasksServicer):
    """`stop` it with the worker: what was left to run by itself is no longer followed."""

    def __init__(
        self,
        runtime: Runtime,
        tasks: Callable[[], KnownTasks | None],
        node_id: Callable[[], str],
        told: Callable[[str, Task, Mapping[str, str]], None],
    ) -> None:
        """`tasks` gives None while the machine is in no cluster; `told` hears what happens in which container."""
        self._told = told
        self._runtime = runtime
        self._tasks = tasks
        self._node_id = node_id
        self._left: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Follow commands no longer."""
        for one in self._left:
            one.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    # Commands.

    async def Exec(self, requests: AsyncIterator[ExecRequest], context: Any) -> AsyncIterator[ExecResponse]:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidArgument("the first message of an exec must be its start")
        start = first.start
        task = self.named(start.task)
        stack = AsyncExitStack()
        async with AsyncExitStack() as here:
            try:
                command = await stack.enter_async_context(self._runtime.command(task.id, _execution(start)))
            except CannotRun as error:
                yield ExecResponse(exit=ExecExit(code=error.code, error=str(error)))
                return
            except BadContainer as error:
                raise InvalidArgument(str(error)) from None
            except ContainerError as error:
                raise FailedPrecondition(str(error)) from None
            session = _ExecSession(command)
            here.callback(lambda: self._leave(command, stack, detached=session.detached or start.detach))
            stack.push_async_callback(self._tell_end, task, self._tell_start(task, start), command)
            yield ExecResponse(started=ExecStarted(task_id=task.id, node_id=self._node_id(), pid=command.pid))
            listening = asyncio.create_task(session.listen(requests), name="exec: input")
            here.push_async_callback(_cancelled, listening)
            async for kind, data in command.output():
                if not start.detach:
                    yield ExecResponse(stderr=data) if kind == STDERR else ExecResponse(stdout=data)
            if not session.detached:
                yield ExecResponse(exit=ExecExit(code=await command.wait()))

    def _tell_start(self, task: Task, start: ExecStart) -> dict[str, str]:
        """In Docker's words, which has it made and started in two steps; gives what is said of it."""
        about = {"execID": start.id or secrets.token_hex(32)}
        for action in ("exec_create", "exec_start"):
            self._told(f"{action}: {' '.join(start.command)}", task, about)
        return about

    async def _tell_end(self, task: Task, about: dict[str, str], command: Command) -> None:
        self._told("exec_die", task, about | {"exitCode": str(await command.wait())})

    def _leave(self, command: Command, stack: AsyncExitStack, *, detached: bool) -> None:
        """Nobody speaks with the command any more: end it, or see to it that it can go on."""

        async def finish() -> None:
            async with stack:
                if detached:
                    await command.drain()
                elif not command.has_ended:
                    await command.end()

        self._keep(finish())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="exec: afterwards")
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def Attach(self, requests: AsyncIterator[AttachRequest], context: Any) -> AsyncIterator[AttachResponse]:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidArgument("the first message of an attach must be its start")
        task = self.named(first.start.task)
        async for answer in attach(self._runtime, task, self._node_id(), first.start, requests):
            yield answer

    async def SignalTask(self, request: SignalTaskRequest, context: Any) -> SignalTaskResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        number = _signal(request.signal or "KILL")
        await self._runtime.signal(self.named(request.task).id, number)
        return SignalTaskResponse()

    # Looking.

    async def Top(self, request: TopRequest, context: Any) -> TopResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        task = self.named(request.task)
        return await top(await self._runtime.members(task.id), list(request.ps_arguments))

    async def Stats(self, request: StatsRequest, context: Any) -> AsyncIterator[StatsResponse]:
        """Raises NotFound, FailedPrecondition (a named task does not run)."""
        wanted = {self.named(one).id for one in request.tasks}
        interval = request.interval.ToNanoseconds() / 1e9 if request.HasField("interval") else _INTERVAL
        while True:
            names = {task.id: task_name(task) for task, status in self._known() if runs(status)}
            if wanted:
                names = {id: name for id, name in names.items() if id in wanted}
            figures = await self._runtime.usage(list(names))
            for task_id, one in figures.items():
                one.node_id, one.name = self._node_id(), names[task_id]
            yield StatsResponse(node_id=self._node_id(), tasks=figures.values())
            if not request.stream:
                return
            await asyncio.sleep(max(_LEAST_INTERVAL, interval))

    def named(self, wanted: str) -> Task:
        """The running task that is called so. Raises InvalidArgument, NotFound, FailedPrecondition."""
        return running_task(self._known(), wanted)

    def _known(self) -> Iterable[tuple[Task, TaskStatus]]:
        tasks = self._tasks()
        if tasks is None:
            return
        for task in tasks.all():
            status = tasks.status(task.id)
            if status is not None:
                yield task, status


class _ExecSession:
    """What the caller says to a command."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self.detached = False

    async def listen(self, requests: AsyncIterator[ExecRequest]) -> None:
        """Until the caller has no more to say."""
        async for request in requests:
            match request.WhichOneof("part"):
                case "stdin":
                    await self._command.write(request.stdin)
                case "close_stdin":
                    await self._command.end_input()
                case "resize":
                    size = size_of(request.resize)
                    if size is not None:
                        self._command.resize(size)
                case "signal":
                    self._command.signal(_signal(request.signal))
                case "detach":
                    self.detached = True
                    self._command.hush()
                    return
                case _:
                    pass


def size_of(size: TerminalSize) -> Size | None:
    """A terminal's size; None when there is none to speak of."""
    rows, columns = min(size.rows, 0xFFFF), min(size.columns, 0xFFFF)
    return Size(rows, columns) if rows and columns else None


def _execution(start: ExecStart) -> Execution:
    return Execution(
        command=tuple(start.command),
        env=tuple(start.env),
        user=start.user,
        directory=start.dir,
        terminal=start.tty,
        stdin=start.stdin,
        quiet=start.detach,
        privileged=start.privileged,
        size=size_of(start.size),
    )


def _signal(name: str) -> int:
    try:
        return signal_number(name)
    except ValueError as error:
        raise InvalidArgument(f"{error}: a name such as TERM or SIGINT, or a number, is needed") from None


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
