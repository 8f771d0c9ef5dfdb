"""Doing something to several things: each is tried, each failure gets its line, and any makes the exit status 1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import click

from flota.cli.failures import CommandFailed
from flota.cli.lookup import fail_with

if TYPE_CHECKING:
    from flota.cli.session import Session


async def for_each(session: Session, wanted: Iterable[str], act: Callable[[str], Awaitable[str]]) -> None:
    """Call `act` for each and print what it returns. Raises CommandFailed with all that went wrong."""
    import grpc

    from flota.cli.session import failure_of

    failures = []
    for each in wanted:
        try:
            line = await act(each)
        except CommandFailed as failure:
            failures.append(str(failure))
        except grpc.aio.AioRpcError as error:
            failures.append(str(failure_of(error, session.host)))
        else:
            click.echo(line)
    fail_with(failures)


async def remove_each(session: Session, wanted: Iterable[str], remove: Callable[[str], Awaitable[None]]) -> None:
    """Call `remove` for each and print its name. Raises CommandFailed with all that went wrong."""

    async def act(each: str) -> str:
        await remove(each)
        return each

    await for_each(session, wanted, act)
