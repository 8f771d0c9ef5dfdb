"""gRPC servers of flota: one on a unix socket for this machine, one with mutual TLS for other nodes.

Both run every call through the same gate: find the method's rule in the contract, prove the caller, refuse or go on,
pass it to the leader where the contract says so, and turn typed errors into statuses. A defect becomes INTERNAL with
one line for the caller and the trace in the log.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from flota.rpc.callers import (
    LOCAL,
    Authenticator,
    Caller,
    Trust,
    host_of_peer,
    set_caller,
)
from flota.rpc.channels import KEEPALIVE, MAX_MESSAGE_BYTES
from flota.rpc.contract import Method, methods
from flota.rpc.errors import FlotaError, NoLeader, PermissionDenied, TurnedAway, Unauthenticated
from flota.rpc.forward import (
    ANSWERED,
    CALLER_KEY,
    REQUEST_ID_KEY,
    Handler,
    LeaderLost,
    kind_of,
    pass_on,
    passing_handler,
    refusing_handler,
    rpc_handler,
    trailers_of,
)
from flota.rpc.identity import Identity
from flota.rpc.staleness import AS_ASKED, CONSISTENCY_KEY, STALE, begin_answer, stale_metadata
from flota.v1.auth_pb2 import Caller as Kind
from flota.v1.ids import new_id

_log = structlog.get_logger("rpc")

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
]
_NODE_OPTIONS: list[tuple[str, int]] = [
    *_OPTIONS,
    *KEEPALIVE,
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]

# A call whose leader is lost is asked again for so long: an election takes about a second.
_LEADER_PATIENCE = 3.0
_LEADER_PAUSE = 0.05


class Router(Protocol):
    """Where calls go that only the leader answers."""

    def check_ready(self) -> None:
        """Raises TurnedAway or Unavailable when this process can answer nothing, not even what it knows."""
        ...

    async def leader_channel(self) -> grpc.aio.Channel | None:
        """None when this process leads; raises Unavailable when nobody does."""
        ...

    def trouble(self) -> FlotaError | None:
        """Why nothing can be decided at the moment; None when it can, as far as is known."""
        ...


class Gate(grpc.aio.ServerInterceptor):
    """The one interceptor; see the module's docstring."""

    def __init__(self, authenticate: Authenticator | None, router: Router | None) -> None:
        self._authenticate = authenticate
        self._router = router

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Called by gRPC for each call before its handler."""
        method = methods().get(details.method)
        handler = await continuation(details)
        if method is None or handler is None:
            return handler
        metadata = dict(details.invocation_metadata or ())
        if method.to_leader and self._router is not None:
            if not method.client_streams and not method.server_streams:
                return self._led(method, handler, metadata, self._router)
            try:
                channel = await self._router.leader_channel()
            except FlotaError as error:
                return refusing_handler(method, error)
            if channel is not None:
                check = partial(self._check, method, metadata=metadata)
                return passing_handler(method, channel, check, anew=self._router.leader_channel)
        return _guarded(method, handler, self._check, metadata)

    def _led(self, method: Method, handler: Any, metadata: dict[str, Any], router: Router) -> Handler:
        """A handler that is answered by whoever leads, also when that changes meanwhile."""

        async def attempt(request: bytes, context: Any) -> bytes:
            stale = ""
            try:
                if method.only_reads and metadata.get(CONSISTENCY_KEY) == STALE:
                    router.check_ready()
                    channel, stale = None, AS_ASKED
                else:
                    channel = await router.leader_channel()
            except NoLeader as error:
                if not method.only_reads:
                    raise
                channel, stale = None, str(error)
            if channel is not None:
                return await pass_on(method, channel, request, context, self._check(method, context, metadata))
            behaviour: Any = _guarded(method, handler, self._check, metadata, stale, retried=True).unary_unary
            answer = await behaviour(handler.request_deserializer(request), context)
            serialized: bytes = handler.response_serializer(answer)
            return serialized

        async def one(request: bytes, context: Any) -> Any:
            limit = time.monotonic() + _LEADER_PATIENCE
            while True:
                try:
                    return await attempt(request, context)
                except LeaderLost as error:
                    if time.monotonic() > limit or not (error.never_sent or method.only_reads):
                        reason = router.trouble() or error
                        return await context.abort(grpc.StatusCode.UNAVAILABLE, str(reason), ANSWERED)
                    await asyncio.sleep(_LEADER_PAUSE)
                except TurnedAway as error:
                    # Leadership is on its way to somebody else. A manager that stops says so at once: ask another one.
                    if time.monotonic() > limit or not error.moves:
                        return await context.abort(error.code, str(error), trailers_of(error))
                    await asyncio.sleep(_LEADER_PAUSE)
                except FlotaError as error:
                    return await context.abort(error.code, str(error), trailers_of(error))
                except grpc.aio.AioRpcError as error:
                    return await context.abort(error.code(), error.details() or "", ANSWERED)

        return rpc_handler(method, one, None, None, None)

    def _check(self, method: Method, context: Any, metadata: dict[str, Any]) -> Caller:
        caller = self._caller(context, metadata)
        if caller.kind not in method.callers:
            who = Kind.Name(caller.kind).removeprefix("CALLER_").lower()
            raise PermissionDenied(f"a {who} may not call {method.path}")
        return caller

    def _caller(self, context: Any, metadata: dict[str, Any]) -> Caller:
        if self._authenticate is None:
            return LOCAL
        transport = context.auth_context()
        if not (shown := transport.get("x509_pem_cert")):
            raise Unauthenticated("a client certificate is needed")
        # What a client shows beside its own certificate; without that one, on a server's side.
        chain = transport.get("x509_pem_cert_chain", [b""])
        caller = self._authenticate(shown[0] + chain[0])
        forwarded = metadata.get(CALLER_KEY)
        if forwarded is not None:
            if caller.kind != Kind.CALLER_MANAGER:
                raise PermissionDenied("only managers may pass calls on for others")
            return Caller.from_metadata(forwarded)
        return replace(caller, address=host_of_peer(context.peer()))


Check = Callable[[Method, Any, dict[str, Any]], Caller]


async def _fail(context: Any, method: Method, error: Exception) -> None:
    if isinstance(error, FlotaError):
        await context.abort(error.code, str(error), trailers_of(error))
    _log.exception("call failed", method=method.path)
    await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def _guarded(
    method: Method, handler: Any, check: Check, metadata: dict[str, Any], stale: str = "", *, retried: bool = False
) -> Handler:
    """`handler` with identity, request id, log line and errors looked after.

    `stale`: why its answer is an old one. `retried`: the caller tries again when it is turned away.
    """
    behaviour = getattr(handler, kind_of(method))

    def enter(context: Any) -> None:
        set_caller(check(method, context, metadata))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=metadata.get(REQUEST_ID_KEY) or new_id()[:12])

    async def answer_one(request: Any, context: Any) -> Any:
        start = time.monotonic()
        made = begin_answer(stale)
        try:
            enter(context)
            result = await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except TurnedAway as error:
            if retried:
                raise
            return await _fail(context, method, error)
        except Exception as error:  # noqa: BLE001 - the last gate before the wire
            return await _fail(context, method, error)
        if made.stale:
            context.set_trailing_metadata(stale_metadata(made.stale))
        _log.debug("call", method=method.path, seconds=round(time.monotonic() - start, 4))
        return result

    async def answer_many(request: Any, context: Any) -> AsyncIterator[Any]:
        made = begin_answer()
        try:
            enter(context)
            async for message in behaviour(request, context):
                yield message
            if made.stale:
                context.set_trailing_metadata(stale_metadata(made.stale))
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the last gate before the wire
            await _fail(context, method, error)

    return rpc_handler(method, answer_one, answer_many, handler.request_deserializer, handler.response_serializer)


def local_server(path: Path, router: Router | None = None) -> grpc.aio.Server:
    """A server on a unix socket that only root may use; add servicers, then start it. Replaces a stale socket."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = grpc.aio.server(interceptors=[Gate(None, router)], options=_OPTIONS)
    if server.add_insecure_port(f"unix://{path}") == 0:
        raise OSError(f"cannot listen on {path}")
    return server


