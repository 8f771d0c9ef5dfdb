"""Logs as a person reads them: who wrote each line, in which order it came, also across a change of the leader.

`Writer` prints, `follow` asks. Lines go where the container wrote them: standard output or standard error.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import re
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from flota.cli.output.human import short_id
from flota.stacks.errors import BadValue
from flota.stacks.units import NANO, parse_duration
from flota.v1.logs_pb2 import LogContext, LogMessage, LogOptions, LogSelector, LogStream, SubscribeLogsRequest

if TYPE_CHECKING:
    from flota.cli.session import Session
    from flota.v1.objects_pb2 import Task

# Without a leader the stream breaks; another manager takes over well within this time.
_RECONNECT_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
# A part of a line is shown without its end once it is so long.
_LONGEST_LINE = 1 << 20
SINCE_FORM = "a duration such as 10m, a time such as 2026-01-31T13:45:00Z, or seconds since 1970 are needed"
_UNIX = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}(?::\d{2})?)?)(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII
)


def parse_since(text: str, now: float) -> Timestamp:
    """When: a duration before `now`, RFC 3339 (this machine's time zone unless it says one), or Unix seconds.

    Raises BadValue.
    """
    text = text.strip()
    if match := _UNIX.fullmatch(text):
        return Timestamp(seconds=int(match[1]), nanos=_nanos(match[2]))
    if match := _TIME.fullmatch(text):
        try:
            moment = datetime.datetime.fromisoformat(match[1].upper() + (match[3] or "").upper())
            return Timestamp(seconds=int(moment.astimezone(datetime.UTC).timestamp()), nanos=_nanos(match[2]))
        except (ValueError, OverflowError, OSError):
            raise BadValue(text, SINCE_FORM) from None
    try:
        before = int(now * NANO) - parse_duration(text)
    except BadValue:
        raise BadValue(text, SINCE_FORM) from None
    return Timestamp(seconds=max(0, before) // NANO, nanos=max(0, before) % NANO)


def _nanos(fraction: str | None) -> int:
    return int((fraction or "0").ljust(9, "0"))


@dataclass(frozen=True)
class Style:
    """How a person wants the lines."""

    timestamps: bool = False
    no_resolve: bool = False
    no_task_ids: bool = False
    no_trunc: bool = False
    raw: bool = False
    details: bool = False
    colour: bool = False
    # So many digits have the numbers of the service's slots.
    slot_width: int = 1


@dataclass
class Writer:
    """Prints messages. Whole lines only: parts of one are kept until its end comes."""

    session: Session
    style: Style
    _authors: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    _hostnames: dict[str, str] = field(default_factory=dict)
    _parts: dict[tuple[str, int], tuple[LogMessage, bytes]] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _colours: itertools.cycle[int] = field(default_factory=lambda: itertools.cycle(_COLOURS))

    async def write(self, message: LogMessage) -> None:
        """Print one message, or keep it if its line goes on."""
        if self.style.raw:
            self._out(message, message.data)
            return
        key = (message.context.task_id, message.stream)
        first, before = self._parts.pop(key, (message, b""))
        data = before + message.data
        if not data.endswith(b"\n") and len(data) < _LONGEST_LINE:
            self._parts[key] = first, data
            return
        await self._line(first, data)

    async def finish(self) -> None:
        """Print what has no end yet."""
        for message, data in self._parts.values():
            await self._line(message, data)
        self._parts.clear()

    def warn(self, text: str) -> None:
        """Print a line for the person, once."""
        if text not in self._warned:
            self._warned.add(text)
            sys.stdout.flush()
            print(f"Warning: {text}", file=sys.stderr, flush=True)

    def flush(self) -> None:
        """What was written is to be seen now."""
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()

    async def _line(self, message: LogMessage, data: bytes) -> None:
        author, details = await self._author(message.context)
        stamp = f"{_stamp(message.timestamp)} ".encode() if self.style.timestamps else b""
        end = b"" if data.endswith(b"\n") else b"\n"
        self._out(message, stamp + author + details + data + end)

    def _out(self, message: LogMessage, data: bytes) -> None:
        to = sys.stderr if message.stream == LogStream.LOG_STREAM_STDERR else sys.stdout
        to.buffer.write(data)

    async def _author(self, context: LogContext) -> tuple[bytes, bytes]:
        """What stands before each line of a task, and its details."""
        known = self._authors.get(context.task_id)
        if known is None:
            task = await self._task(context.task_id)
            text = await self._name(context, task)
            if self.style.colour:
                text = f"\x1b[{next(self._colours)}m{text}\x1b[0m"
            details = f"{details_of(task)} " if self.style.details and task is not None else ""
            known = self._authors[context.task_id] = text.encode(), details.encode()
        return known

    async def _name(self, context: LogContext, task: Task | None) -> str:
        style = self.style
        service, place, width = context.service_id, "", 0
        if task is not None:
            service = service if style.no_resolve else task.service_annotations.name or service
            place, width = f".{task.slot}", style.slot_width - len(str(task.slot))
        task_id = "" if style.no_task_ids else f".{short_id(context.task_id, style.no_trunc)}"
        node = context.node_id if style.no_resolve else await self._hostname(context.node_id)
        return f"{service}{place}{task_id}@{node}{' ' * width}    | "

    async def _task(self, task_id: str) -> Task | None:
        import grpc

        from flota.v1.control_pb2 import GetTaskRequest

        try:
            return (await self.session.control.GetTask(GetTaskRequest(task_id=task_id))).task
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                return None  # The task's lines are still there, but it is not: its id has to do.
            raise

    async def _hostname(self, node_id: str) -> str:
        import grpc

        from flota.v1.control_pb2 import GetNodeRequest

        if node_id not in self._hostnames:
            name = ""
            try:
                node = (await self.session.control.GetNode(GetNodeRequest(node_id=node_id))).node
                name = node.description.hostname
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                    raise
            self._hostnames[node_id] = name or node_id
        return self._hostnames[node_id]


def details_of(task: Task) -> str:
    """Labels and environment variables of the container that --log-opt labels=… and env=… name."""
    options, container = task.spec.log_driver.options, task.spec.container
    environment = dict(variable.split("=", 1) for variable in container.env if "=" in variable)
    pairs = [
        f"{key}={values[key]}"
        for option, values in (("labels", container.labels), ("env", environment))
        for key in map(str.strip, options.get(option, "").split(","))
        if key in values
    ]
    return ",".join(sorted(pairs))


def _stamp(timestamp: Timestamp) -> str:
    moment = datetime.datetime.fromtimestamp(timestamp.seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{timestamp.nanos:09d}Z"


async def follow(session: Session, selector: LogSelector, options: LogOptions, writer: Writer) -> None:
    """Print what there is and, with options.follow, what comes, until the stream ends.

    A stream that breaks while it is followed is opened again where it broke off; nothing is printed twice.
    """
    import grpc

    # When each stream of each task was last heard of: now, and before this stream was opened.
    heard: dict[tuple[str, int], int] = {}
    before: dict[tuple[str, int], int] = {}
    deadline = 0.0
    try:
        while True:
            try:
                stream = session.logs.SubscribeLogs(SubscribeLogsRequest(selector=selector, options=options))
                async for answer in stream:
                    deadline = time.monotonic() + _RECONNECT_SECONDS
                    for warning in answer.warnings:
                        writer.warn(warning)
                    for message in answer.messages:
                        key, moment = (message.context.task_id, message.stream), message.timestamp.ToNanoseconds()
                        if moment > before.get(key, -1):
                            heard[key] = moment
                            await writer.write(message)
                    writer.flush()
                return
            except grpc.aio.AioRpcError as error:
                # The first try tells a person at once what is wrong.
                gone = error.code() == grpc.StatusCode.UNAVAILABLE and options.follow
                if not gone or time.monotonic() > deadline:
                    raise
            before = dict(heard)
            if heard:
                oldest = min(heard.values())
                options.since.CopyFrom(Timestamp(seconds=oldest // NANO, nanos=oldest % NANO))
                options.ClearField("tail")
            await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await writer.finish()
        writer.flush()
