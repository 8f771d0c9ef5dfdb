"""/services/{id}/logs, /tasks/{id}/logs and /containers/{id}/logs: lines as Docker's clients take them apart."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import quote_plus

import grpc.aio
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp

from flota.gateway.http import Call, Route
from flota.gateway.streams import MULTIPLEXED, RAW, STDERR, STDOUT, Streaming, frame
from flota.gateway.translation.words import iso_time, parse_time
from flota.rpc.errors import InvalidArgument
from flota.v1.control_pb2 import GetServiceRequest, GetTaskRequest
from flota.v1.logs_pb2 import LogMessage, LogOptions, LogSelector, LogStream, SubscribeLogsMessage, SubscribeLogsRequest

_LABEL = "com.docker.swarm"
Subscription: TypeAlias = "grpc.aio.UnaryStreamCall[Any, SubscribeLogsMessage]"


def options(call: Call) -> LogOptions:
    """What the query asks for. Raises InvalidArgument."""
    wanted = LogOptions(follow=call.flag("follow"))
    tail = call.query("tail")
    if tail not in ("", "all"):
        if not (tail.isascii() and tail.isdigit()):
            raise InvalidArgument.of("tail", tail, "a number of lines or all is needed")
        wanted.tail = int(tail)
    if call.query("since") not in ("", "0"):
        wanted.since.CopyFrom(_time(call, "since"))
    if call.query("until") not in ("", "0"):
        wanted.until.CopyFrom(_time(call, "until"))
    if call.flag("stdout"):
        wanted.streams.append(LogStream.LOG_STREAM_STDOUT)
    if call.flag("stderr"):
        wanted.streams.append(LogStream.LOG_STREAM_STDERR)
    if not wanted.streams:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return wanted


def _time(call: Call, name: str) -> Timestamp:
    try:
        return parse_time(call.query(name))
    except ValueError:
        needed = "Unix seconds or a time such as 2026-01-31T13:45:00Z are needed"
        raise InvalidArgument.of(name, call.query(name), needed) from None


async def service(call: Call) -> web.StreamResponse:
    """Lines of all tasks of a service."""
    found = (await call.backend.control.GetService(GetServiceRequest(service_id=call.name()))).service
    return await _subscribed(call, LogSelector(service_ids=[found.id]), found.spec.task.container.tty)


async def task(call: Call) -> web.StreamResponse:
    """Lines of one task."""
    found = (await call.backend.control.GetTask(GetTaskRequest(task_id=call.name()))).task
    return await _subscribed(call, LogSelector(task_ids=[found.id]), found.spec.container.tty)


async def _subscribed(call: Call, selector: LogSelector, tty: bool) -> web.StreamResponse:
    request = SubscribeLogsRequest(selector=selector, options=options(call))
    return await lines(call, call.backend.logs.SubscribeLogs(request), tty)


async def lines(call: Call, subscription: Subscription, tty: bool, *, of_task: bool = True) -> web.StreamResponse:
    """Stream what comes, each line framed unless the container has a terminal; details are a task's."""
    timestamps, details = call.flag("timestamps"), call.flag("details")
    modern = call.version >= (1, 42)
    async with Streaming(call, (RAW if tty else MULTIPLEXED) if modern else RAW) as out:
        try:
            async for batch in subscription:
                parts = bytearray()
                for message in batch.messages:
                    text = _line(message, timestamps, details, of_task)
                    parts += text if tty else frame(_number(message), text)
                if parts:
                    await out.write(bytes(parts))
        finally:
            subscription.cancel()
    return out.response


def _number(message: LogMessage) -> int:
    return STDERR if message.stream == LogStream.LOG_STREAM_STDERR else STDOUT


def _line(message: LogMessage, timestamps: bool, details: bool, of_task: bool) -> bytes:
    """`TIME KEY=VALUE,… LINE`, as far as it was asked for."""
    before = f"{iso_time(message.timestamp)} " if timestamps else ""
    if details:
        context = message.context
        pairs = (("node.id", context.node_id), ("service.id", context.service_id), ("task.id", context.task_id))
        before += ",".join(f"{_LABEL}.{key}={quote_plus(value)}" for key, value in pairs if of_task) + " "
    return before.encode() + message.data


ROUTES: list[Route] = [("GET", "/services/{id}/logs", service), ("GET", "/tasks/{id}/logs", task)]
