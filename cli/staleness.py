"""Answers that may be old (flota.rpc.staleness): asks for one, or says on standard error that a command shows one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import grpc.aio

from flota.rpc.staleness import CONSISTENCY_KEY, stale_reason


class StaleWarning(grpc.aio.UnaryUnaryClientInterceptor):
    """Looks at the trailing metadata of every answer."""

    def __init__(self) -> None:
        self._said = False

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Called by gRPC for each call."""
        call = await continuation(client_call_details, request)
        reason = stale_reason(await call.trailing_metadata())
        if reason and not self._said:
            self._said = True
            click.echo(f"flota: warning: this may be old: {reason}", err=True)
        return call


class Consistency(grpc.aio.UnaryUnaryClientInterceptor):
    """Says with every call which consistency its answer needs (`--consistency`)."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Called by gRPC for each call."""
        metadata = [*(client_call_details.metadata or ()), (CONSISTENCY_KEY, self._wanted)]
        return await continuation(client_call_details._replace(metadata=grpc.aio.Metadata(*metadata)), request)
