"""`inspect`, the same for all kinds: what is there is printed, each thing that is not gets its line and status 1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flota.cli import lookup
from flota.cli.failures import BadFlag

if TYPE_CHECKING:
    from flota.cli.session import Session

T = TypeVar("T")


async def inspect_each(
    session: Session,
    wanted: Iterable[str],
    find: Callable[[Session, str], Awaitable[T]],
    shape: Callable[[T], Any],
    form: str | None,
    pretty: Callable[[T], str] | None = None,
) -> None:
    """Print each thing that `find` finds: `shape` makes JSON of it, `pretty` (when given) lines for people.

    Raises BadFlag for a bad template, CommandFailed when something was not found.
    """
    if pretty is not None and form:
        raise BadFlag("--pretty and --format cannot be combined: choose one")
    found, failures = await lookup.each(session, find, wanted)
    if pretty is not None:
        click.echo("\n".join(pretty(thing) for thing in found), nl=False)
    elif found or not form:
        from flota.cli.output.objects import print_objects

        print_objects(map(shape, found), form)
    lookup.fail_with(failures)
