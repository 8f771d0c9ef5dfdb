"""/events: the store's watch in Docker's words. What was before the request is not remembered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc
import grpc.aio
from aiohttp import web

from flota.gateway.filters import Filters
from flota.gateway.http import Call, Route
from flota.gateway.streams import Streaming
from flota.gateway.translation.events import KINDS, Event, events_of
from flota.gateway.translation.machine import is_manager
from flota.gateway.translation.words import parse_time
from flota.rpc.errors import InvalidArgument
from flota.v1.control_pb2 import WatchRequest
from flota.v1.local_pb2 import InfoRequest

_FILTERS = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret",
    "service", "type", "volume",
)  # fmt: skip
_KINDS = (*KINDS, "task")
# A manager that lost its leadership ends the watch; another one leads well within this time.
_PAUSE, _PATIENCE = 0.2, 30.0


def _until(call: Call) -> float | None:
    """Seconds until the stream shall end; None for never."""
    if call.query("until") in ("", "0"):
        return None
    try:
        moment = parse_time(call.query("until"))
    except ValueError:
        raise InvalidArgument.of("until", call.query("until"), "Unix seconds or RFC 3339 are needed") from None
    return max(0.0, moment.seconds + moment.nanos / 1e9 - time.time())


def _passes(event: Event, wanted: Filters) -> bool:
    name = event.attributes.get("name", "")
    return (
        wanted.equals("type", event.type)
        and wanted.equals("event", event.action)
        and wanted.equals("scope", event.scope)
        and wanted.labels("label", event.attributes)
        and all(event.type == kind and wanted.starts(kind, event.id, name) for kind in _NAMED if kind in wanted)
    )


_NAMED = ("config", "container", "network", "node", "secret", "service")


async def events(call: Call) -> web.StreamResponse:
    """Stream them as they happen, until `until` or for ever."""
    wanted = call.filters(*_FILTERS)
    limit = _until(call)
    info = await call.backend.local.Info(InfoRequest())
    # The answer begins once nothing can be missed any longer: clients then do what they want to see the events of.
    watch = await _opened(call) if is_manager(info) else None
    async with Streaming(call, "application/json") as out:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                if watch is None:
                    await asyncio.get_running_loop().create_future()
                else:
                    await _follow(call, watch, out, wanted, info.node_id)
    return out.response


async def _opened(call: Call) -> Any:
    """A watch that has said what is there already: what comes from now on is news."""
    watch = call.backend.control.Watch(
        WatchRequest(selectors=[WatchRequest.Selector(kind=kind) for kind in _KINDS], include_existing=True)
    )
    async for message in watch:
        if not message.kind:
            break
    return watch


async def _follow(call: Call, watch: Any, out: Streaming, wanted: Filters, node_id: str) -> None:
    broken = 0.0
    while True:
        try:
            watch = watch or await _opened(call)
            async for message in watch:
                broken = 0.0
                for event in events_of(message, node_id):
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
