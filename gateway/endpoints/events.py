"""/events: the store's watch, and what this node tells of its containers, in Docker's words.

Of the past managers remember the swarm's, the node the last of its containers'.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp

from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route
from flota.gateway.streams import Streaming
from flota.gateway.translation.events import KINDS, Event, event_of, events_of
from flota.gateway.translation.machine import is_manager
from flota.gateway.translation.words import parse_time
from flota.rpc.errors import InvalidArgument
from flota.v1.containers_pb2 import WatchContainersRequest
from flota.v1.control_pb2 import EventsRequest, WatchRequest
from flota.v1.local_pb2 import InfoRequest

_FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret",
    "service", "type", "volume",
)  # fmt: skip
# A manager that lost its leadership ends the watch; another one leads well within this time.
_PAUSE, _PATIENCE = 0.2, 30.0


def _moment(call: Call, name: str) -> Timestamp | None:
    """A time in the query; None when there is none. Raises InvalidArgument."""
    if not call.query(name):
        return None
    try:
        return parse_time(call.query(name))
    except ValueError:
        raise InvalidArgument.of(name, call.query(name), "Unix seconds or RFC 3339 are needed") from None


def _passes(event: Event, wanted: Filters) -> bool:
    name = event.attributes.get("name", "")
    return (
        wanted.equals("type", event.type)
        and wanted.equals("event", event.action, event.action.partition(":")[0])
        and wanted.equals("scope", event.scope)
        and wanted.labels("label", event.attributes)
        and all(event.type == kind and wanted.starts(kind, event.id, name) for kind in _NAMED if kind in wanted)
    )


_NAMED = ("config", "container", "network", "node", "secret", "service")


async def events(call: Call) -> web.StreamResponse:
    """Stream them, those since `since` first, as they happen until `until` or for ever."""
    wanted = call.filters(*_FILTERS)
    since, until = _moment(call, "since"), _moment(call, "until")
    if until == Timestamp():
        # Old clients' word for no end; as `since` it is everything that is remembered.
        until = None
    limit = None if until is None else max(0.0, until.ToNanoseconds() / 1e9 - time.time())
    info = await call.backend.local.Info(InfoRequest())
    # The answer begins once nothing can be missed any longer: clients then do what they want to see the events of.
    watch, version = await _opened(call) if is_manager(info) else (None, 0)
    containers, past = await _opened_containers(call, since)
    async with Streaming(call, "application/json") as out:
        if watch is not None and since is not None:
            past += await _past(call, EventsRequest(since=since, until=until), version)
        for at, event in sorted(past, key=lambda one: one[0]):
            if _passes(event, wanted) and (until is None or at <= until.ToNanoseconds()):
                await out.line(event.shape(at))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                following = [_follow(call, watch, out, wanted)] if watch is not None else []
                await asyncio.gather(*following, _follow_containers(containers, out, wanted))
    return out.response


async def _opened_containers(call: Call, since: Timestamp | None) -> tuple[Any, list[tuple[int, Event]]]:
    """A watch over this machine's containers that misses nothing, and what has happened before."""
    watch = call.backend.containers.WatchContainers(WatchContainersRequest(since=since))
    past: list[tuple[int, Event]] = []
    async for told in watch:
        if not told.action:
            break
        past.append((told.at.ToNanoseconds(), event_of(told)))
    return watch, past


async def _follow_containers(watch: Any, out: Streaming, wanted: Filters) -> None:
    try:
        async for told in watch:
            event = event_of(told)
            if _passes(event, wanted):
                await out.line(event.shape(told.at.ToNanoseconds()))
    finally:
        watch.cancel()


async def _past(call: Call, request: EventsRequest, version: int) -> list[tuple[int, Event]]:
    """What managers remember of the swarm, up to the version at which the watch begins, with when it was."""
    return [
        (told.at.ToNanoseconds(), Event(told.kind, told.action, told.id, dict(told.attributes)))
        async for told in call.backend.control.Events(request)
        if told.kind in KINDS and told.version.index <= version
    ]


async def _opened(call: Call) -> tuple[Any, int]:
    """A watch that has said what is there already, and at which version: what comes from now on is news."""
    watch = call.backend.control.Watch(
        WatchRequest(selectors=[WatchRequest.Selector(kind=kind) for kind in KINDS], include_existing=True)
    )
    async for message in watch:
        if not message.kind:
            return watch, message.version.index
    return watch, 0


async def _follow(call: Call, watch: Any, out: Streaming, wanted: Filters) -> None:
    broken = 0.0
    while True:
        try:
            if watch is None:
                watch, _ = await _opened(call)
            async for message in watch:
                broken = 0.0
                for event in events_of(message):
                    if _passes(event, wanted):
                        await out.line(event.shape(time.time_ns()))
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise
            broken = broken or time.monotonic()
            if time.monotonic() - broken > _PATIENCE:
                raise
        finally:
            if watch is not None:
                watch.cancel()
        watch = None
        await asyncio.sleep(_PAUSE)


ROUTES: list[Route] = [("GET", "/events", events)]
