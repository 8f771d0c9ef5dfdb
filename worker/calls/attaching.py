"""Input and output of a container's own program, through conmon, which has them (`docker attach`).

conmon listens on the socket `attach` in the container's bundle: messages begin with the stream's number (2 = stdout,
3 = stderr), what is written to it is the program's input. The size of a terminal goes into the fifo `ctl`, as
"1 ROWS COLUMNS". Source: conmon's conn_sock.c and ctrl.c (protocol only).
"""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path

from flota.rpc.errors import FailedPrecondition, InvalidArgument
from flota.v1.objects_pb2 import Task
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachResponse,
    AttachStart,
    AttachStarted,
    ExecExit,
    TerminalSize,
)
from flota.worker.runtime.container import ContainerError, signal_number
from flota.worker.runtime.runtime import Runtime

_STDOUT, _STDERR = 2, 3
# conmon's messages have 32 KiB at most.
_LARGEST = 64 << 10
_PIECE = 8 << 10


async def attach(
    runtime: Runtime, task: Task, node_id: str, start: AttachStart, requests: AsyncIterator[AttachRequest]
) -> AsyncGenerator[AttachResponse, None]:
    """Until the program ends or the caller goes. Raises FailedPrecondition, InvalidArgument."""
    spec = task.spec.container
    if start.stdin and not spec.open_stdin:
        raise FailedPrecondition("the task's program has no input: its service was not created with --interactive")
    try:
        connection = await asyncio.to_thread(_connect, runtime.attach_socket(task.id))
    except OSError as error:
        raise FailedPrecondition(f"the task's program cannot be attached to: {error.strerror or error}") from None
    listening: asyncio.Task[None] | None = None
    try:
        yield AttachResponse(started=AttachStarted(task_id=task.id, node_id=node_id, tty=spec.tty))
        if start.HasField("size"):
            _resize(runtime.control_fifo(task.id), start.size)
        listening = asyncio.create_task(_listen(runtime, task.id, connection, start, requests), name="attach: input")
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(connection, _LARGEST):
            if data[0] == _STDOUT:
                yield AttachResponse(stdout=data[1:])
            elif data[0] == _STDERR:
                yield AttachResponse(stderr=data[1:])
        try:
            ended = await runtime.wait(task.id)
        except ContainerError:
            return
        yield AttachResponse(exit=ExecExit(code=-1 if ended.code is None else ended.code, error=ended.describe()))
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        connection.close()


async def _listen(
    runtime: Runtime,
    task_id: str,
    connection: socket.socket,
    start: AttachStart,
    requests: AsyncIterator[AttachRequest],
) -> None:
    loop = asyncio.get_running_loop()
    async for request in requests:
        match request.WhichOneof("part"):
            case "stdin" if start.stdin:
                for place in range(0, len(request.stdin), _PIECE):
                    with suppress(BrokenPipeError):
                        await loop.sock_sendall(connection, request.stdin[place : place + _PIECE])
            case "close_stdin" if start.stdin:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            case "resize":
                _resize(runtime.control_fifo(task_id), request.resize)
            case "signal":
                try:
                    await runtime.signal(task_id, signal_number(request.signal))
                except ValueError as error:
                    raise InvalidArgument(str(error)) from None
            case _:
                pass


def _connect(path: Path) -> socket.socket:
    """The path may be longer than a socket's address has room for."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
        connection.setblocking(False)
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def _resize(fifo: Path, size: TerminalSize) -> None:
    if not size.rows or not size.columns:
        return
    with suppress(OSError):
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"1 {min(size.rows, 0xFFFF)} {min(size.columns, 0xFFFF)}\n".encode())
        finally:
            os.close(descriptor)
