"""Says once, on standard error, that what a command shows may be old (flota.rpc.staleness)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import grpc.aio

from flota.rpc.staleness import stale_reason


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
