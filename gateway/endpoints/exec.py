"""/containers/{id}/exec, /exec/{id}/… and /containers/{id}/attach: commands and terminals over a taken-over connection.

An exec is remembered here from its creation until an hour after its end, as `docker exec` asks for its exit status.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from aiohttp import web

from flota.gateway import local_containers
from flota.gateway.failures import HttpFailure, failure_of
from flota.gateway.http import Call, Route, answer, nothing
from flota.gateway.streams import MULTIPLEXED, RAW, STDERR, STDOUT, Hijacked, frame
from flota.gateway.translation import container
from flota.rpc.errors import InvalidArgument, NotFound
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachStart,
    ExecRequest,
    ExecStart,
    TerminalSize,
)

_REMEMBERED = 3600.0
_HEARTBEAT = 30.0


@dataclass
class Exec:
    """One command: what it is, and how far."""

    id: str
    container: str
    start: ExecStart
    requests: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    running: bool = False
    exit_code: int | None = None
    pid: int = 0
    ended_at: float = 0.0


_execs: dict[str, Exec] = {}
# Terminals of tasks that somebody is attached to, for their sizes.
_attached: dict[str, asyncio.Queue[Any]] = {}


def _find(call: Call) -> Exec:
    found = _execs.get(call.name())
    if found is None:
        raise NotFound(f"No such exec instance: {call.name()}")
    return found


async def create(call: Call) -> web.StreamResponse:
    """What is to run. Nothing runs yet."""
    local = await local_containers.find(call, call.name())
    task = local.task
    given = await call.body()
    if not given.texts("Cmd"):
        raise InvalidArgument("No exec command specified")
    if (state := container.status(local)) == "paused":
        raise HttpFailure(409, f"Container {call.name()} is paused, unpause the container before exec")
    if state != "running":
        raise HttpFailure(409, f"container {container.container_id(task)} is not running")
    start = ExecStart(
        task=task.id,
        command=given.texts("Cmd"),
        env=given.texts("Env"),
        user=given.text("User"),
        dir=given.text("WorkingDir"),
        tty=given.flag("Tty"),
        stdin=given.flag("AttachStdin"),
        privileged=given.flag("Privileged"),
    )
    size = given.items("ConsoleSize")
    if len(size) == 2 and all(isinstance(one, int) and 0 < one < 65536 for one in size):
        start.size.rows, start.size.columns = size
    now = time.monotonic()
    for old in [one.id for one in _execs.values() if one.ended_at and now - one.ended_at > _REMEMBERED]:
        del _execs[old]
    start.id = secrets.token_hex(32)
    made = Exec(start.id, container.container_id(task), start)
    _execs[made.id] = made
    return answer({"Id": made.id}, 201)


async def inspect(call: Call) -> web.StreamResponse:
    """How far it is."""
    found = _find(call)
    start = found.start
    return answer(
        {
            "ID": found.id,
            "Running": found.running,
            "ExitCode": found.exit_code,
            "ProcessConfig": {
                "entrypoint": start.command[0],
                "arguments": list(start.command[1:]),
                "tty": start.tty,
                "privileged": start.privileged,
                "user": start.user,
            },
            "OpenStdin": start.stdin,
            "OpenStdout": True,
            "OpenStderr": True,
            "CanRemove": False,
            "ContainerID": found.container,
            "DetachKeys": "",
            "Pid": found.pid,
        }
    )


async def start(call: Call) -> web.StreamResponse:
    """Run it; its input and output go over this connection from then on."""
    found = _find(call)
    if found.running or found.ended_at:
        raise HttpFailure(409, f"exec {found.id} has run already: make another one")
    given = await call.body()
    found.start.tty = found.start.tty or given.flag("Tty")
    if given.flag("Detach"):
        found.start.detach, found.start.stdin = True, False
        await _start_detached(call, found)
        return nothing()
    found.running = True
    conversation = call.backend.containers.ExecIn(_requests(found.requests, ExecRequest(start=found.start)))
    try:
        modern = call.version >= (1, 42)
        wire = await Hijacked.open(call, (RAW if found.start.tty else MULTIPLEXED) if modern else RAW)
        feeding = asyncio.create_task(_feed_exec(wire, found.requests, found.start.stdin))
        try:
            found.exit_code = await _pass_on(conversation, wire, found)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            wire.close()
        return wire.response
    finally:
        found.running, found.ended_at = False, time.monotonic()
        conversation.cancel()


async def _start_detached(call: Call, found: Exec) -> None:
    """Let it run, and remember its end for who asks; without us it goes on. Raises HttpFailure: it cannot be run."""
    conversation = call.backend.containers.ExecIn(_requests(found.requests, ExecRequest(start=found.start)))
    first = await _first(conversation)
    if first is None or first.WhichOneof("part") != "started":
        found.ended_at, found.exit_code = time.monotonic(), first.exit.code if first is not None else 126
        raise HttpFailure(400, first.exit.error if first is not None else "it could not be started")
    found.running, found.pid = True, first.started.pid

    async def follow() -> None:
        try:
            async for told in conversation:
                if told.WhichOneof("part") == "exit":
                    found.exit_code = told.exit.code
        except grpc.aio.AioRpcError:
            # The worker has gone: nobody will know.
            pass
        finally:
            found.running, found.ended_at = False, time.monotonic()
            conversation.cancel()

    call.backend.keep(follow(), "exec: until its end")


async def _first(conversation: Any) -> Any:
    async for told in conversation:
        return told
    return None


async def _requests(queue: asyncio.Queue[Any], first: Any) -> AsyncIterator[Any]:
    yield first
    while (request := await queue.get()) is not None:
        yield request


async def _feed_exec(wire: Hijacked, requests: asyncio.Queue[Any], stdin: bool) -> None:
    async for data in wire.chunks():
        if stdin:
            await requests.put(ExecRequest(stdin=data))
    if not wire.gone and stdin:
        await requests.put(ExecRequest(close_stdin=True))
    elif wire.gone:
        # Docker lets a command go on whose client has gone.
        await requests.put(ExecRequest(detach=True))


async def _pass_on(conversation: Any, wire: Hijacked, what: Exec) -> int:
    """Output to the client, until the end; gives the exit status."""
    tty = what.start.tty
    try:
        async for told in conversation:
            match told.WhichOneof("part"):
                case "started":
                    what.pid = getattr(told.started, "pid", 0)
                case "stdout":
                    await wire.write(told.stdout if tty else frame(STDOUT, told.stdout))
                case "stderr":
                    await wire.write(told.stderr if tty else frame(STDERR, told.stderr))
                case "exit":
                    if told.exit.error and not what.pid:
                        # It could not be run: the client has nothing but this connection to read why.
                        text = f"{told.exit.error}\r\n".encode()
                        await wire.write(text if tty else frame(STDERR, text))
                    return int(told.exit.code)
    except ConnectionError:
        return 0
    except grpc.aio.AioRpcError as error:
        text = f"{failure_of(error)}\r\n".encode()
        await wire.write(text if tty else frame(STDERR, text))
        return 126
    return 0


def _size(call: Call) -> TerminalSize:
    rows, columns = call.number("h"), call.number("w")
    for name, value in (("h", rows), ("w", columns)):
        if not 0 <= value < 65536:
            raise InvalidArgument.of(name, value, "0 to 65535 is allowed")
    return TerminalSize(rows=rows, columns=columns)


async def resize(call: Call) -> web.StreamResponse:
    """Another size for its terminal."""
    found, size = _find(call), _size(call)
    if found.running:
        await found.requests.put(ExecRequest(resize=size))
    else:
        found.start.size.CopyFrom(size)
    return nothing()


async def attach(call: Call) -> web.StreamResponse:
    """Be at a task's own program."""
    local = await local_containers.find(call, call.name())
    if local.paused:
        raise HttpFailure(409, f"Container {call.name()} is paused, unpause the container before attach")
    task = local.task
    stdin = call.flag("stdin") and call.flag("stream") and task.spec.container.open_stdin
    tty = task.spec.container.tty
    queue: asyncio.Queue[Any] = asyncio.Queue()
    first = AttachRequest(start=AttachStart(task=task.id, stdin=stdin))
    conversation = call.backend.containers.AttachTo(_requests(queue, first))
    id = container.container_id(task)
    try:
        told = await _first(conversation)
        if told is None or told.WhichOneof("part") == "exit":
            raise HttpFailure(409, f"container {id} is not running")
        _attached[id] = queue
        modern = call.version >= (1, 42)
        wire = await Hijacked.open(call, (RAW if tty else MULTIPLEXED) if modern else RAW)
        feeding = asyncio.create_task(_feed_attached(wire, queue, stdin, conversation))
        try:
            await _pass_on(conversation, wire, Exec("", id, ExecStart(tty=tty), pid=1))
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            wire.close()
        return wire.response
    finally:
        _attached.pop(id, None)
        conversation.cancel()


