"""Passing calls on as bytes: from a manager to the leader, from the daemon's socket to its processes.

Nothing is decoded on the way. The caller's identity goes along in the metadata; a receiver believes it only from a
manager's certificate (servers.py). When the caller gives up, the call that was passed on is cancelled with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from flota.rpc.callers import Caller
from flota.rpc.contract import Method, methods
from flota.rpc.errors import FlotaError, TurnedAway, Unavailable
from flota.rpc.staleness import CONSISTENCY_KEY, stale_metadata, stale_reason

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
CALLER_KEY = "flota-caller"
REQUEST_ID_KEY = "flota-request-id"
# In the trailers of an error that a handler raised, as opposed to one that the connection made.
ANSWERED_KEY = "flota-answered"
ANSWERED = ((ANSWERED_KEY, "1"),)
# Beside it when nothing has happened (TurnedAway): whoever passed the call on may ask another manager.
TURNED_AWAY_KEY = "flota-turned-away"
DROPPED = "the manager that was asked leads no longer: try again"

RENEWED = "this manager's certificate was replaced while it asked the leader: try again"


def kind_of(method: Method) -> str:
    """What gRPC calls a method of this kind: unary_unary, unary_stream, stream_unary, stream_stream."""
    return f"{'stream' if method.client_streams else 'unary'}_{'stream' if method.server_streams else 'unary'}"


def rpc_handler(method: Method, one: Any, many: Any, deserializer: Any, serializer: Any) -> Handler:
    """A handler of the method's kind: `one` answers with a message, `many` with a stream."""
    if method.client_streams:
        make = grpc.stream_stream_rpc_method_handler if method.server_streams else grpc.stream_unary_rpc_method_handler
    else:
        make = grpc.unary_stream_rpc_method_handler if method.server_streams else grpc.unary_unary_rpc_method_handler
    return make(many if method.server_streams else one, deserializer, serializer)


class LeaderLost(Exception):
    """A call that was passed on got no answer, because the manager that was asked is gone or leads no longer."""

    def __init__(self, reason: str, *, never_sent: bool) -> None:
        super().__init__(f"the leader cannot be reached ({reason}): try again in a moment")
        # Nothing has happened on the other side.
        self.never_sent = never_sent


async def pass_on(method: Method, channel: grpc.aio.Channel, request: bytes, context: Any, caller: Caller) -> bytes:
    """Ask the leader one thing as `caller`. Raises LeaderLost, and AioRpcError with what the leader answered."""
    metadata = [(key, value) for key, value in context.invocation_metadata() if key == REQUEST_ID_KEY]
    metadata.append((CALLER_KEY, caller.to_metadata()))
    ask: Any = channel.unary_unary(method.path)
    call = ask(request, metadata=metadata, timeout=context.time_remaining())
    try:
        answer = bytes(await call)
        await hand_on_staleness(call, context)
        return answer
    except asyncio.CancelledError:
        if not _was_dropped(call):
            raise
        raise LeaderLost("it leads no longer", never_sent=False) from None
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            # The root was replaced while the call was under way, and it showed the certificate of before.
            raise LeaderLost(details, never_sent=True) from None
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        if details.startswith("failed to connect to all addresses"):
            raise LeaderLost("it does not answer", never_sent=True) from None
        if _was_turned_away(error):
            raise LeaderLost(details, never_sent=True) from None
        if _was_answered(error):
            raise
        raise LeaderLost(details or "the connection broke", never_sent=False) from None


