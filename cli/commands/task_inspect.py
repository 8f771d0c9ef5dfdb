"""`flota task inspect`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command
from flota.cli.inspection import inspect_each
from flota.cli.options import inspect_format_option
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=["flota task inspect 3k1q8w2v0c9d", "flota task inspect --format '{{.Status.State}}' web.1"],
)
@inspect_format_option
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...", shell_complete=completing.tasks)
@talks
async def inspect(session: Session, tasks: tuple[str, ...], form: str | None) -> None:
    """Show tasks as JSON in the shape of Docker's API."""
    from flota.gateway.translation import shown

    await inspect_each(session, tasks, lookup.task_in_slot, shown.task, form)