async def attach_by_web_socket(call: Call) -> web.StreamResponse:
    """As `attach`, over a web socket: both outputs as they come, without frames."""
    local = await local_containers.find(call, call.name())
    if container.status(local) != "running":
        raise HttpFailure(409, f"Container {container.container_id(local.task)} is {container.status(local)}")
    stdin = call.flag("stdin") and call.flag("stream") and local.task.spec.container.open_stdin
    queue: asyncio.Queue[Any] = asyncio.Queue()
    first = AttachRequest(start=AttachStart(task=local.task.id, stdin=stdin))
    conversation = call.backend.containers.AttachTo(_requests(queue, first))
    wire = web.WebSocketResponse(heartbeat=_HEARTBEAT)
    await wire.prepare(call.request)

    async def feed() -> None:
        async for message in wire:
            if stdin and message.type in (web.WSMsgType.BINARY, web.WSMsgType.TEXT):
                data = message.data.encode() if isinstance(message.data, str) else message.data
                await queue.put(AttachRequest(stdin=data))
        conversation.cancel()

    feeding = asyncio.create_task(feed())
    try:
        async for told in conversation:
            match told.WhichOneof("part"):
                case "stdout" if call.flag("stdout", default=True):
                    await wire.send_bytes(told.stdout)
                case "stderr" if call.flag("stderr", default=True):
                    await wire.send_bytes(told.stderr)
                case "exit":
                    break
    except (asyncio.CancelledError, ConnectionError):
        # The client has gone; or we end.
        if not feeding.done():
            raise
    finally:
        feeding.cancel()
        conversation.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await wire.close()
    return wire


async def _feed_attached(wire: Hijacked, requests: asyncio.Queue[Any], stdin: bool, conversation: Any) -> None:
    async for data in wire.chunks():
        if stdin:
            await requests.put(AttachRequest(stdin=data))
    if wire.gone:
        conversation.cancel()
    elif stdin:
        await requests.put(AttachRequest(close_stdin=True))


async def resize_attached(call: Call) -> web.StreamResponse:
    """Another size for the terminal of a task's own program, as long as somebody is attached."""
    task, size = (await local_containers.find(call, call.name())).task, _size(call)
    queue = _attached.get(container.container_id(task))
    if queue is not None:
        await queue.put(AttachRequest(resize=size))
    return nothing()


ROUTES: list[Route] = [
    ("POST", "/containers/{id}/exec", create),
    ("GET", "/exec/{id}/json", inspect),
    ("POST", "/exec/{id}/start", start),
    ("POST", "/exec/{id}/resize", resize),
    ("POST", "/containers/{id}/attach", attach),
    ("GET", "/containers/{id}/attach/ws", attach_by_web_socket),
    ("POST", "/containers/{id}/resize", resize_attached),
]
