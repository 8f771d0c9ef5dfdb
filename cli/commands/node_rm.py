"""`flota node rm`."""

from __future__ import annotations

import click

from flota.cli import completing, lookup
from flota.cli.groups import Command
from flota.cli.session import Session, talks
from flota.cli.several import remove_each


@click.command(cls=Command, examples=["flota node rm w3", "flota node rm --force w3"])
@click.option("-f", "--force", is_flag=True, help="Also when the node is up.")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=completing.nodes)
@talks
async def rm(session: Session, nodes: tuple[str, ...], force: bool) -> None:
    """Remove nodes that are down; their certificates are refused from then on."""
    from flota.v1.control_pb2 import RemoveNodeRequest

    async def remove(wanted: str) -> None:
        found = await lookup.node(session, wanted)
        await session.control.RemoveNode(RemoveNodeRequest(node_id=found.id, force=force))

    await remove_each(session, nodes, remove)
