"""`flota stack diff`."""

from __future__ import annotations

import click

from flota.cli import completing
from flota.cli.groups import Command
from flota.cli.options import data_format_option
from flota.cli.session import Session, talks
from flota.cli.stack.project import file_options, load_stack


@click.command(
    cls=Command,
    examples=[
        "flota stack diff -c compose.yml shop",
        "flota stack diff -c compose.yml --prune --format json shop | jq '.steps[] | select(.restarts) | .name'",
    ],
)
@file_options
@click.option("--prune", is_flag=True, help="As if deployed with --prune.")
@data_format_option
@click.argument("name", required=False, metavar="[STACK]", shell_complete=completing.stacks)
@talks
async def diff(
    session: Session,
    files: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    name: str | None,
    prune: bool,
    form: str | None,
) -> None:
    """Show what deploying the files would change, and change nothing.

    The exit status is 0 when it would change nothing, 2 when it would, 1 when it is not known.
    """
    from flota.cli.stack.planning import show_plan

    stack = load_stack(files, env_files, profiles, name)
    for warning in stack.warnings:
        click.echo(f"Warning: {warning}", err=True)
    await show_plan(session, stack, prune, "always", form)
