"""`flota node inspect`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command
from flota.cli.inspection import inspect_each
from flota.cli.options import inspect_format_option, pretty_option
from flota.cli.session import Session, talks


@click.command(
    cls=Command,
    examples=[
        "flota node inspect self",
        "flota node inspect --pretty w1",
        "flota node inspect --format '{{.Status.Addr}}' w1 w2",
    ],
)
@inspect_format_option
@pretty_option
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=completing.nodes)
@talks
async def inspect(session: Session, nodes: tuple[str, ...], form: str | None, pretty: bool) -> None:
    """Show nodes as JSON in the shape of Docker's API, or for people. `self` is the node you talk to."""
    from flota.cli.output.pretty_node import pretty_node
    from flota.gateway.translation.shown import node as shape

    await inspect_each(session, nodes, lookup.node, shape, form, pretty_node if pretty else None)
