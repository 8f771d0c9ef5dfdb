"""A conversation with a program in a container: this terminal and the program's, one in the other.

    typed keys ──► stdin          a signal, a new size ──► signal, resize
    screen     ◄── stdout         exit status          ◄── exit

The same for a command that is run for it (`exec`) and for a task's own program (`attach`): their messages have the same
parts. The terminal is raw only once the program can be spoken with, and is put back before anything is said about how
it ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from flota.cli import terminal
from flota.cli.failures import CommandFailed
from flota.v1.tasks_pb2 import (
    AttachRequest,
    AttachResponse,
    AttachStart,
    ExecRequest,
    ExecResponse,
    ExecStart,
    TerminalSize,
)

# Passed on to a program without a terminal. (With one, keys are bytes.)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_HUNG_UP = 129
_INTERRUPTED = 130


class Conversation:
    """`hold` it; gives the exit status."""

    def __init__(self, call: Any, start: ExecStart | AttachStart, keys: bytes, *, passes_signals: bool = True) -> None:
        """`call`: an open call of Exec or Attach. `keys` leave the program running."""
        self._call = call
        self._start = start
        self._keys = keys
        self._passes_signals = passes_signals
        self._runs = isinstance(start, ExecStart)
        self._request: Any = ExecRequest if self._runs else AttachRequest
        self._tty = isinstance(start, ExecStart) and start.tty
        self._asked_to_end = 0
        self._detached = False
        # The exit status when this side ended it.
        self._given_up = 0
        # Messages are written one after the other.
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def hold(self) -> int:
        """Until the program ends, or is left. Raises AioRpcError, CommandFailed when it could not be run."""
        start = self._start
        rows, columns = terminal.size()
        if rows and columns:
            start.size.CopyFrom(TerminalSize(rows=rows, columns=columns))
        try:
            await self._say(self._request(start=start))
            first = await self._call.read()
            if not isinstance(first, ExecResponse | AttachResponse):
                await self._call
                raise CommandFailed("the daemon ended the conversation without a word: try again")
            if first.WhichOneof("part") == "exit":
                raise CommandFailed(first.exit.error, first.exit.code)
            if isinstance(first, AttachResponse):
                self._tty = first.started.tty
            if isinstance(start, ExecStart) and start.detach:
                return 0
            if self._tty and start.stdin:
                with terminal.raw():
                    return await self._talk()
            return await self._talk()
        finally:
            for task in self._tasks:
                task.cancel()
            self._call.cancel()

    async def _talk(self) -> int:
        handlers: dict[signal.Signals, Any] = {signal.SIGHUP: self._let_go}
        if self._tty:
            handlers[signal.SIGWINCH] = self._resized
            handlers[signal.SIGTERM] = self._let_go
            self._resized()
        elif self._passes_signals:
            handlers |= {number: lambda number=number: self._pass_on(number) for number in _PASSED_ON}
        with terminal.signals(handlers):
            if self._start.stdin:
                self._do(self._send_input())
            try:
                return await self._listen()
            except asyncio.CancelledError:
                if not self._given_up and not self._detached:
                    raise
                return self._given_up

    async def _listen(self) -> int:
        async for answer in self._answers():
            match answer.WhichOneof("part"):
                case "stdout":
                    _write(sys.stdout, answer.stdout)
                case "stderr":
                    _write(sys.stderr, answer.stderr)
                case "exit":
                    return answer.exit.code
                case _:
                    pass
        if self._detached:
            return 0
        raise CommandFailed("the connection to the command ended before it did")

    async def _answers(self) -> AsyncIterator[ExecResponse | AttachResponse]:
        while isinstance(answer := await self._call.read(), ExecResponse | AttachResponse):
            yield answer
        # Raises what went wrong, if anything did.
        code = await self._call.code()
        if code.value[0]:
            await self._call

    async def _send_input(self) -> None:
        detaching = terminal.Detaching(self._keys if self._tty else b"")
        async for data in terminal.typed():
            data, leave = detaching.feed(data)
            if data:
                await self._say(self._request(stdin=data))
            if leave:
                self._detached = True
                if self._runs:
                    await self._say(ExecRequest(detach=True))
                else:
                    self._call.cancel()
                return
        await self._say(self._request(close_stdin=True))

    async def _say(self, request: Any) -> None:
        import grpc

        async with self._turn:
            # When it is over, reading tells how.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.write(request)

    def _resized(self) -> None:
        rows, columns = terminal.size()
        if rows and columns:
            self._do(self._say(self._request(resize=TerminalSize(rows=rows, columns=columns))))

    def _pass_on(self, number: signal.Signals) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._asked_to_end += 1
            if self._asked_to_end > 1:
                # The command does not listen: its node ends it.
                self._let_go(_INTERRUPTED)
                return
        self._do(self._say(self._request(signal=number.name)))

    def _let_go(self, status: int = _HUNG_UP) -> None:
        self._given_up = status
        self._call.cancel()

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _write(to: Any, data: bytes) -> None:
    to.buffer.write(data)
    to.buffer.flush()