def passing_handler(
    method: Method,
    channel: grpc.aio.Channel,
    check: Callable[[Any], Caller | None],
    gone: str = "",
    anew: Callable[[], Awaitable[grpc.aio.Channel | None]] | None = None,
) -> Handler:
    """A handler that passes one call on to `channel`. `check` proves the caller and may raise a FlotaError.

    `gone` is what a caller is told whose call broke because the process that was asked ended; empty: gRPC's own words.
    `anew` gives another channel when the one who is asked does not know us: our certificate was replaced while the call
    was on its way. Nothing has happened then; what has one request is asked once more.
    """

    def begin(request: Any, context: Any, channel: grpc.aio.Channel = channel) -> Any:
        caller = check(context)
        kept = (REQUEST_ID_KEY, CONSISTENCY_KEY)
        metadata = [(key, value) for key, value in context.invocation_metadata() if key in kept]
        if caller is not None:
            metadata.append((CALLER_KEY, caller.to_metadata()))
        return getattr(channel, kind_of(method))(method.path)(
            request, metadata=metadata, timeout=context.time_remaining()
        )

    async def one(request: Any, context: Any) -> Any:
        call: Any = None
        try:
            call = begin(request, context)
            answer = await call
            await hand_on_staleness(call, context)
            return answer
        except asyncio.CancelledError:
            if not _was_dropped(call):
                raise
            return await context.abort(grpc.StatusCode.UNAVAILABLE, gone or DROPPED)
        except FlotaError as error:
            return await context.abort(error.code, str(error))
        except grpc.aio.AioRpcError as error:
            return await context.abort(error.code(), _words(error, gone))

    async def many(request: Any, context: Any) -> AsyncIterator[Any]:
        call: Any = None
        try:
            call = begin(request, context)
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                if anew is None or error.code() != grpc.StatusCode.UNAUTHENTICATED:
                    raise
                other = None if method.client_streams else await anew()
                if other is None:
                    raise Unavailable(RENEWED) from None
                call = begin(request, context, other)
                async for message in call:
                    yield message
            await hand_on_staleness(call, context)
        except asyncio.CancelledError:
            if not _was_dropped(call):
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, gone or DROPPED)
        except FlotaError as error:
            await context.abort(error.code, str(error))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), _words(error, gone))
        finally:
            if call is not None:
                call.cancel()

    return rpc_handler(method, one, many, None, None)


async def hand_on_staleness(call: Any, context: Any) -> None:
    """Tell our caller what the one who answered said of the answer's age."""
    stale = stale_metadata(stale_reason(await call.trailing_metadata()))
    if stale:
        context.set_trailing_metadata(stale)


def _was_dropped(call: Any) -> bool:
    """Whether the call ended because the channel below it was closed, and not because our own caller gave up."""
    task = asyncio.current_task()
    return call is not None and call.done() and task is not None and not task.cancelling()


def trailers_of(error: FlotaError) -> tuple[tuple[str, str], ...]:
    """What goes with an error that a handler raised."""
    return (*ANSWERED, (TURNED_AWAY_KEY, "1")) if isinstance(error, TurnedAway) else ANSWERED


def _was_turned_away(error: grpc.aio.AioRpcError) -> bool:
    return any(key == TURNED_AWAY_KEY for key, _ in error.trailing_metadata() or ())


def _was_answered(error: grpc.aio.AioRpcError) -> bool:
    """Whether a handler raised the error, and not the connection."""
    return any(key == ANSWERED_KEY for key, _ in error.trailing_metadata() or ())


def _words(error: grpc.aio.AioRpcError, gone: str) -> str:
    if gone and error.code() == grpc.StatusCode.UNAVAILABLE and not _was_answered(error):
        return gone
    return error.details() or ""


class Passing(grpc.GenericRpcHandler):
    """All methods of some services, passed on; `channel` is asked at every call and may raise a FlotaError.

    When that is Unavailable, calls wait for `until`, which gives a channel or raises a FlotaError. `gone`: see
    passing_handler.
    """

    def __init__(
        self,
        paths: list[str],
        channel: Callable[[], grpc.aio.Channel],
        gone: str = "",
        until: Callable[[], Awaitable[grpc.aio.Channel]] | None = None,
    ) -> None:
        self._methods: dict[str, Method] = {path: methods()[path] for path in paths}
        self._channel = channel
        self._gone = gone
        self._until = until

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Called by gRPC for each call."""
        method = self._methods.get(details.method)
        if method is None:
            return None
        try:
            channel = self._channel()
        except Unavailable as error:
            return refusing_handler(method, error) if self._until is None else self._later(method, self._until)
        except FlotaError as error:
            return refusing_handler(method, error)
        return passing_handler(method, channel, lambda _: None, self._gone)

    def _later(self, method: Method, until: Callable[[], Awaitable[grpc.aio.Channel]]) -> Handler:
        kind = kind_of(method)

        async def handler() -> Handler:
            try:
                return passing_handler(method, await until(), lambda _: None, self._gone)
            except FlotaError as error:
                return refusing_handler(method, error)

        async def one(request: Any, context: Any) -> Any:
            return await getattr(await handler(), kind)(request, context)

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            async for message in getattr(await handler(), kind)(request, context):
                yield message

        return rpc_handler(method, one, many, None, None)


def refusing_handler(method: Method, error: FlotaError) -> Handler:
    """A handler that fails with `error`."""

    async def one(_: Any, context: Any) -> None:
        await context.abort(error.code, str(error), trailers_of(error))

    async def many(_: Any, context: Any) -> AsyncIterator[Any]:
        await context.abort(error.code, str(error), trailers_of(error))
        yield None

    return rpc_handler(method, one, many, None, None)
