"""`flota stack rm`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.lookup import fail_with
from flota.cli.session import Session, talks


@click.command(cls=Command, examples=["flota stack rm shop", "flota stack rm --detach shop monitoring"])
@click.option(
    "-d",
    "--detach/--no-detach",
    default=False,
    help="Return when all is removed that can be, without waiting for the last task to be cleaned up.",
)
@click.argument("names", nargs=-1, required=True, metavar="STACK...", shell_complete=completing.stacks)
@talks
async def rm(session: Session, names: tuple[str, ...], detach: bool) -> None:
    """Remove stacks: their services, networks, secrets and configs. Volumes stay."""
    from flota.cli.stack.inventory import inventory
    from flota.cli.stack.removing import remove_stack
    from flota.cli.stack.turns import turn

    failures: list[str] = []
    for name in names:
        if not await inventory(session, name):
            click.echo(f"Nothing found in stack: {name}", err=True)
            continue
        async with turn(session, name, click.echo):
            failures += await remove_stack(session, await inventory(session, name), click.echo, detach)
    fail_with(f"failed to remove {failure}" for failure in failures)
