"""`flota stats`."""

from __future__ import annotations

import sys

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.options import format_option
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=[
        "flota stats",
        "flota stats --no-stream web db.1",
        "flota stats --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}'",
    ],
)
@click.option("--no-stream", is_flag=True, help="Once, not again and again.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@format_option
@click.argument("tasks", nargs=-1, metavar="[TASK|SERVICE.SLOT...]", shell_complete=completing.tasks)
@talks
async def stats(session: Session, tasks: tuple[str, ...], no_stream: bool, no_trunc: bool, form: str | None) -> None:
    """Show what tasks use: processor, memory, network, disks, processes. All that run, or those named."""
    from flota.cli.stats import Board, once, watch

    board = Board(form, no_trunc)
    if no_stream:
        await once(session, tasks, board)
    else:
        await watch(session, tasks, board, live=sys.stdout.isatty())