def node_server(
    identity: Identity, trust: Callable[[], Trust], listen: str, router: Router | None = None
) -> grpc.aio.Server:
    """A server for other nodes on `listen` (host:port), mutual TLS; add servicers, then start it.

    `trust` is asked at every handshake and every call, so that rotated tokens and removed nodes count at once.
    Raises OSError when the address cannot be had.
    """
    # Only who answers other nodes has to prove who they are, and loads the library for it.
    from flota.rpc.authentication import CertificateAuthenticator

    shown: Trust | None = None

    def configuration() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        now = trust()
        if not identity.reload() and now is shown:
            return None
        shown = now
        roots = now.root_pem + b"".join(pem for pem, _ in now.joiners)
        return grpc.ssl_server_certificate_configuration([(identity.key_pem, identity.certificate_pem)], roots)

    first = configuration()
    assert first is not None
    credentials = grpc.dynamic_ssl_server_credentials(
        first,
        configuration,  # type: ignore[arg-type]  # None = unchanged, which the stubs do not know
        require_client_authentication=True,
    )
    server = grpc.aio.server(interceptors=[Gate(CertificateAuthenticator(trust), router)], options=_NODE_OPTIONS)
    try:
        bound = server.add_secure_port(listen, credentials)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise OSError(f"cannot listen on {listen}: {_why_not(listen)}")
    return server


def _why_not(listen: str) -> str:
    """What the kernel has against an address; gRPC keeps that to itself."""
    host, _, port = listen.rpartition(":")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another process is listening there"
        return error.strerror or str(error)
    except ValueError:
        return "host:port is needed"
    return "another process was listening there"
